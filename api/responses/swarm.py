"""This module follows the snapshots in Redis, and prepares the responses again for each of them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from api.hidden import snapshot_without_addresses, status_without_addresses
from api.pages import View
from api.responses.per_snapshot import Renderer
from api.responses.subscribers import Subscribers
from shared import heap
from shared.judgement.freshness import stale_after

if TYPE_CHECKING:
    from api.pages import Pages
    from api.responses.on_demand import OnDemandResponses
    from api.responses.prepared import PreparedResponses
    from api.settings import ApiSettings
    from shared.snapshot import CrawlStatus, Snapshot
    from shared.store.clock import RedisClock
    from shared.store.snapshots import SnapshotReader
    from shared.tasks import Tasks

REFRESH_EVERY = 5.0
"""Seconds between updates of ages and cache times while there is no new snapshot."""


class Swarm:
    """The newest snapshot and status that this process has read. After `start`, responses are prepared for each."""

    def __init__(
        self,
        reader: SnapshotReader,
        clock: RedisClock,
        pages: Pages,
        settings: ApiSettings,
        *,
        prepared: PreparedResponses,
        on_demand: OnDemandResponses,
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._renderer = Renderer(pages)
        self._settings = settings
        self._prepared = prepared
        self._on_demand = on_demand
        self.snapshot: Snapshot | None = None
        self.snapshot_id: str | None = None
        self.status: CrawlStatus | None = None
        self.subscribers = Subscribers()
        self._read_once = asyncio.Event()
        self._rendering = asyncio.Lock()
        for step in self._renderer.render(self.view()):  # before the first snapshot: they say that there is none
            self._prepared.replace(*step)

    @property
    def connected(self) -> bool:
        """Whether Redis answered last."""
        return self._reader.connected

    @property
    def stale_after(self) -> float:
        """Age in seconds from which the snapshot is stale."""
        return stale_after(self.snapshot, self._settings.stale_after_periods)

    def view(self) -> View:
        """Return what pages and metrics are made of, as of now."""
        return View(
            snapshot=self.snapshot,
            status=self.status,
            now=self._clock.now(),
            redis_connected=self.connected,
            snapshot_id=self.snapshot_id,
            stale_after=self.stale_after,
        )

    def start(self, tasks: Tasks) -> None:
        """Follow snapshots from now on, until the tasks are closed."""
        tasks.keep("snapshots", self._follow)
        tasks.keep("ages", self._keep_fresh)
        tasks.keep("subscribers", self.subscribers.keep_waking)

    async def first_read(self, seconds: float) -> None:
        """Wait until pages show what is in Redis, but no longer than this: Redis may be away."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._read_once.wait()

    async def rendered(self) -> None:
        """Wait for the render that is under way, where one is."""
        async with self._rendering:
            pass

    async def _follow(self) -> None:
        hide = not self._settings.show_addresses
        async for update in self._reader.follow():
            snapshot, status = update.snapshot, update.status
            if snapshot is not None:
                if hide:
                    snapshot = await asyncio.to_thread(snapshot_without_addresses, snapshot)
                self.snapshot, self.snapshot_id = snapshot, update.snapshot_id
            if status is not None:
                self.status = status_without_addresses(status) if hide else status
            await self._clock.ask()
            await self._render()
            if update.snapshot is not None:
                await asyncio.to_thread(heap.trim)
            self.subscribers.wake_all()

    async def _keep_fresh(self) -> None:
        """Render again every few seconds, so that ages stay true while no new snapshot comes."""
        while True:
            await asyncio.sleep(REFRESH_EVERY)
            await self._clock.ask()
            await self._render()

    async def _render(self) -> None:
        """Render in a thread: no request waits for it, and what was rendered before is sent until then.

        An error ends the loop that called this, so that `/readyz` and metrics tell that pages no longer show what is.
        """
        view = self.view()
        status = None if view.status is None else view.status.attempted_at
        self._on_demand.renew((view.snapshot_id, status, view.freshness, view.redis_connected))
        async with self._rendering:
            rendered = self._renderer.render(self.view())
            while (step := await asyncio.to_thread(next, rendered, None)) is not None:
                self._prepared.replace(*step)
                self._read_once.set()
