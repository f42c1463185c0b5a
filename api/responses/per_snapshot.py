"""This module prepares the responses that most requests get, once per snapshot: overview, state, text, badges, metrics.

While the snapshot stays the same, only ages, cache times and statements about staleness change. `Renderer.render` is
called every few seconds for these; whatever did not change is not rendered again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec

from api.http.headers import CORS, HTML, JSON, SECURITY_HEADERS
from api.metrics.exposition import Collected, exposition
from api.metrics.legacy import LegacyCollector
from api.metrics.swarm import AgeCollector, SwarmCollector
from api.pages.badge import state_badge
from api.responses import kinds
from api.responses.kinds import BY_ACCEPT, COLORED, TEXT_PATH
from api.responses.prepared import PreparedResponse
from shared.public.state import state_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from api.pages import Pages
    from api.pages.view import View
    from shared.judgement.freshness import Freshness
    from shared.snapshot import Snapshot

END_OF_OPENMETRICS = b"# EOF\n"
STATE_PATH = "/api/v1/state"


class Prepared(NamedTuple):
    """What is prepared: by resource, and a second form of some by its media type."""

    by_path: dict[str, PreparedResponse]
    alternatives: dict[str, tuple[bytes, PreparedResponse | None]]
    """None where that form cannot be had yet, and the router has to say so."""


class _Quick(NamedTuple):
    """The responses that are cheap to make: made once per snapshot, and again when it becomes stale."""

    snapshot: Snapshot
    stale: bool
    badges: dict[str, PreparedResponse]
    metrics: bytes
    openmetrics: bytes


class _Documents(NamedTuple):
    """The responses that show the whole snapshot and its minimum age: they take longest to make."""

    snapshot: Snapshot
    freshness: Freshness
    state: PreparedResponse
    text: PreparedResponse
    text_as_overview: PreparedResponse
    color: PreparedResponse

    @classmethod
    def make(cls, snapshot: Snapshot, freshness: Freshness) -> Self:
        document = msgspec.json.encode(state_document(snapshot, freshness))
        text = kinds.swarm_text(snapshot, freshness, color=False)
        color = kinds.swarm_text(snapshot, freshness, color=True)
        return cls(snapshot, freshness, PreparedResponse.make(document, JSON), text, text, color)

    def shows(self, view: View) -> bool:
        """Whether nothing of it would be made otherwise for this view."""
        return self.snapshot is view.snapshot and self.freshness == view.freshness

    def until(self, cache_control: str) -> Self:
        """Return the same with other cache times."""
        headers = {"cache-control": cache_control, **CORS}
        return self._replace(
            state=self.state.with_headers(headers),
            text=self.text.with_headers(headers),
            text_as_overview=self.text.with_headers(headers, vary=BY_ACCEPT),
            color=self.color.with_headers(headers),
        )


class Renderer:
    """Renders the responses, and keeps what did not change. Not thread-safe."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._overview: PreparedResponse | None = None
        self._quick: _Quick | None = None
        self._documents: _Documents | None = None
        self._latest = Prepared({}, {})

    def render(self, view: View) -> Iterator[Prepared]:
        """Yield all responses for this view several times, each time with more of them renewed, the overview first.

        With 60 servers the overview takes 10 ms and everything 20 ms; with 10,000 servers 110 ms and 1.1 s.
        """
        page = self._make_page(view)
        if self._documents is not None:  # else there are no earlier responses to keep beside the new overview
            yield Prepared({**self._latest.by_path, "/": page}, self._latest.alternatives)
        quick = self._make_quick(view)
        quick.by_path["/"] = page
        if view.snapshot is not None and (self._documents is None or not self._documents.shows(view)):
            yield self._with_documents(quick)
            self._documents = _Documents.make(view.snapshot, view.freshness)
        if self._documents is not None:
            self._documents = self._documents.until(_cache_control(view))
        yield self._with_documents(quick)

    def _make_page(self, view: View) -> PreparedResponse:
        html = self._pages.overview(view).encode()
        headers = {"cache-control": _cache_control(view), **SECURITY_HEADERS}
        self._overview = PreparedResponse.make(html, HTML, headers=headers, vary=BY_ACCEPT, old=self._overview)
        return self._overview

    def _make_quick(self, view: View) -> Prepared:
        made = self._quick
        if made is not None and (made.snapshot is not view.snapshot or made.stale != view.stale):
            made = None
        if made is None and view.snapshot is not None:
            collected = Collected(LegacyCollector(view.snapshot), SwarmCollector(view.snapshot))
            made = self._quick = _Quick(
                view.snapshot,
                view.stale,
                {f"/badge/{model.dht_prefix}.svg": kinds.badge(state_badge(model, view).svg())
                 for model in view.snapshot.models},
                exposition(collected, openmetrics=False),
                exposition(collected, openmetrics=True),
            )  # fmt: skip
        metrics = _metrics(view, made, openmetrics=False)
        openmetrics = (b"application/openmetrics-text", _metrics(view, made, openmetrics=True))
        by_path = {"/metrics": metrics, "/api/prometheus": metrics, **(made.badges if made is not None else {})}
        return Prepared(by_path, {"/metrics": openmetrics, "/api/prometheus": openmetrics})

    def _with_documents(self, quick: Prepared) -> Prepared:
        documents = self._documents
        by_path = quick.by_path
        if documents is not None:
            by_path = {**by_path, STATE_PATH: documents.state, TEXT_PATH: documents.text, COLORED: documents.color}
        text = documents.text_as_overview if documents is not None else None
        self._latest = Prepared(by_path, {**quick.alternatives, "/": (b"text/plain", text)})
        return self._latest


def _metrics(view: View, made: _Quick | None, *, openmetrics: bool) -> PreparedResponse:
    ages = AgeCollector(view.snapshot, view.status, view.now, view.stale_after)
    content = exposition(ages, openmetrics=openmetrics)
    if made is not None and not view.stale:
        swarm = made.openmetrics if openmetrics else made.metrics
        content = content.removesuffix(END_OF_OPENMETRICS) + swarm
    return kinds.metrics(content, openmetrics=openmetrics)


def _cache_control(view: View) -> str:
    """Fresh until the next crawl is due; a proxy may go on serving while it asks for the new one."""
    if view.snapshot is None:
        return "no-cache"
    due_in = view.snapshot.taken_at + view.snapshot.update_period - view.now
    period = round(view.snapshot.update_period)
    return f"public, max-age={max(1, min(period, round(due_in)))}, stale-while-revalidate={period}"
