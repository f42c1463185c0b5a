"""Outages: the page `/incidents`, `/api/v1/incidents` for programs, `/incidents.atom` for feed readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from api.http.headers import ATOM
from api.http.own_address import own_address
from api.http.problems import Problem
from api.http.resources import resource
from api.pages.feed import atom_feed
from api.pages.history import events
from api.responses import kinds
from api.responses.read_through import FRESH_SECONDS
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
    limit = _limit(request.query_params.get("limit"))
    wanted = request.query_params.get("model")

    async def make() -> PreparedResponse:
        # A filter that was never asked for before costs no read of Redis.
        found = [each for each in await services.history.incidents() if wanted is None or each.dht_prefix == wanted]
        return await services.on_demand.render(
            lambda: kinds.document(incidents_document(found, limit), "/api/v1/incidents")
        )

    return await services.on_demand.get(resource(request.scope), make)


async def atom(request: Request) -> Response:
    """The newest incidents as a feed."""
    services = services_of(request)
    content = atom_feed(await services.history.incidents(), base=own_address(request), now=services.clock.now())
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
