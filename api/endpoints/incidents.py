"""Outages: the page `/incidents`, `/api/v1/incidents` for programs, `/incidents.atom` for feed readers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from api.http.base_address import base_address
from api.http.limit import parse_limit
from api.http.resources import parameters
from api.pages.feed import atom_feed
from api.pages.incidents import FirstSeen
from api.responses import kinds
from api.responses.history_cache import in_time
from api.services import services_of
from shared.judgement.outages import outages
from shared.public.incidents import incidents_document
from shared.store.rings import Resolution

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.pages import View
    from api.responses.history_cache import HistoryCache
    from api.responses.prepared import PreparedResponse
    from shared.incidents import Incident

MAX_PASTS = 20
"""Models that are broken without an incident whose past the page reads."""
MAX_LIMIT = 1_000


async def page(request: Request) -> PreparedResponse:
    """Incidents for people: those that last, and those that ended."""
    services = services_of(request)

    async def read() -> tuple[tuple[Incident, ...], dict[str, FirstSeen]]:
        found = await services.history.incidents()
        without = [each.dht_prefix for each in outages(services.swarm.snapshot, found) if each.incident is None]
        pasts = await in_time(asyncio.gather(*(_past(services.history, prefix) for prefix in without[:MAX_PASTS])))
        return found, dict(zip(without, pasts or (), strict=False))

    return await services.read_and_draw(
        request, read, lambda view, found: kinds.page(services.pages.incidents(view, *found))
    )


async def _past(history: HistoryCache, dht_prefix: str) -> FirstSeen:
    hours, minutes = await asyncio.gather(history.model(dht_prefix), history.model(dht_prefix, Resolution.MINUTE))
    return FirstSeen.of(hours, minutes)


async def incidents(request: Request) -> PreparedResponse:
    """All incidents, the newest first; `?limit=` of them, `?model=` for those of one DHT prefix."""
    services = services_of(request)
    given = parameters(request.scope)
    limit, wanted = parse_limit(given.get("limit"), MAX_LIMIT), given.get("model")

    def draw(view: View, found: tuple[Incident, ...]) -> PreparedResponse:
        return kinds.document(incidents_document(found, limit, view.snapshot, view.freshness, dht_prefix=wanted))

    # A filter that was never asked for before costs no read of Redis.
    return await services.read_and_draw(request, services.history.incidents, draw)


async def atom(request: Request) -> PreparedResponse:
    """The newest incidents as a feed."""
    services, base = services_of(request), base_address(request)

    def draw(view: View, found: tuple[Incident, ...]) -> PreparedResponse:
        return kinds.feed(atom_feed(found, base=base, now=view.now, last_seen=view.last_seen))

    key = f"{base} {services.public_resource(request)}"
    return await services.read_and_draw(request, services.history.incidents, draw, key=key)
