"""This module keeps answers that not everybody may have out of caches that serve everybody (PUBLIC_PAGES=private)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PRIVATE = "private"
"""Key set in the ASGI scope of a request that is answered because its client is trusted."""
_CACHE_CONTROL = (b"cache-control", b"private, no-cache")


class PrivateAnswers:
    """ASGI middleware: lets only the client itself keep such an answer, and asks it to come back before it uses it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def kept_by_nobody_else(message: Message) -> None:
            if message["type"] == "http.response.start" and PRIVATE in scope:
                headers = message["headers"]
                if (b"cache-control", b"no-store") not in headers:
                    headers = [*(header for header in headers if header[0] != b"cache-control"), _CACHE_CONTROL]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, kept_by_nobody_else)
