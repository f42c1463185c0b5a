"""This module gives each request that a handler answers an id: the client's, if it is well formed, else a new one.

The id is in the answer's `X-Request-ID` and in all log lines about the request, and goes with a check to the worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from shared import request_id

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADER = request_id.HEADER.lower().encode()


class RequestId:
    """ASGI middleware: binds `request_id` for structlog, and returns it to the caller."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == _HEADER), b"").decode("latin-1")
        current = request_id.sane(given) or request_id.new()

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (_HEADER, current.encode())]}
            await send(message)

        # Not unbound again: the server runs each request in a task, and so in a context, of its own.
        structlog.contextvars.bind_contextvars(request_id=current)
        await self.app(scope, receive, with_id)


def current_request_id() -> str:
    """Return the id of the request that this task works for; empty outside of one."""
    bound: str = structlog.contextvars.get_contextvars().get("request_id", "")
    return bound
