"""This module renders histories: uptime bars and charts as inline SVG."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from markupsafe import Markup

from api.pages import charts
from api.pages.incidents import make_event
from api.pages.templating import environment
from shared import words
from shared.advice.inference import failure_words, record_words
from shared.advice.models import Past
from shared.store.history import OutageEnd
from shared.store.rings import MINUTE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.incidents import Incident
    from shared.store.history import ModelHistory, ServerHistory, ServerOutage
    from shared.store.inference_history import Proof

MAX_ON_MODEL_PAGE = 5
MAX_FAILED_HOURS = 10
MAX_OUTAGES = 30
"""Of a server, that its page lists."""


@dataclass(frozen=True, slots=True)
class ModelPast:
    """What a model's page shows of it."""

    hours: ModelHistory
    minutes: ModelHistory
    days: ModelHistory
    incidents: tuple[Incident, ...] = ()

    @property
    def open_incident(self) -> Incident | None:
        return next((incident for incident in self.incidents if incident.end is None), None)

    @property
    def watched_since(self) -> float | None:
        """When the first crawl was recorded that judged the model: to the minute in its first day, else to the hour."""
        return self.hours.first_crawl(self.minutes)

    def past(self, *, usable: bool) -> Past:
        """Return what a verdict says of the past: since when it is so, and when it was last otherwise."""
        if usable:
            ended = [event.end for event in self.incidents if event.end is not None]
            since = max((*ended, *self._last_bad_crawl(), self.watched_since or 0.0)) or None
            return Past(since=since, watched_since=self.watched_since)
        if self.open_incident is not None:
            return Past.of(self.open_incident, watched_since=self.watched_since)
        # One crawl alone is no incident yet.
        healthy = [slot.slot * MINUTE for slot in self.minutes.slots if slot.healthy]
        return Past(self.watched_since, float(healthy[-1]) if healthy else None, self.watched_since)

    def _last_bad_crawl(self) -> list[float]:
        """Return when the last slot ended in which a crawl found it broken: of the minutes, else of the hours."""
        for history in (self.minutes, self.hours):
            if bad := [slot.slot for slot in history.slots if slot.healthy < slot.crawls]:
                return [min((bad[-1] + 1.0) * history.resolution.ring.step, history.read_at)]
        return []


