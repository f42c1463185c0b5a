"""This module bounds what a connection may send, how long it may leave an answer unread, and how long it may idle.

uvicorn's httptools protocol lacks the first two bounds: one client could make the process hold hundreds of megabytes of
headers, or a socket and an answer for each silent connection. The third is uvicorn's own keep-alive time, for which
uvicorn sets a timer per request; here one timer per connection checks all three every few seconds.
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
UNREAD_WITHIN = 60.0
"""Seconds in which a client reads at least some of an answer that waits for it; the next inspection cuts it off."""
READ_WITHIN = 600.0
"""Seconds for the whole of an answer: 13 MB at 22 kB/s."""
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


ENDLESS = "endless"
"""Key set in the ASGI scope of an answer without an end, such as an event stream."""


class BoundedHttp(HttpToolsProtocol):
    """For `uvicorn.run(http=…)`. A request that arrives in one piece costs one comparison more, and no timer."""

    _partial: object = None
    """The scope of the request that `_received` counts the bytes of."""
    _received = 0
    _awaited: object = None
    """What the last inspection waited for: the latest request (its scope), or the first one (`self`)."""
    _still = 0.0
    """Seconds for which it has been the same."""
    _unread: tuple[object, int] = (None, 0)
    """The answer that the client had not read at the last inspection, and its bytes left."""
    _reading = 0.0
    """Seconds for which the client has been reading this answer."""
    _stuck = 0.0
    """Seconds for which the client has read nothing of it."""
    _next_inspection: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._next_inspection = self.loop.call_later(REQUEST_WITHIN / 2, self._inspect)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._next_inspection is not None:
            self._next_inspection.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close event streams, which would keep the process from ending; their readers connect to another replica."""
        super().shutdown()
        if self.scope is not None and ENDLESS in self.scope:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._mid_request():
            if self._partial is not self.scope:
                self._partial, self._received = self.scope, 0
            self._received += len(data)
            if self._received > MAX_REQUEST_BYTES and not self.transport.is_closing():
                self._refuse()

    def on_response_complete(self) -> None:
        # What uvicorn does here, but for its timer.
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def _mid_request(self) -> bool:
        """Whether more of the latest request, or the first one, has to arrive."""
        cycle = self.cycle
        return cycle is None or cycle.more_body or cycle.scope is not self.scope

    def _refuse(self) -> None:
        cycle = self.cycle
        if cycle is None or (cycle.response_complete and cycle.scope is not self.scope):
            self.transport.write(_TOO_LARGE)  # else this would be taken for the answer to another request
        self.transport.close()

    def _inspect(self) -> None:
        """End the connection if its peer has been still for too long, or reads too slowly."""
        self._next_inspection = self.loop.call_later(REQUEST_WITHIN / 2, self._inspect)
        if self._reads_too_slowly():
            self.transport.abort()  # close() would wait until the client has read the rest
            return
        if self.transport.is_closing():
            return
        mid_request = self._mid_request()
        awaited = (self.scope or self) if mid_request or self.cycle.response_complete else None
        if awaited is not None and awaited is self._awaited:
            self._still += REQUEST_WITHIN / 2
        else:
            self._awaited, self._still = awaited, 0.0
        if self._still >= (REQUEST_WITHIN / 2 if mid_request else self.timeout_keep_alive):
            self.transport.close()

    def _reads_too_slowly(self) -> bool:
        left = self.transport.get_write_buffer_size()
        if not left:
            self._unread = (None, 0)
            return False
        cycle, before = self._unread
        same = cycle is self.cycle
        self._reading = self._reading + REQUEST_WITHIN / 2 if same else 0.0
        self._stuck = self._stuck + REQUEST_WITHIN / 2 if same and left >= before else 0.0
        self._unread = (self.cycle, left)
        return self._stuck >= UNREAD_WITHIN or self._reading >= READ_WITHIN
