"""Outages: the page `/incidents`, `/api/v1/incidents` for programs, `/incidents.atom` for feed readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.base_address import base_address
from api.http.limit import limit_of
from api.http.resources import resource
from api.pages.feed import atom_feed
from api.pages.history import events
from api.responses import kinds
from api.services import services_of
from shared.public.incidents import incidents_document

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.responses.prepared import PreparedResponse

MAX_ON_PAGE = 200
MAX_LIMIT = 1_000


async def page(request: Request) -> PreparedResponse:
    """Incidents for people: those that last, and those that ended."""
    services = services_of(request)

    async def make() -> PreparedResponse:
        found, view = await services.history.incidents(), services.swarm.view()

        def render() -> PreparedResponse:
            ongoing, ended = events(found, view.now)
            left_out = max(0, len(ended) - MAX_ON_PAGE)
            html = services.pages.incidents(view, ongoing, ended[:MAX_ON_PAGE], left_out=left_out)
            return kinds.page(html, "/incidents")

        return await services.on_demand.render(render)

    return await services.on_demand.get(resource(request.scope), make)


async def incidents(request: Request) -> PreparedResponse:
    """All incidents, the newest first; `?limit=` of them, `?model=` for those of one DHT prefix."""
    services = services_of(request)
    limit = limit_of(request, MAX_LIMIT)
    wanted = request.query_params.get("model")

    async def make() -> PreparedResponse:
        # A filter that was never asked for before costs no read of Redis.
        found = [each for each in await services.history.incidents() if wanted is None or each.dht_prefix == wanted]
        return await services.on_demand.render(
            lambda: kinds.document(incidents_document(found, limit), "/api/v1/incidents")
        )

    return await services.on_demand.get(resource(request.scope), make)


async def atom(request: Request) -> PreparedResponse:
    """The newest incidents as a feed."""
    services, base = services_of(request), base_address(request)

    async def make() -> PreparedResponse:
        found = await services.history.incidents()

        def render() -> PreparedResponse:
            return kinds.feed(atom_feed(found, base=base, now=services.clock.now()), "/incidents.atom")

        return await services.on_demand.render(render)

    return await services.on_demand.get(f"{base} {resource(request.scope)}", make)
