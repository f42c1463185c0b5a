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
from shared.incidents import Incident, Outcome, summary
from shared.store.rings import MINUTE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Template

    from shared.store.history import ModelHistory, ServerHistory

PAGES_DIR = Path(__file__).resolve().parent
MAX_ON_MODEL_PAGE = 5


@dataclass(frozen=True, slots=True)
class ModelPast:
    """What a model's page shows of it."""

    hours: ModelHistory
    minutes: ModelHistory
    days: ModelHistory
    incidents: tuple[Incident, ...] = ()


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
    """Uptime bars, charts of a day, a month and a year, and the last incidents."""
    hours, days, now = history.hours, history.days, history.hours.read_at
    rows = charts.uptime_bars(_looks(hours), now, hours.uptimes())
    rows.append(charts.year_bars(_looks(days), now, days.uptime(charts.YEAR.hours // 24)))
    spans = ((history.minutes, charts.DAY_SPAN), (hours, charts.MONTH_SPAN), (days, charts.YEAR_SPAN))
    lines = [(span.name, _lines(level, span, now)) for level, span in spans]
    return _render(
        "model_history",
        rows=rows,
        lines=[(name, drawn) for name, drawn in lines if drawn],
        events=[make_event(incident, now) for incident in history.incidents[:MAX_ON_MODEL_PAGE]],
        known=bool(hours.slots or days.slots),
    )


def _looks(history: ModelHistory) -> dict[int, tuple[int, int]]:
    return {slot.slot: (slot.looks, slot.healthy) for slot in history.slots}


def _lines(history: ModelHistory, span: charts.Span, now: float) -> list[charts.Line]:
    step = history.resolution.ring.step
    series = [
        ("Servers online", "servers", [(slot.slot * step, slot.online) for slot in history.slots]),
        ("Blocks covered", "blocks", [(slot.slot * step, float(slot.covered_blocks)) for slot in history.slots]),
        ("Least throughput", "tokens/s", [(slot.slot * step, slot.slowest_block) for slot in history.slots]),
    ]
    drawn = [charts.line_chart(points, title=title, unit=unit, now=now, span=span) for title, unit, points in series]
    return [line for line in drawn if line is not None]


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
        blocks=f"{incident.covered_blocks} of {text.count(incident.num_blocks, 'block')} were left at worst",
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
