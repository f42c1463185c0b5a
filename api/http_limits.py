"""Bounds on what a connection may send: uvicorn's httptools protocol has none.

Without them one client makes the process hold hundreds of megabytes of header or trailer, or a file for each
connection that says nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

MAX_REQUEST_BYTES = 64 * 1024
"""Of one request: its head, and a body that no route reads."""
REQUEST_WITHIN = 20.0
"""Seconds for a whole request to arrive, the first one from its connection's beginning; it has at least half of it."""
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedHttp(HttpToolsProtocol):
    """For `uvicorn.run(http=…)`. Costs a request that arrives in one piece a comparison, and no timer."""

    _partial: object = None
    """The scope of the request that `_received` counts the bytes of."""
    _received = 0
    _late: object = None
    """The same of the request that was not whole when `_watch` last looked; this object before the first one."""
    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch = self.loop.call_later(REQUEST_WITHIN / 2, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._mid_request():
            if self._partial is not self.scope:
                self._partial, self._received = self.scope, 0
            self._received += len(data)
            if self._received > MAX_REQUEST_BYTES and not self.transport.is_closing():
                self._refuse()

    def _mid_request(self) -> bool:
        """Whether more of the latest request, or the first one, has to arrive."""
        cycle = self.cycle
        return cycle is None or cycle.more_body or cycle.scope is not self.scope

    def _refuse(self) -> None:
        cycle = self.cycle
        if cycle is None or (cycle.response_complete and cycle.scope is not self.scope):
            self.transport.write(_TOO_LARGE)  # else this would be taken for the answer to another request
        self.transport.close()

    def _look(self) -> None:
        """Close the connection if the request that was not whole at the last look still is not."""
        partial = (self.scope or self) if self._mid_request() else None
        if partial is not None and partial is self._late:
            self.transport.close()
            return
        self._late = partial
        self._watch = self.loop.call_later(REQUEST_WITHIN / 2, self._look)
