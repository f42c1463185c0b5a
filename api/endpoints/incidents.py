"""Outages: the page `/incidents`, `/api/v1/incidents` for programs, `/incidents.atom` for feed readers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.responses import Response

from api.http.base_address import base_address
from api.http.headers import ATOM
from api.http.problems import Problem
from api.http.resources import resource
from api.pages.feed import atom_feed
from api.pages.history import FirstSeen
from api.responses import kinds
from api.responses.history_cache import in_time
from api.responses.read_through import FRESH_SECONDS
from api.services import services_of
from shared.judgement.outages import outages
from shared.public.incidents import incidents_document
from shared.store.rings import Resolution

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.responses.history_cache import HistoryCache
    from api.responses.prepared import PreparedResponse

MAX_PASTS = 20
"""Models that are broken without an incident whose past the page reads."""
MAX_LIMIT = 1_000


async def page(request: Request) -> PreparedResponse:
    """Incidents for people: those that last, and those that ended."""
    services = services_of(request)

    async def make() -> PreparedResponse:
        found, view = await services.history.incidents(), services.swarm.view()
        without = [each.dht_prefix for each in outages(view.snapshot, found) if each.incident is None]
        read = await in_time(asyncio.gather(*(_past(services.history, prefix) for prefix in without[:MAX_PASTS])))
        pasts = dict(zip(without, read or (), strict=False))

        def render() -> PreparedResponse:
            return kinds.page(services.pages.incidents(view, found, pasts), "/incidents")

        return await services.on_demand.render(render)

    return await services.on_demand.get(resource(request.scope), make)


async def _past(history: HistoryCache, dht_prefix: str) -> FirstSeen:
    hours, minutes = await asyncio.gather(history.model(dht_prefix), history.model(dht_prefix, Resolution.MINUTE))
    return FirstSeen.of(hours, minutes)


async def incidents(request: Request) -> PreparedResponse:
    """All incidents, the newest first; `?limit=` of them, `?model=` for those of one DHT prefix."""
    services = services_of(request)
    limit = _limit(request.query_params.get("limit"))
    wanted = request.query_params.get("model")

    async def make() -> PreparedResponse:
        # A filter that was never asked for before costs no read of Redis.
        found, view = await services.history.incidents(), services.swarm.view()

        def render() -> PreparedResponse:
            document = incidents_document(found, limit, view.snapshot, view.freshness, dht_prefix=wanted)
            return kinds.document(document, "/api/v1/incidents")

        return await services.on_demand.render(render)

    return await services.on_demand.get(resource(request.scope), make)


async def atom(request: Request) -> Response:
    """The newest incidents as a feed."""
    services = services_of(request)
    found, view = await services.history.incidents(), services.swarm.view()
    content = atom_feed(found, base=base_address(request), now=view.now, last_seen=view.last_seen)
    headers = {"cache-control": f"public, max-age={FRESH_SECONDS:.0f}", "vary": "Host"}
    return Response(content, media_type=ATOM, headers=headers)


def _limit(given: str | None) -> int:
    if given is None:
        return MAX_LIMIT
    if (
        not given.isascii()
        or not given.isdigit()
        or len(given) > len(str(MAX_LIMIT))
        or not 1 <= int(given) <= MAX_LIMIT
    ):
        raise Problem(400, f"Bad limit {given[:50]!r}: expected a number from 1 to {MAX_LIMIT}.")
    return int(given)
