"""Distance on one machine: a TCP proxy that hands on all bytes a fixed time later, in both directions.

`tc netem` would be the simpler way, but not every kernel has it. Only the bytes are late: a TCP handshake
ends at once, so a new connection seems one round trip nearer than it would be.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast


class DelayingProxy:
    """Listens on a free port of 127.0.0.1 for each target port."""

    def __init__(self, one_way: float) -> None:
        self._one_way = one_way
        self._servers: list[asyncio.Server] = []

    async def in_front_of(self, port: int) -> int:
        """Return the port on which 127.0.0.1:`port` seems `one_way` seconds away."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Side(self._one_way, port), "127.0.0.1", 0, backlog=4096)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def close(self) -> None:
        for server in self._servers:
            server.close()


class _Side(asyncio.Protocol):
    """One of the two connections of a pair; what it hears, the other one says later. `None` stands for the end."""

    def __init__(self, one_way: float, target: int | None = None) -> None:
        self._one_way = one_way
        self._target = target
        self.transport: asyncio.Transport | None = None
        self._other: _Side | None = None
        self._on_the_way: deque[bytes | None] = deque()
        self._arrived = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._target is not None:
            self._task = asyncio.get_running_loop().create_task(self._reach(self._target))

    async def _reach(self, port: int) -> None:
        other = _Side(self._one_way)
        other.pair_with(self)
        try:
            await asyncio.get_running_loop().create_connection(lambda: other, "127.0.0.1", port)
        except OSError:
            if self.transport is not None:
                self.transport.abort()
            return
        self._other = other
        self._deliver()

    def pair_with(self, other: _Side) -> None:
        self._other = other

    def data_received(self, data: bytes) -> None:
        self._send_on(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._send_on(None)

    def _send_on(self, data: bytes | None) -> None:
        self._on_the_way.append(data)
        asyncio.get_running_loop().call_later(self._one_way, self._arrive)

    def _arrive(self) -> None:
        self._arrived += 1
        self._deliver()

    def _deliver(self) -> None:
        """Say what has arrived, once the other side is there to say it."""
        transport = self._other.transport if self._other is not None else None
        if transport is None:
            return
        while self._arrived:
            self._arrived -= 1
            data = self._on_the_way.popleft()
            if transport.is_closing():
                continue
            if data is None:
                transport.close()
            else:
                transport.write(data)
