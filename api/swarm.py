"""The swarm as this process knows it: follows the snapshots, and makes every body once for each of them."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from api.bodies import Body, BodyTable
from api.legacy_metrics import LegacyCollector
from api.pages import View
from api.swarm_metrics import AgeCollector, SwarmCollector
from shared.state_document import state_document
from shared.text_picture import text_picture

if TYPE_CHECKING:
    from api.pages import Pages
    from api.settings import ApiSettings
    from shared.snapshot import CrawlStatus, Snapshot
    from shared.snapshot_store import SnapshotReader

HTML = "text/html; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
METRICS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
STATE_PATH = "/api/v1/state"
TEXT_PATH = "/swarm.txt"
REFRESH_EVERY = 5.0
"""Seconds after which the ages that stand in pages are brought up to date, where nothing else is new."""
CORS = {"access-control-allow-origin": "*"}

log = structlog.get_logger()


class Swarm:
    """One a process. `run` keeps `table` filled; `view` is what other pages are drawn from."""

    def __init__(self, reader: SnapshotReader, pages: Pages, settings: ApiSettings, table: BodyTable) -> None:
        self._reader = reader
        self._pages = pages
        self._settings = settings
        self.table = table
        self.snapshot: Snapshot | None = None
        self.snapshot_id: str | None = None
        self.status: CrawlStatus | None = None
        self._news = asyncio.Event()
        self._looked = asyncio.Event()
        self._rendering = asyncio.Lock()
        self._render_now()  # pages before the first snapshot: they say that there is none yet

    @property
    def connected(self) -> bool:
        return self._reader.connected

    @property
    def stale_after(self) -> float:
        period = self.snapshot.update_period if self.snapshot is not None else 60.0
        return period * self._settings.stale_after_periods

    def view(self) -> View:
        return View(
            snapshot=self.snapshot,
            status=self.status,
            now=time.time(),
            redis_connected=self.connected,
            snapshot_id=self.snapshot_id,
            show_addresses=self._settings.peer_addresses == "public",
            stale_after=self.stale_after,
        )

    async def run(self) -> None:
        """Follow snapshots until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._keep_fresh())

    async def first_look(self, seconds: float) -> None:
        """Wait until what is in Redis is served, but no longer than this: Redis may be away."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._looked.wait()

    async def changed(self) -> None:
        """Wait for the next snapshot or status."""
        await self._news.wait()

    async def _follow(self) -> None:
        async for news in self._reader.follow():
            if news.snapshot is not None:
                self.snapshot, self.snapshot_id = news.snapshot, news.snapshot_id
            if news.status is not None:
                self.status = news.status
            await self._render()
            self._looked.set()
            # All that wait now are woken; later ones wait for the next.
            news_told, self._news = self._news, asyncio.Event()
            news_told.set()

    async def _keep_fresh(self) -> None:
        """Ages go on while nothing happens, most of all when nothing happens any more."""
        while True:
            await asyncio.sleep(REFRESH_EVERY)
            await self._render()

    async def _render(self) -> None:
        """In a thread: no request waits for a render, and what was rendered before serves until then."""
        async with self._rendering:
            try:
                await asyncio.to_thread(self._render_now)
            except Exception:
                log.exception("the snapshot could not be rendered; the pages before it stay")

    def _render_now(self) -> None:
        view, snapshot = self.view(), self.snapshot
        page_headers = {"cache-control": self._cache_control(), **SECURITY_HEADERS}
        data_headers = {"cache-control": self._cache_control(), **CORS}
        bodies = {
            "/": Body.make(
                self._pages.overview(view).encode(), HTML, headers=page_headers, vary="Accept, Accept-Encoding"
            ),
            "/metrics": self._metrics(view, openmetrics=False),
        }
        openmetrics = (b"application/openmetrics-text", self._metrics(view, openmetrics=True))
        bodies["/api/prometheus"] = bodies["/metrics"]
        alternatives = {"/metrics": openmetrics, "/api/prometheus": openmetrics}
        if snapshot is not None:
            document = state_document(snapshot, show_addresses=view.show_addresses)
            bodies[STATE_PATH] = Body.make(msgspec.json.encode(document), JSON, headers=data_headers)
            bodies[TEXT_PATH] = Body.make(text_picture(snapshot).encode(), TEXT, headers=data_headers)
            picture = Body.make(bodies[TEXT_PATH].content, TEXT, headers=data_headers, vary="Accept, Accept-Encoding")
            alternatives["/"] = (b"text/plain", picture)
        self.table.replace(bodies, alternatives)

    def _metrics(self, view: View, *, openmetrics: bool) -> Body:
        registry = CollectorRegistry()
        registry.register(AgeCollector(view.snapshot, view.status, view.now, view.stale_after))
        if view.snapshot is not None and not view.stale:
            registry.register(LegacyCollector(view.snapshot))
            registry.register(SwarmCollector(view.snapshot))
        content = generate_openmetrics(registry) if openmetrics else generate_latest(registry)
        return Body.make(
            content,
            OPENMETRICS if openmetrics else METRICS_TEXT,
            # Not even a proxy's stale copy: a frozen age would hide that nothing is alive behind it.
            headers={"cache-control": "no-store"},
            vary="Accept, Accept-Encoding",
        )

    def _cache_control(self) -> str:
        """Fresh until the next crawl is due; a proxy may go on serving while it asks for the new one."""
        if self.snapshot is None:
            return "no-cache"
        due_in = self.snapshot.taken_at + self.snapshot.update_period - time.time()
        period = round(self.snapshot.update_period)
        return f"public, max-age={max(1, min(period, round(due_in)))}, stale-while-revalidate={period}"


SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "geolocation=(), camera=(), microphone=()",
}
