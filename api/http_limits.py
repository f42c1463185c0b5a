"""Bounds on what a connection may send before it has asked anything: uvicorn's httptools protocol has none.

Without them one client makes the process hold hundreds of megabytes of header, or a file for each connection
that says nothing. Bodies need no bound: no route reads one, and uvicorn stops reading after 64 kB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

MAX_HEAD_BYTES = 64 * 1024
HEAD_WITHIN = 20.0
"""Seconds for a request's first line and headers to arrive, from the connection's or the request's beginning."""
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedHttp(HttpToolsProtocol):
    """For `uvicorn.run(http=…)`."""

    _head_bytes = 0
    _in_head = True
    _head_began = 0.0
    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head_began = self.loop.time()
        self._watch = self.loop.call_later(HEAD_WITHIN, self._look_at_head)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes, self._in_head, self._head_began = 0, True, self.loop.time()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._head_bytes += len(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def _look_at_head(self) -> None:
        """Close the connection if its head is late, else come back; a timer for each request would cost more."""
        left = self._head_began + HEAD_WITHIN - self.loop.time() if self._in_head else HEAD_WITHIN
        if left <= 0:
            self.transport.close()
        else:
            self._watch = self.loop.call_later(left, self._look_at_head)
