"""The swarm as this process knows it: follows the snapshots, and makes every body once for each of them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from api.pages import View
from api.rendering import Renderer
from shared import heap

if TYPE_CHECKING:
    from api.bodies import BodyTable
    from api.on_demand import OnDemand
    from api.pages import Pages
    from api.settings import ApiSettings
    from shared.snapshot import CrawlStatus, Snapshot
    from shared.store.clock import RedisClock
    from shared.store.snapshots import SnapshotReader
    from shared.tasks import Tasks

REFRESH_EVERY = 5.0
"""Seconds after which ages and cache times are brought up to date, where nothing else is new."""

log = structlog.get_logger()


class Swarm:
    """One a process. `start` keeps `table` filled; `view` is what other pages are drawn from."""

    def __init__(
        self,
        reader: SnapshotReader,
        clock: RedisClock,
        pages: Pages,
        settings: ApiSettings,
        *,
        table: BodyTable,
        on_demand: OnDemand,
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._renderer = Renderer(pages)
        self._settings = settings
        self.table = table
        self._on_demand = on_demand
        self.snapshot: Snapshot | None = None
        self.snapshot_id: str | None = None
        self.status: CrawlStatus | None = None
        self._news = asyncio.Event()
        self._looked = asyncio.Event()
        self._rendering = asyncio.Lock()
        for bodies in self._renderer.render(self.view()):  # before the first snapshot: they say that there is none
            self.table.replace(*bodies)

    @property
    def connected(self) -> bool:
        return self._reader.connected

    @property
    def stale_after(self) -> float:
        return stale_after(self.snapshot, self._settings.stale_after_periods)

    def view(self) -> View:
        return View(
            snapshot=self.snapshot,
            status=self.status,
            now=self._clock.now(),
            redis_connected=self.connected,
            snapshot_id=self.snapshot_id,
            show_addresses=self._settings.peer_addresses == "public",
            stale_after=self.stale_after,
        )

    def start(self, tasks: Tasks) -> None:
        """Follow snapshots from now on, until the tasks are closed."""
        tasks.keep("snapshots", self._follow)
        tasks.keep("ages", self._keep_fresh)

    async def first_look(self, seconds: float) -> None:
        """Wait until pages show what is in Redis, but no longer than this: Redis may be away."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._looked.wait()

    async def rendered(self) -> None:
        """Wait for the render that is under way, where one is."""
        async with self._rendering:
            pass

    async def changed(self) -> None:
        """Wait for the next snapshot or status."""
        await self._news.wait()

    async def _follow(self) -> None:
        async for news in self._reader.follow():
            if news.snapshot is not None:
                self.snapshot, self.snapshot_id = news.snapshot, news.snapshot_id
            if news.status is not None:
                self.status = news.status
            await self._clock.ask()
            await self._render()
            if news.snapshot is not None:
                await asyncio.to_thread(heap.give_back)
            # All that wait now are woken; later ones wait for the next.
            news_told, self._news = self._news, asyncio.Event()
            news_told.set()

    async def _keep_fresh(self) -> None:
        """Ages go on while nothing happens, most of all when nothing happens any more."""
        while True:
            await asyncio.sleep(REFRESH_EVERY)
            await self._clock.ask()
            await self._render()

    async def _render(self) -> None:
        """In a thread: no request waits for a render, and what was rendered before serves until then."""
        view = self.view()
        status = None if view.status is None else view.status.attempted_at
        self._on_demand.renew((view.snapshot_id, status, view.stale, view.redis_connected))
        async with self._rendering:
            try:
                rendered = self._renderer.render(self.view())
                while (bodies := await asyncio.to_thread(next, rendered, None)) is not None:
                    self.table.replace(*bodies)
                    self._looked.set()
            except Exception:
                log.exception("the snapshot could not be rendered; the pages before it stay")


def stale_after(snapshot: Snapshot | None, periods: float) -> float:
    """Return the seconds after which a snapshot is stale: the next one waits for a crawl longer than its period."""
    period = 60.0 if snapshot is None else max(snapshot.update_period, snapshot.update_duration)
    return period * periods
