"""This module sends many requests to a node on one stream: opening one costs p2pd and the node more than a request."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from shared.p2p.kad_messages import read_message

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

    from shared.p2p.daemon import Daemon

KEPT = 128
"""Idle streams kept per node, for the next requests: about as many as a crawl of a large swarm uses at once. With 32,
half of its requests opened a stream of their own."""


class _Stream(NamedTuple):
    reader: StreamReader
    writer: StreamWriter


class RequestStreams:
    """Streams of one protocol of length-prefixed requests and answers. A peer may close one at any time."""

    def __init__(self, daemon: Daemon, protocol: str) -> None:
        self._daemon = daemon
        self._protocol = protocol
        self._idle: dict[str, list[_Stream]] = {}
        """By peer id; peers whose streams are not kept have no entry."""
        self._closed = False

    async def ask(self, peer_id: str, request: bytes, *, keep: bool) -> bytes:
        """Return a connected peer's answer; `keep`: more requests to it will follow. Has no timeout.

        Raises what `Daemon.open_stream` raises, `EOFError` for an answer that ends early, `ValueError` for one that
        is too long. Such a stream is closed, as is one whose answer the caller does not wait for.
        """
        while idle := self._idle.get(peer_id):
            with suppress(OSError, EOFError):  # closed since its last answer
                return await self._ask_on(idle.pop(), peer_id, request, keep=keep)
        stream = _Stream(*await self._daemon.open_stream(peer_id, self._protocol))
        return await self._ask_on(stream, peer_id, request, keep=keep)

    async def _ask_on(self, stream: _Stream, peer_id: str, request: bytes, *, keep: bool) -> bytes:
        try:
            stream.writer.write(request)
            await stream.writer.drain()
            answer = await read_message(stream.reader)
        except BaseException:
            stream.writer.close()
            raise
        if keep and not self._closed and len(idle := self._idle.setdefault(peer_id, [])) < KEPT:
            idle.append(stream)
        else:
            stream.writer.close()
        return answer

    def close(self) -> None:
        """Close the idle streams, and from now on each one after its answer."""
        self._closed = True
        for stream in (stream for idle in self._idle.values() for stream in idle):
            stream.writer.close()
        self._idle.clear()
