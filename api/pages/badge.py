"""`GET /badge/{dht_prefix}.svg`: a model's state, coverage or uptime as a picture for a README."""

from __future__ import annotations

import unicodedata
from contextlib import suppress
from enum import StrEnum
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from starlette.responses import Response

from api.http.headers import CORS
from api.http.problems import Problem
from api.http.resources import resource
from api.pages import text
from api.responses.history_cache import HistoryAwayError
from api.responses.prepared import Body
from shared.judgement.coverage import coverage
from shared.snapshot import ModelState

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.pages.view import View
    from api.responses.on_demand import OnDemand
    from api.responses.swarm import Swarm
    from shared.snapshot import ModelReport

MAX_LABEL = 40
ROUTE = "/badge/{dht_prefix}.svg"
SVG = "image/svg+xml"
CACHE_SECONDS, UNKNOWN_SECONDS = 60, 5
GREEN, AMBER, RED, GREY = "#12734a", "#8a5200", "#b3261e", "#5d596f"
"""Dark enough for white letters: a contrast of 4.5 and more."""
UPTIME_WINDOW = "30d"
GOOD_UPTIME, FAIR_UPTIME = 0.99, 0.9
_NARROW, _WIDE = frozenset("fijlrtI.,:;'|!()[] "), frozenset("mwMW@%")


class Metric(StrEnum):
    STATE = "state"
    COVERAGE = "coverage"
    UPTIME = "uptime"


class Badge(NamedTuple):
    label: str
    message: str
    color: str


async def badge(request: Request) -> Response | Body:
    """`?metric=state` (default), `coverage` or `uptime` (30 days). A picture also where nothing is known."""
    given = request.query_params.get("metric", Metric.STATE.value)
    if given not in tuple(Metric):
        raise Problem(400, f"Bad metric {given[:50]!r}: expected one of {', '.join(Metric)}.", headers=CORS)
    swarm: Swarm = request.app.state.swarm
    demand: OnDemand = request.app.state.on_demand
    if swarm.snapshot is None:
        return _response(Badge("petals", "unknown", GREY), 503)
    prefix = request.path_params["dht_prefix"]
    model = next((report for report in swarm.snapshot.models if report.dht_prefix == prefix), None)
    if model is None:
        return _response(Badge("petals", "unknown", GREY), 404)

    async def make() -> Body:
        uptime, view = None, swarm.view()
        if given == Metric.UPTIME:
            with suppress(HistoryAwayError):
                uptime = (await request.app.state.history.model(prefix)).uptimes()[UPTIME_WINDOW]
        return await demand.draw(lambda: _body(_badge(Metric(given), model, view, uptime)))

    return await demand.get(resource(request.scope), make)


def _badge(metric: Metric, model: ModelReport, view: View, uptime: float | None) -> Badge:
    if metric is Metric.UPTIME:
        return uptime_badge(_label(model), uptime)
    if metric is Metric.STATE:
        return state_badge(model, view)
    return Badge(_label(model), "unknown", GREY) if view.stale else coverage_badge(_label(model), model)


def _body(badge: Badge) -> Body:
    return Body.make(draw(badge).encode(), SVG, headers=_headers(CACHE_SECONDS), route=ROUTE)


def ready(view: View) -> dict[str, Body]:
    """Return the state badges of all models by path, for the table of ready bodies."""
    models = view.snapshot.models if view.snapshot is not None else ()
    return {f"/badge/{model.dht_prefix}.svg": _body(state_badge(model, view)) for model in models}


def state_badge(model: ModelReport, view: View) -> Badge:
    if view.stale:
        return Badge(_label(model), "unknown", GREY)
    return Badge(_label(model), str(model.state), GREEN if model.state is ModelState.HEALTHY else RED)


def _label(model: ModelReport) -> str:
    return text.cut(model.short_name, MAX_LABEL) or "petals"


def coverage_badge(label: str, model: ModelReport) -> Badge:
    covered = coverage(model).covered_blocks
    color = GREEN if covered == model.num_blocks else AMBER if covered else RED
    return Badge(label, f"{covered}/{model.num_blocks} blocks", color)


def uptime_badge(label: str, uptime: float | None) -> Badge:
    if uptime is None:
        return Badge(label, "uptime unknown", GREY)
    color = GREEN if uptime >= GOOD_UPTIME else AMBER if uptime >= FAIR_UPTIME else RED
    return Badge(label, f"uptime {percent(uptime)}", color)


def percent(share: float) -> str:
    """`99.9%`; 100 only where it is."""
    shown = min(share * 100, 99.9) if share < 1 else 100
    return f"{shown:.1f}%".replace(".0%", "%")


def draw(badge: Badge) -> str:
    """Return the SVG. Text widths are estimated, and the text is made to fit the estimate."""
    left, right = text_width(badge.label) + 12, text_width(badge.message) + 12
    total, words = left + right, escape(f"{badge.label}: {badge.message}")
    spans = "".join(
        f'<text x="{x}" y="14" textLength="{width - 12}" lengthAdjust="spacingAndGlyphs">{escape(part)}</text>'
        for x, width, part in (
            (left / 2, left, badge.label),
            (left + right / 2, right, badge.message),
        )
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="20" viewBox="0 0 {total} 20" role="img" '
        f'aria-label="{words}"><title>{words}</title>'
        f'<clipPath id="r"><rect width="{total}" height="20" rx="3"/></clipPath><g clip-path="url(#r)">'
        f'<rect width="{left}" height="20" fill="#413d52"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{badge.color}"/></g>'
        f'<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="11">'
        f"{spans}</g></svg>"
    )


def text_width(words: str) -> int:
    """Pixels that the words take in Verdana of 11 px, roughly."""
    width = 0.0
    for char in words:
        if unicodedata.east_asian_width(char) in "WF":
            width += 11
        elif char in _NARROW:
            width += 4.2
        elif char in _WIDE:
            width += 10
        else:
            width += 7.6 if char.isupper() else 6.7
    return round(width)


def _response(badge: Badge, status: int) -> Response:
    return Response(draw(badge), status, media_type=SVG, headers=_headers(UNKNOWN_SECONDS))


def _headers(seconds: int) -> dict[str, str]:
    return {
        **CORS,
        "cache-control": f"public, max-age={seconds}",
        "content-security-policy": "default-src 'none'",
        "x-content-type-options": "nosniff",
    }
