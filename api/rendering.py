"""Every body that stands ready, made from the swarm as it is known now: once for each snapshot.

Little of it changes while the snapshot stays: the ages in metrics, how long a cache may keep it, a banner once it
is stale. `Renderer.bodies` may be called every few seconds for that; what did not change is not made again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from api import badges
from api.bodies import Body
from api.headers import CORS, HTML, JSON, METRICS_TEXT, OPENMETRICS, SECURITY_HEADERS, TEXT
from api.legacy_metrics import LegacyCollector
from api.swarm_metrics import AgeCollector, SwarmCollector
from shared.state_document import state_document
from shared.text_picture import text_picture

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

    from api.pages import Pages
    from api.pages.view import View
    from shared.snapshot import Snapshot

END_OF_OPENMETRICS = b"# EOF\n"
STATE_PATH = "/api/v1/state"
TEXT_PATH = "/swarm.txt"
BY_ACCEPT = "Accept, Accept-Encoding"


@dataclass(frozen=True, slots=True)
class Bodies:
    """What stands ready: by path, and a second form of some paths by its media type."""

    by_path: dict[str, Body]
    alternatives: dict[str, tuple[bytes, Body]]


@dataclass(frozen=True, slots=True)
class _OfSnapshot:
    """What depends on nothing but the snapshot."""

    snapshot: Snapshot
    state: Body
    text: Body
    metrics: bytes
    openmetrics: bytes


class Renderer:
    """Makes bodies, and keeps what the next ones will need again. Not for several threads at once."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._of_snapshot: _OfSnapshot | None = None
        self._overview: Body | None = None

    def page(self, view: View) -> Body:
        """Return the overview. Takes some milliseconds, however large the swarm is."""
        html = self._pages.overview(view).encode()
        headers = {"cache-control": _cache_control(view), **SECURITY_HEADERS}
        self._overview = Body.make(html, HTML, headers=headers, vary=BY_ACCEPT, old=self._overview)
        return self._overview

    def bodies(self, view: View, page: Body) -> Bodies:
        """Return all bodies for this view. Takes 5 ms for 60 servers, 0.5 s for 10,000, next to nothing again."""
        made = self._make_of_snapshot(view)
        openmetrics = (b"application/openmetrics-text", _metrics(view, made, openmetrics=True))
        metrics = _metrics(view, made, openmetrics=False)
        by_path = {"/": page, "/metrics": metrics, "/api/prometheus": metrics, **badges.ready(view)}
        alternatives = {"/metrics": openmetrics, "/api/prometheus": openmetrics}
        if made is not None:
            headers = {"cache-control": _cache_control(view), **CORS}
            by_path[STATE_PATH] = made.state.with_headers(headers)
            by_path[TEXT_PATH] = made.text.with_headers(headers)
            alternatives["/"] = (b"text/plain", made.text.with_headers(headers, vary=BY_ACCEPT))
        return Bodies(by_path, alternatives)

    def _make_of_snapshot(self, view: View) -> _OfSnapshot | None:
        snapshot = view.snapshot
        if snapshot is None:
            return None
        if self._of_snapshot is None or self._of_snapshot.snapshot is not snapshot:
            document = msgspec.json.encode(state_document(snapshot, show_addresses=view.show_addresses))
            families = [*LegacyCollector(snapshot).collect(), *SwarmCollector(snapshot).collect()]
            self._of_snapshot = _OfSnapshot(
                snapshot,
                state=Body.make(document, JSON),
                text=Body.make(text_picture(snapshot).encode(), TEXT),
                metrics=_exposition(families, openmetrics=False),
                openmetrics=_exposition(families, openmetrics=True),
            )
        return self._of_snapshot


def _metrics(view: View, made: _OfSnapshot | None, *, openmetrics: bool) -> Body:
    ages = AgeCollector(view.snapshot, view.status, view.now, view.stale_after).collect()
    content = _exposition(ages, openmetrics=openmetrics)
    if made is not None and not view.stale:
        swarm = made.openmetrics if openmetrics else made.metrics
        content = content.removesuffix(END_OF_OPENMETRICS) + swarm
    return Body.make(
        content,
        OPENMETRICS if openmetrics else METRICS_TEXT,
        # Not even a proxy's stale copy: a frozen age would hide that nothing is alive behind it.
        headers={"cache-control": "no-store"},
        vary=BY_ACCEPT,
    )


def _exposition(families: Iterable[Metric], *, openmetrics: bool) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Collected(list(families)))
    return generate_openmetrics(registry) if openmetrics else generate_latest(registry)


class _Collected(Collector):
    """Metrics that were collected before."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _cache_control(view: View) -> str:
    """Fresh until the next crawl is due; a proxy may go on serving while it asks for the new one."""
    if view.snapshot is None:
        return "no-cache"
    due_in = view.snapshot.taken_at + view.snapshot.update_period - view.now
    period = round(view.snapshot.update_period)
    return f"public, max-age={max(1, min(period, round(due_in)))}, stale-while-revalidate={period}"