def model_history_html(history: ModelPast, last_seen: float | None = None) -> Markup:
    """Return a model's uptime bars, charts of a day, a month and a year (where there is data), and last incidents.

    `last_seen`: as for `make_event`.
    """
    hours, days, now = history.hours, history.days, history.hours.read_at
    watched = hours.watched(history.minutes)
    rows = charts.uptime_bars(_crawls(hours), now, hours.uptimes(), watched)
    older = bool(days.slots) and (days.slots[0].slot + 1) * charts.DAY_SPAN.seconds <= now - charts.MONTH_SPAN.seconds
    if older:
        year = max(watched["30d"], (len(days.slots) - 1) * charts.DAY_SPAN.seconds)
        rows.append(charts.year_bars(_crawls(days), now, days.uptime(charts.YEAR.hours // 24), year))
    spans = (
        (history.minutes, charts.DAY_SPAN, True),
        (hours, charts.MONTH_SPAN, watched["30d"] > watched["24h"]),
        (days, charts.YEAR_SPAN, older),
    )
    lines = [(span.name, _lines(level, span, now)) for level, span, telling in spans if telling]
    return _render(
        "model_history",
        rows=rows,
        lines=[(name, drawn) for name, drawn in lines if drawn],
        events=[make_event(incident, now, last_seen) for incident in history.incidents[:MAX_ON_MODEL_PAGE]],
        known=bool(hours.slots or days.slots),
        steps=_steps(hours.proofs, charts.WINDOWS, (charts.WEEK_SPAN, charts.MONTH_SPAN), now),
    )


@dataclass(frozen=True, slots=True)
class Steps:
    """Inference checks over time."""

    rows: list[charts.Bars]
    lines: list[charts.Line]
    failures: list[tuple[float, str]]
    """The latest hours in which a check gave no numbers, the newest first, and how it ended."""


def _steps(
    proofs: Sequence[Proof], windows: Sequence[charts.Window], spans: Sequence[charts.Span], now: float
) -> Steps | None:
    """Return what is drawn of checks by the hour; None without any."""
    if not proofs:
        return None
    took = [(float(one.hour * charts.HOUR), 1e3 * one.seconds) for one in proofs if one.computed]
    title, unit = "Time per token", "ms"
    lines = [(span, charts.line_chart(took, title=title, unit=unit, now=now, span=span)) for span in spans]
    failed = [(float(one.hour * charts.HOUR), failure_words(one)) for one in proofs if one.computed < one.checks]
    return Steps(
        charts.share_bars({one.hour: (one.checks, one.computed) for one in proofs}, now, windows),
        [replace(line, title=f"{title}, last {span.name}") for span, line in lines if line is not None],
        failed[: -MAX_FAILED_HOURS - 1 : -1],
    )


def _crawls(history: ModelHistory) -> dict[int, tuple[int, int]]:
    return {slot.slot: (slot.crawls, slot.healthy) for slot in history.slots}


def _lines(history: ModelHistory, span: charts.Span, now: float) -> list[charts.Line]:
    step = history.resolution.ring.step
    series = [
        ("Servers online", "servers", [(slot.slot * step, slot.online) for slot in history.slots]),
        ("Blocks covered", "blocks", [(slot.slot * step, float(slot.covered_blocks)) for slot in history.slots]),
        ("Least throughput", "tokens/s", [(slot.slot * step, slot.slowest_block) for slot in history.slots]),
    ]
    drawn = [charts.line_chart(points, title=title, unit=unit, now=now, span=span) for title, unit, points in series]
    return [line for line in drawn if line is not None]


def server_history_html(history: ServerHistory, last_seen: float | None = None) -> Markup:
    """Return a server's sessions, uptime bars and outages. `last_seen`: as for `make_event`."""
    now, record = history.read_at, history.record
    facts: list[tuple[str, float | None, str]] = [("First seen", record.first_seen, "")]
    if history.online:
        lasted = words.duration((now if last_seen is None else last_seen) - record.online_since)
        facts.append(("Online since" if last_seen is None else "Was online since", record.online_since, lasted))
    else:
        facts.append(("Last online", record.last_online or None, "" if record.last_online else "never"))
        facts.append(("Last seen", record.last_seen, ""))
    facts.append(("Came online", None, words.count(record.sessions, "time")))
    if history.proofs:
        facts.append(("Asked to compute", None, record_words(history.proofs, days=7)))
    crawled = {hour.hour: (hour.crawled, hour.online) for hour in history.hours}
    served = sum(hour.online for hour in history.hours) * MINUTE
    watched = sum(hour.crawled for hour in history.hours) * MINUTE
    facts.append(("Served", None, f"{words.hours(served)} of the {words.hours(watched)} watched"))
    outages = history.outages()
    return _render(
        "server_history",
        rows=charts.uptime_bars(crawled, now, history.uptimes(), history.watched()),
        facts=facts,
        outages=[_outage(outage, last_seen) for outage in reversed(outages[-MAX_OUTAGES:])],
        left_out=max(0, len(outages) - MAX_OUTAGES),
        was_online=record.last_online > 0,
        steps=_steps(history.proofs, charts.WINDOWS[:2], (charts.WEEK_SPAN,), now),
    )


def _outage(outage: ServerOutage, last_seen: float | None) -> tuple[float, float | None, str, str]:
    """Return its start, its end, how long crawls did not find the server online, and how it ended."""
    ended = {
        OutageEnd.RETURNED: "it came back",
        OutageEnd.LASTS: "it has not come back" if last_seen is None else "it had not come back by then",
        OutageEnd.UNWATCHED: "not known: no crawl looked afterwards",
    }[outage.ended]
    return outage.start, outage.end or last_seen, words.duration(outage.minutes * MINUTE), ended


def _render(macro: str, **values: object) -> Markup:
    module = environment().get_template("_charts.html").module
    return Markup(getattr(module, macro)(**values))  # noqa: S704 - escaped by it
