"""Bodies that are made when they are first asked for, and then stand ready for all, as those of the table do.

A model's page, a server's, a history: too many to be made ahead for each snapshot. Each is made by one request for all
that wait for it, in a thread of its own, since nothing that grows with the swarm may be drawn on the event loop.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from api.http.headers import CORS, HTML, JSON, SECURITY_HEADERS
from api.http.problems import Problem
from api.responses.prepared import Body
from api.responses.read_through import FRESH_SECONDS, ReadThrough

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

MAX_BYTES = 64 * 2**20
"""Of all bodies, in all encodings, least recently used out first."""
MAX_DRAWING = 100
"""Bodies that may wait for the thread; one takes up to 0.2 s in a swarm of 10,000 servers."""

T = TypeVar("T")


def page(html: str, route: str) -> Body:
    """Return a page that is made on demand. Takes time: `draw` it."""
    return Body.make(html.encode(), HTML, headers={**SECURITY_HEADERS, "cache-control": "no-cache"}, route=route)


def document(content: bytes, route: str) -> Body:
    """Return a JSON document that is made on demand."""
    headers = {**CORS, "cache-control": f"public, max-age={FRESH_SECONDS:.0f}"}
    return Body.make(content, JSON, headers=headers, route=route)


class OnDemand:
    """One a process. `get` is for the handlers, `ready` for the table, which asks it first."""

    def __init__(self) -> None:
        self._bodies = ReadThrough(FRESH_SECONDS, MAX_BYTES, lambda body: body.size)
        self._thread = ThreadPoolExecutor(1, "draw")
        self._drawing = 0

    def ready(self, key: str) -> Body | None:
        """Return a body that can be sent as it is, where there is one."""
        body: Body | None = self._bodies.ready(key)
        return body

    def renew(self, version: Hashable) -> None:
        """Make all bodies anew from now on: what they show has changed."""
        self._bodies.version = version

    async def get(self, key: str, make: Callable[[], Awaitable[Body]]) -> Body:
        """Return the body of a resource (`api.queries.resource`). Raises what `make` raises, which may `draw`."""
        body: Body = await self._bodies.get(key, make)
        return body

    async def draw(self, make: Callable[[], T]) -> T:
        """Run what takes time in the thread. Raises a 503 `Problem` where too much waits for it."""
        if self._drawing >= MAX_DRAWING:
            raise Problem(503, "Too many pages are being drawn. Try again.", headers={"retry-after": "2"})
        self._drawing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, make)
        finally:
            self._drawing -= 1

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
