"""This module lets other sites' pages read every answer of an API route: errors of the router and preflights too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from api.http.headers import CORS, PREFLIGHT, is_api

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ALLOWED = b"access-control-allow-origin"
_CORS = [(name.encode(), value.encode()) for name, value in CORS.items()]


class Cors:
    """ASGI middleware: answers `OPTIONS`, and adds the CORS headers that a response does not have yet."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_api(scope["path"]):
            await self.app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await Response(status_code=204, headers=PREFLIGHT)(scope, receive, send)
            return

        async def with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                if not any(name == _ALLOWED for name, _ in headers):
                    message = {**message, "headers": [*headers, *_CORS]}
            await send(message)

        await self.app(scope, receive, with_cors)
