"""The past on the pages: uptime bars and charts as inline SVG, incidents in words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from api.pages import charts, text
from shared.advice.inference import record_words
from shared.advice.models import Past
from shared.incidents import Incident, Outcome, summary
from shared.store.rings import MINUTE, Resolution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Template

    from shared.store.history import ModelHistory, ServerHistory

PAGES_DIR = Path(__file__).resolve().parent
DAY = 86400
CHART_STEP = 600.0
"""Seconds that one step of a line shows."""
MAX_ON_MODEL_PAGE = 5


@dataclass(frozen=True, slots=True)
class ModelPast:
    """What a model's page shows of it."""

    hours: ModelHistory
    minutes: ModelHistory
    incidents: tuple[Incident, ...] = ()

    @property
    def open_incident(self) -> Incident | None:
        return next((incident for incident in self.incidents if incident.end is None), None)

    @property
    def watched_since(self) -> float | None:
        """When the first crawl was recorded that judged the model: to the minute in its first day, else to the hour."""
        hours = [slot.slot * Resolution.HOUR.ring.step for slot in self.hours.slots[:1]]
        minutes = [slot.slot * MINUTE for slot in self.minutes.slots[:1]]
        if hours and minutes and minutes[0] - hours[0] < Resolution.HOUR.ring.step:
            return float(minutes[0])
        return float((hours or minutes)[0]) if hours or minutes else None

    def past(self, *, usable: bool) -> Past:
        """Return what a verdict says of the past: since when it is so, and when it was last otherwise."""
        if usable:
            since = max((event.end for event in self.incidents if event.end is not None), default=self.watched_since)
            return Past(since=since, watched_since=self.watched_since)
        if self.open_incident is not None:
            return Past.of(self.open_incident, watched_since=self.watched_since)
        # One crawl alone is no incident yet.
        healthy = [slot.slot * MINUTE for slot in self.minutes.slots if slot.healthy]
        return Past(self.watched_since, float(healthy[-1]) if healthy else None, self.watched_since)


@dataclass(frozen=True, slots=True)
class Event:
    """An incident as it is shown."""

    id: str
    name: str
    href: str
    official: bool
    tone: str
    state: str
    start: float
    end: float | None
    duration: str
    blocks: str
    summary: str


def model_history_html(history: ModelPast) -> Markup:
    """Uptime bars, charts of a day, and the last incidents."""
    hours, minutes = history.hours, history.minutes
    now = hours.read_at
    start = now // CHART_STEP * CHART_STEP - DAY + CHART_STEP
    looks = {slot.slot: (slot.looks, slot.healthy) for slot in hours.slots}
    ring = Resolution.MINUTE.ring
    window = {"start": start, "end": start + DAY, "step": CHART_STEP}
    series = [
        ("Servers online", "servers", [(slot.slot * ring.step, slot.online) for slot in minutes.slots]),
        ("Blocks covered", "blocks", [(slot.slot * ring.step, float(slot.covered_blocks)) for slot in minutes.slots]),
        ("Least throughput", "tokens/s", [(slot.slot * ring.step, slot.slowest_block) for slot in minutes.slots]),
    ]
    lines = [charts.line_chart(points, title=title, unit=unit, **window) for title, unit, points in series]
    return _render(
        "model_history",
        rows=charts.uptime_bars(looks, now, hours.uptimes()),
        lines=[line for line in lines if line is not None],
        events=[make_event(incident, now) for incident in history.incidents[:MAX_ON_MODEL_PAGE]],
        known=bool(looks),
    )


def server_history_html(history: ServerHistory) -> Markup:
    """Since when it is there, and its uptime bars."""
    now, record = history.read_at, history.record
    facts: list[tuple[str, float | None, str]] = [("First seen", record.first_seen, "")]
    if history.online:
        facts.append(("Online since", record.online_since, text.duration(now - record.online_since)))
    else:
        facts.append(("Last online", record.last_online or None, "" if record.last_online else "never"))
        facts.append(("Last seen", record.last_seen, ""))
    facts.append(("Came online", None, text.count(record.sessions, "time")))
    if history.proofs:
        facts.append(("Asked to compute", None, record_words(history.proofs, days=7)))
    looks = {hour.hour: (hour.looked, hour.online) for hour in history.hours}
    return _render("server_history", rows=charts.uptime_bars(looks, now, history.uptimes()), facts=facts)


def make_event(incident: Incident, now: float) -> Event:
    ended = incident.end is not None
    lasted = (now if incident.end is None else incident.end) - incident.start
    withdrawn = incident.outcome is Outcome.WITHDRAWN
    return Event(
        id=incident.id,
        name=text.cut(incident.name, 60) or text.cut(incident.dht_prefix, 60) or "(nameless)",
        href=text.model_href(incident.dht_prefix),
        official=incident.official,
        tone="idle" if withdrawn else "good" if ended else "bad",
        state="withdrawn" if withdrawn else "recovered" if ended else "ongoing",
        start=incident.start,
        end=incident.end,
        duration="less than a minute" if lasted < MINUTE else text.duration(lasted),
        blocks=f"at worst {incident.covered_blocks} of {text.count(incident.num_blocks, 'block')} had a server",
        summary=summary(incident),
    )


def events(incidents: Sequence[Incident], now: float) -> tuple[list[Event], list[Event]]:
    """Return those that last, and those that ended."""
    made = [make_event(incident, now) for incident in incidents]
    return [event for event in made if event.end is None], [event for event in made if event.end is not None]


def stylesheet() -> str:
    """The address of the charts' own style; a page never runs with that of another version."""
    return f"/static/history.css?v={_fingerprint()}"


@cache
def _fingerprint() -> str:
    return sha256((PAGES_DIR / "static" / "history.css").read_bytes()).hexdigest()[:10]


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(PAGES_DIR / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        iso=lambda seconds: f"{text.utc(seconds):%Y-%m-%dT%H:%M:%SZ}",
        utc=lambda seconds: f"{text.utc(seconds):%Y-%m-%d %H:%M} UTC",
    )
    return environment.get_template("_charts.html")


def _render(macro: str, **values: object) -> Markup:
    return Markup(getattr(_template().module, macro)(stylesheet=stylesheet(), **values))  # noqa: S704 - escaped by it
