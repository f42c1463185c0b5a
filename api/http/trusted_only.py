"""This module keeps answers that only trusted networks may read out of shared caches, and from other sites' pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MARK = "petals.trusted_only"
"""The key in a request's scope by which a handler says that its answer is not for strangers."""
_REPLACED = (b"cache-control", b"access-control-allow-origin")
_NOT_KEPT = (b"cache-control", b"no-store")


class TrustedOnly:
    """ASGI middleware, around `Cors`: a proxy would give strangers what it keeps, a browser what its user may read."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start" and MARK in scope:
                given = message["headers"]
                kept = _NOT_KEPT if _NOT_KEPT in given else (b"cache-control", b"private, no-cache")
                headers = [*(pair for pair in given if pair[0] not in _REPLACED), kept]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, send_marked)
