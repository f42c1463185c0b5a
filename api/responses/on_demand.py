"""This module renders responses at their first request; further requests get the same, prepared response.

Pages of models and servers and histories are too many to render for each snapshot. Concurrent requests for one share
its rendering, which runs in a thread: nothing that grows with the swarm may be rendered on the event loop.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from sys import getsizeof
from typing import TYPE_CHECKING, TypeVar

from api.http.problems import Problem
from api.responses.read_through import FRESH_SECONDS, ReadThrough

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from api.responses.prepared import PreparedResponse

MAX_BYTES = 64 * 2**20
"""Memory of all responses, in all codings, and of their keys; the least recently used are dropped first."""
MAX_RENDERING = 100
"""Responses that may wait for the thread; one takes up to 0.2 s in a swarm of 10,000 servers."""

T = TypeVar("T")


class OnDemandResponses:
    """Responses by resource. Handlers `get` them; `PreparedResponses` asks `prepared` before any handler runs."""

    def __init__(self) -> None:
        self._responses = ReadThrough(FRESH_SECONDS, MAX_BYTES, lambda key, response: getsizeof(key) + response.size)
        self._thread = ThreadPoolExecutor(1, "render")
        self._rendering = 0

    def prepared(self, key: str) -> PreparedResponse | None:
        """Return a response that can be sent as it is, where there is one."""
        response: PreparedResponse | None = self._responses.ready(key)
        return response

    def renew(self, version: Hashable) -> None:
        """Render all responses again from now on, if this version of what they show differs from the last."""
        self._responses.version = version

    async def get(
        self, key: str, route: str, read: Callable[[], Awaitable[T]], draw: Callable[[T], PreparedResponse]
    ) -> PreparedResponse:
        """Return the response for a resource, made of what `read` returns by `draw` in the rendering thread.

        `key` is the resource (`api.http.resources`); `route` is what the response is counted under. Raises the errors
        of both functions, and a 503 `Problem` as `render`.
        """

        async def make() -> PreparedResponse:
            response = await self.render(partial(draw, await read()))
            return replace(response, route=route)

        return await self._responses.get(key, make)

    async def render(self, make: Callable[[], T]) -> T:
        """Run `make` in the rendering thread. Raises a 503 `Problem` while `MAX_RENDERING` calls wait for it."""
        if self._rendering >= MAX_RENDERING:
            raise Problem(503, "Too many pages are being drawn. Try again.", headers={"retry-after": "2"})
        self._rendering += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, make)
        finally:
            self._rendering -= 1

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)
