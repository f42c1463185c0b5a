"""Servers: `/servers/{peer_id}` for people, `/api/v1/servers/{peer_id}` for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse, Response

from api.http.resources import resource
from api.responses import kinds
from api.responses.history_cache import in_time
from api.services import services_of
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.public.models import server_document

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.responses.prepared import PreparedResponse


async def page(request: Request) -> Response | PreparedResponse:
    """A server or bootstrap peer and its past, in whatever form its peer id is written."""
    services = services_of(request)
    given: str = request.path_params["peer_id"]
    try:
        peer_id = parse_peer_id(given)
    except BadPeerIdError as error:
        why = f"{error}"
        detail = f"The latest snapshot has no server {given[:100]!r}. {why[0].upper()}{why[1:]}."
        raise await services.unknown("server", given, detail) from error
    if peer_id != given:
        return RedirectResponse(f"/servers/{peer_id}")
    services.snapshot()

    async def make() -> PreparedResponse:
        view = services.swarm.view()
        history = await in_time(services.history.server(peer_id))

        def render() -> PreparedResponse | None:
            html = services.pages.server(view, peer_id, history=history)
            return None if html is None else kinds.page(html, "/servers/{peer_id}")

        response = await services.on_demand.render(render)
        if response is None:
            detail = f"The latest snapshot has no server {peer_id[:100]!r}."
            raise await services.unknown("server", peer_id, detail)
        return response

    return await services.on_demand.get(resource(request.scope), make)


async def server(request: Request) -> PreparedResponse:
    """One server or bootstrap peer, in whatever form its peer id is written."""
    services = services_of(request)
    peer_id = await services.peer_id(request.path_params["peer_id"])
    snapshot, freshness = services.snapshot(), services.swarm.view().freshness

    def render() -> PreparedResponse | None:
        document = server_document(snapshot, peer_id, freshness, show_addresses=services.settings.show_addresses)
        return None if document is None else kinds.document(document, "/api/v1/servers/{peer_id}")

    async def make() -> PreparedResponse:
        response = await services.on_demand.render(render)
        if response is None:
            raise await services.unknown("server", peer_id, f"No server {peer_id[:100]!r} is known.")
        return response

    return await services.on_demand.get(resource(request.scope), make)
