"""`GET /api/v1/models`, `/api/v1/models/{dht_prefix}`, `/api/v1/servers/{peer_id}`: parts of the state, by name.

Servers' rows are those of `/api/v1/state`. Each document is made once a snapshot, when it is first asked for.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec

from api.endpoints.state import no_snapshot
from api.http.headers import CORS
from api.http.problems import Problem
from api.http.resources import resource
from api.pages import near_models, near_servers
from api.responses.on_demand import document
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.public.models import model_document, models_document, server_document

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from api.responses.on_demand import OnDemand
    from api.responses.prepared import Body
    from api.responses.swarm import Swarm
    from shared.snapshot import Snapshot

T = TypeVar("T")


async def models(request: Request) -> Body:
    """All models without their servers."""
    snapshot = _snapshot(request)
    return await _body(request, "/api/v1/models", lambda: models_document(snapshot))


async def model(request: Request) -> Body:
    """One model with its servers."""
    snapshot, prefix = _snapshot(request), request.path_params["dht_prefix"]
    found = next((report for report in snapshot.models if report.dht_prefix == prefix), None)
    if found is None:
        raise await unknown(request, "model", prefix)
    show = request.app.state.swarm.view().show_addresses
    make = partial(model_document, snapshot, found, show_addresses=show)
    return await _body(request, "/api/v1/models/{dht_prefix}", make)


async def server(request: Request) -> Body:
    """One server or bootstrap peer, in whatever form its peer id is written."""
    snapshot, peer_id = _snapshot(request), await checked_peer_id(request)
    show = request.app.state.swarm.view().show_addresses
    make = partial(server_document, snapshot, peer_id, show_addresses=show)
    return await _body(request, "/api/v1/servers/{peer_id}", make, missing=("server", peer_id))


async def checked_peer_id(request: Request) -> str:
    """Return the peer id of the path in its canonical form. Raises a 400 `Problem`."""
    given: str = request.path_params["peer_id"]
    try:
        return parse_peer_id(given)
    except BadPeerIdError as error:
        near = await _draw(request, partial(near_servers, request.app.state.swarm.snapshot, given))
        raise Problem(400, f"Bad peer id: {error}.", headers=CORS, near=near) from error


async def unknown(request: Request, kind: str, name: str) -> Problem:
    """What is said of a model or a server that is not there; before the first snapshot, that there is none."""
    swarm: Swarm = request.app.state.swarm
    if swarm.snapshot is None:
        return no_snapshot(swarm)
    near = await _draw(request, partial(near_models if kind == "model" else near_servers, swarm.snapshot, name))
    return Problem(404, f"No {kind} {name[:100]!r} is known.", headers=CORS, near=near)


def _snapshot(request: Request) -> Snapshot:
    swarm: Swarm = request.app.state.swarm
    if swarm.snapshot is None:
        raise no_snapshot(swarm)
    return swarm.snapshot


async def _draw(request: Request, make: Callable[[], T]) -> T:
    demand: OnDemand = request.app.state.on_demand
    return await demand.draw(make)


async def _body(
    request: Request,
    route: str,
    make: Callable[[], msgspec.Struct | None],
    missing: tuple[str, str] | None = None,
) -> Body:
    """Return what `make` makes, in the thread; where that is None, `missing` is unknown."""
    demand: OnDemand = request.app.state.on_demand

    def draw() -> Body | None:
        made = make()
        return None if made is None else document(msgspec.json.encode(made), route)

    async def load() -> Body:
        body = await demand.draw(draw)
        if body is None:
            assert missing is not None  # noqa: S101 - who returns None says so
            raise await unknown(request, *missing)
        return body

    return await demand.get(resource(request.scope), load)
