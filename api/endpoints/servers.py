"""Servers: `/servers/{peer_id}` for people, `/api/v1/servers/{peer_id}` for programs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse, Response

from api.http.problems import Problem
from api.pages.search import is_peer, match_href, named
from api.responses import kinds
from api.responses.history_cache import in_time
from api.services import services_of
from shared.advice.servers import never_announced
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.public.models import server_document

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.pages import View
    from api.responses.prepared import PreparedResponse
    from api.services import Services
    from shared.incidents import Incident
    from shared.store.history import ServerHistory


async def page(request: Request) -> Response | PreparedResponse:
    """A server or bootstrap peer and its past, in whatever form its peer id is written."""
    services = services_of(request)
    given: str = request.path_params["peer_id"]
    try:
        peer_id = parse_peer_id(given)
    except BadPeerIdError as error:
        return await _resolved(services, given, error)
    if peer_id != given:
        return RedirectResponse(f"/servers/{peer_id}")
    services.snapshot()

    async def read() -> tuple[ServerHistory | None, tuple[Incident, ...] | None]:
        return await asyncio.gather(in_time(services.history.server(peer_id)), in_time(services.history.incidents()))

    def draw(view: View, past: tuple[ServerHistory | None, tuple[Incident, ...] | None]) -> PreparedResponse:
        history, incidents = past
        html = services.pages.server(view, peer_id, history=history, incidents=incidents or ())
        if html is None:
            raise _never_announced(services, peer_id)
        return kinds.page(html)

    return await services.read_and_draw(request, read, draw)


async def _resolved(services: Services, given: str, error: Exception) -> Response:
    """Redirect to the one peer that a text names which is not a peer id itself: a short id, an address, a log line."""
    services.snapshot()
    resolution = await services.resolve(given)
    if resolution.only is not None and is_peer(resolution.only):
        return RedirectResponse(match_href(resolution.only))
    near = named((*resolution.found, *resolution.suggestions))
    detail = resolution.sentence or "This names no single server."
    raise Problem(404, detail, near=near, heading="No such server", asked=given) from error


def _never_announced(services: Services, peer_id: str) -> Problem:
    """Return the 404 of a well-formed peer id that neither the snapshot nor the history knows, in its own words."""
    told = never_announced(services.swarm.snapshot)
    near = services.suggestions("server", peer_id)
    heading = f"…{peer_id[-6:]} {told.title}"
    return Problem(404, told.sentences, near=near, heading=heading, asked=peer_id)


async def server(request: Request) -> PreparedResponse:
    """One server or bootstrap peer, in whatever form its peer id is written."""
    services = services_of(request)
    peer_id = await services.peer_id(request.path_params["peer_id"])
    snapshot, freshness = services.snapshot(), services.swarm.view().freshness

    def draw(_: View) -> PreparedResponse:
        document = server_document(snapshot, peer_id, freshness, show_addresses=True)
        if document is None:
            raise services.unknown("server", peer_id)
        return kinds.document(document)

    return await services.draw(request, draw)
