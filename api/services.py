"""This module builds what request handlers need: one typed object per process, started and closed with the app."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from api.checks.client import CheckClient
from api.http import trusted_only
from api.http.client_address import client_address, is_trusted
from api.http.problems import Problem
from api.http.request_rate import RequestRate
from api.http.resources import resource
from api.lists.pages import ListPages
from api.metrics.process import ProcessMetrics
from api.pages import Pages
from api.pages.search import named
from api.pages.view import model_of
from api.responses.changes import ChangeLog
from api.responses.history_cache import READS_AT_ONCE, HistoryCache
from api.responses.on_demand import OnDemandResponses
from api.responses.prepared import PreparedResponses
from api.responses.swarm import Swarm
from shared import tracing
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.public.contributors import ranking
from shared.resolve import Directory, Kind
from shared.store.changes import ChangesReader
from shared.store.clock import RedisClock
from shared.store.connection import connect
from shared.store.history import HistoryReader
from shared.store.reports import Reports
from shared.store.snapshots import SnapshotReader
from shared.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request

    from api.pages import View
    from api.responses.prepared import PreparedResponse
    from api.settings import ApiSettings
    from shared.contributors import Contributor
    from shared.public.contributors import ContributorEntry
    from shared.resolve import Resolution
    from shared.snapshot import ModelReport, Snapshot

T = TypeVar("T")

FIRST_READ_TIMEOUT = 2.0
"""Seconds for which a starting replica waits for the first snapshot from Redis, before it serves without one."""
NO_SNAPSHOT_RETRY = 5
MAX_NEAR = 5
"""Names that an error suggests."""


class Services:
    """The objects that live as long as the process. Nothing is connected before `start`."""

    def __init__(self, settings: ApiSettings) -> None:
        self.settings = settings
        self.tasks = Tasks()
        self.pages = Pages(settings.public_url, unfold=settings.public_pages == "public")
        self._redis = connect(settings.redis_url, "api")
        # Connections of their own, so that many requests for history never delay a check.
        self._history_redis = connect(settings.redis_url, "api history", max_connections=READS_AT_ONCE)
        self.clock = RedisClock(self._redis)
        self.on_demand = OnDemandResponses()
        self.prepared = PreparedResponses(self.on_demand.prepared)
        self.swarm = Swarm(
            SnapshotReader(self._redis),
            self.clock,
            self.pages,
            settings,
            prepared=self.prepared,
            on_demand=self.on_demand,
        )
        self.lists = ListPages()
        self.history = HistoryCache(
            HistoryReader(self._history_redis),
            Reports(self._history_redis),
            self.clock.now,
            hide_addresses=not settings.show_addresses,
        )
        self.changes = ChangeLog(
            ChangesReader(self._redis),
            self.swarm.subscribers.wake_all,
            hide_addresses=not settings.show_addresses,
        )
        self.checks = CheckClient(self._redis, self.tasks, max_queued=settings.max_queued_checks)
        self.request_rate = RequestRate(self._redis)
        self._directory: tuple[Snapshot | None, Directory] | None = None
        self._ranked: tuple[object, object, int, tuple[ContributorEntry, ...]] | None = None
        self.metrics = ProcessMetrics(
            prepared=lambda: self.prepared.served,
            checks_waiting=lambda: self.checks.waiting,
            redis_connected=lambda: self.swarm.connected,
            snapshot_age=lambda: self.swarm.view().age,
            now=self.clock.now,
        )
        self.checks.on_reply = self.metrics.replied

    async def start(self) -> None:
        """Follow snapshots and run checks from now on. Returns once pages show what Redis has, or after two seconds.

        The server listens after this, so that a replica without a snapshot gets no requests beside those that have one.
        """
        if self.settings.api_metrics_port:
            self.metrics.serve(self.settings.api_metrics_port, self.settings.metrics_host)
        self.swarm.start(self.tasks)
        self.changes.start(self.tasks)
        self.checks.start()
        await self.swarm.first_read(FIRST_READ_TIMEOUT)

    async def close(self) -> None:
        """End the background tasks, and close the connections."""
        await self.tasks.close()
        with suppress(Exception):
            await self._redis.aclose()
            await self._history_redis.aclose()
        self.on_demand.close()
        await asyncio.to_thread(tracing.stop)

    def snapshot(self) -> Snapshot:
        """Return the newest snapshot. Raises a 503 `Problem` that says why there is none yet."""
        if self.swarm.snapshot is None:
            raise self.no_snapshot()
        return self.swarm.snapshot

    async def draw(
        self, request: Request, draw: Callable[[View], PreparedResponse], *, key: str | None = None
    ) -> PreparedResponse:
        """Return what `draw` makes of the swarm. The arguments and errors are those of `read_and_draw`."""

        async def nothing() -> None:
            pass

        return await self.read_and_draw(request, nothing, lambda view, _: draw(view), key=key)

    async def read_and_draw(
        self,
        request: Request,
        read: Callable[[], Awaitable[T]],
        draw: Callable[[View, T], PreparedResponse],
        *,
        key: str | None = None,
    ) -> PreparedResponse:
        """Return what `draw` makes of the swarm and of what `read` returns; made once per snapshot and `key`.

        `draw` runs in the rendering thread. Without a `key`, the response is that of the request's resource, and
        `AnswerPrepared` sends it to others; it never sends one whose key is no resource. Raises the errors of both.
        """

        async def read_all() -> tuple[View, T]:
            found = await read()
            return self.swarm.view(), found

        route: str = request.scope["route"].path_format
        return await self.on_demand.get(key or resource(request.scope), route, read_all, lambda found: draw(*found))

    def known_model(self, snapshot: Snapshot | None, dht_prefix: str) -> ModelReport:
        """Return a model of a snapshot. Raises `unknown`. For the rendering thread alone."""
        model = model_of(snapshot, dht_prefix)
        if model is None:
            raise self.unknown("model", dht_prefix)
        return model

    def require_public(self, request: Request) -> None:
        """Raise a 403 `Problem` where PUBLIC_PAGES keeps this from strangers and the client is one.

        What a trusted client gets there is marked, so that neither caches nor other sites' pages hand it on.
        """
        if self.settings.public_pages == "private":
            if not is_trusted(client_address(request.scope), self.settings.trusted):
                raise Problem(403, "This monitor shows this to its trusted networks alone.")
            request.scope[trusted_only.MARK] = True

    def public_resource(self, request: Request) -> str:
        """Return the key under which a response is prepared. Raises as `require_public`.

        Where pages are private, the key is no resource, so that `AnswerPrepared` never sends it without this check.
        """
        self.require_public(request)
        name = resource(request.scope)
        return name if self.settings.public_pages == "public" else f"private {name}"

    async def peer_id(self, given: str) -> str:
        """Return a peer id in its canonical form. Raises a 400 `Problem` that says what else the text may be."""
        with suppress(BadPeerIdError):
            return parse_peer_id(given)
        resolution = await self.resolve(given)
        near = named((*resolution.found, *resolution.suggestions))
        sentence = resolution.sentence or "This is no peer id, but it names something of this swarm."
        raise Problem(400, f"Bad peer id: {sentence[0].lower()}{sentence[1:]}", near=near[:MAX_NEAR])

    async def resolve(self, text: str) -> Resolution:
        """Return what pasted text names in the newest snapshot."""
        return await self.on_demand.render(partial(self._resolve, text))

    def _resolve(self, text: str) -> Resolution:  # runs in the one rendering thread, so the directory needs no lock
        snapshot = self.swarm.snapshot
        if self._directory is None or self._directory[0] is not snapshot:
            self._directory = (snapshot, Directory.of(snapshot))
        return self._directory[1].resolve(text)

    def contributors(self, known: Mapping[str, Contributor], view: View) -> tuple[ContributorEntry, ...]:
        """Return the ranking of contributors; `known` is the history's. For the rendering thread alone.

        It is made once per snapshot, read of the history and minute: 2,000 names take 24 ms.
        """
        made, minute = self._ranked, int(view.now // 60)
        if made is None or made[0] is not known or made[1] is not view.snapshot or made[2] != minute:
            made = self._ranked = (known, view.snapshot, minute, ranking(known, view.snapshot, view.now))
        return made[3]

    def unknown(self, kind: Literal["model", "server"], name: str, detail: str = "") -> Problem:
        """Return the 404 for what the snapshot does not have, with suggestions; a 503 where there is no snapshot.

        For the rendering thread alone.
        """
        if self.swarm.snapshot is None:
            return self.no_snapshot()
        detail = detail or f"No {kind} {name[:100]!r} is known."
        return Problem(404, detail, near=self.suggestions(kind, name), heading=f"No such {kind}", asked=name)

    def suggestions(self, kind: Literal["model", "server"], name: str) -> list[tuple[str, str]]:
        """Return (text, address of the page) of what may have been meant. For the rendering thread alone."""
        resolution = self._resolve(name)
        matches = (*resolution.found, *resolution.suggestions)
        same_kind = [match for match in matches if (match.kind is Kind.MODEL) == (kind == "model")]
        return named(match for match in same_kind if match.key != name)[:MAX_NEAR]

    def no_snapshot(self) -> Problem:
        """Return the 503 for while there is nothing to show, with the reason where one is known."""
        status = self.swarm.status
        if self.swarm.view().unreadable:
            reason = "this api cannot read the crawler's, which is of another version"
        elif status is not None and not status.ok:
            reason = f"the last crawl failed: {status.error}"
        elif not self.swarm.connected:
            reason = "Redis is away"
        else:
            reason = "the first crawl has not ended"
        headers = {"retry-after": str(NO_SNAPSHOT_RETRY)}
        return Problem(503, f"There is no snapshot of the swarm yet: {reason}.", headers=headers)


def services_of(request: Request) -> Services:
    """Return the services of the app that a request came to."""
    services: Services = request.app.state.services
    return services
