"""`/badge/{dht_prefix}.svg`: a model's state, coverage or uptime as a picture for a README."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.responses import Response

from api.http.headers import SVG
from api.http.problems import Problem
from api.http.resources import parameters
from api.pages.badge import UNKNOWN, UPTIME_WINDOW, BadgeMetric, model_badge
from api.pages.view import model_of
from api.responses import kinds
from api.responses.history_cache import HistoryAwayError
from api.services import services_of
from shared.store.rings import Resolution

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.responses.prepared import PreparedResponse


async def badge(request: Request) -> Response | PreparedResponse:
    """`?metric=state` `coverage`, `uptime` (30 days), `usable` or `speed`. A picture also where nothing is known."""
    services = services_of(request)
    given = parameters(request.scope).get("metric", BadgeMetric.STATE.value)
    if given not in tuple(BadgeMetric):
        raise Problem(400, f"Bad metric {given[:50]!r}: expected one of {', '.join(BadgeMetric)}.")
    metric, prefix = BadgeMetric(given), request.path_params["dht_prefix"]
    model = model_of(services.swarm.snapshot, prefix)
    if model is None:
        status = 503 if services.swarm.snapshot is None else 404
        headers = kinds.badge_headers(kinds.UNKNOWN_BADGE_SECONDS)
        return Response(UNKNOWN.svg(), status, media_type=SVG, headers=headers)

    async def read_uptime() -> tuple[float | None, float]:
        if metric is BadgeMetric.UPTIME:
            with suppress(HistoryAwayError):
                hours = await services.history.model(prefix)
                minutes = await services.history.model(prefix, Resolution.MINUTE)
                return hours.uptimes()[UPTIME_WINDOW], hours.watched(minutes)[UPTIME_WINDOW]
        return None, 0.0

    return await services.read_and_draw(
        request, read_uptime, lambda view, uptime: kinds.badge(model_badge(metric, model, view, *uptime).svg())
    )
