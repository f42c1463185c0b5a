"""`GET /api/v1/models`, `/api/v1/models/{dht_prefix}`, `/api/v1/servers/{peer_id}`: parts of the state, by name.

Servers' rows are those of `/api/v1/state`. Each document is made once a snapshot, when it is first asked for.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from api.documents import (
    ModelDocument,
    ModelsDocument,
    ModelSummary,
    ServerCounts,
    ServerDocument,
    ServerIssue,
    ServerShare,
)
from api.headers import CORS
from api.on_demand import document
from api.pages import near_models, near_servers
from api.problems import Problem
from api.queries import resource
from api.state import no_snapshot
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.snapshot import Snapshot, Verdict
from shared.state_document import state_document
from shared.store.rings import slowest_block

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from api.bodies import Body
    from api.on_demand import OnDemand
    from api.swarm import Swarm
    from shared.snapshot import ModelReport

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


def models_document(snapshot: Snapshot) -> ModelsDocument:
    return ModelsDocument(
        last_updated=snapshot.taken_at,
        update_period=snapshot.update_period,
        models=tuple(ModelSummary(**_summary(report)) for report in snapshot.models),
    )


def model_document(snapshot: Snapshot, report: ModelReport, *, show_addresses: bool) -> ModelDocument:
    alone = msgspec.structs.replace(snapshot, models=(report,))
    shown = state_document(alone, show_addresses=show_addresses)["model_reports"][0]
    return ModelDocument(
        last_updated=snapshot.taken_at,
        update_period=snapshot.update_period,
        redundancy=tuple(report.redundancy()),
        server_rows=tuple(shown["server_rows"]),
        **_summary(report),
    )


def server_document(snapshot: Snapshot, peer_id: str, *, show_addresses: bool) -> ServerDocument | None:
    """None where the snapshot does not know the peer."""
    shares = []
    for report in snapshot.models:
        if not any(server.peer_id == peer_id for server in report.servers):
            continue
        # Its row and, for the pings to it, those that pinged it.
        near = [
            server for server in report.servers if server.peer_id == peer_id or peer_id in (server.next_pings or ())
        ]
        alone = msgspec.structs.replace(
            snapshot, models=(msgspec.structs.replace(report, servers=tuple(near)),), reachability_issues=()
        )
        shown = state_document(alone, show_addresses=show_addresses)["model_reports"][0]["server_rows"]
        shares += [
            ServerShare(dht_prefix=report.dht_prefix, name=report.name, num_blocks=report.num_blocks, row=row)
            for row in shown
            if row["peer_id"] == peer_id
        ]
    bootstrap = next((peer for peer in snapshot.bootstrap_peers if peer.peer_id == peer_id), None)
    if not shares and bootstrap is None:
        return None
    issue = next((issue for issue in snapshot.reachability_issues if issue.peer_id == peer_id), None)
    return ServerDocument(
        last_updated=snapshot.taken_at,
        update_period=snapshot.update_period,
        peer_id=peer_id,
        bootstrap_state=None
        if bootstrap is None
        else "online"
        if bootstrap.verdict is Verdict.REACHABLE
        else str(bootstrap.verdict),
        shares=tuple(shares),
        issue=None if issue is None else ServerIssue(err=issue.error, advice=issue.advice),
    )


def _summary(report: ModelReport) -> dict[str, Any]:
    redundancy = report.redundancy()
    states = Counter(str(server.state) for server in report.servers)
    return {
        "dht_prefix": report.dht_prefix,
        "name": report.name,
        "short_name": report.short_name,
        "repository": report.repository,
        "official": report.official,
        "limited": report.limited,
        "state": report.state,
        "num_blocks": report.num_blocks,
        "covered_blocks": sum(map(bool, redundancy)),
        "min_redundancy": min(redundancy, default=0),
        "slowest_block_throughput": round(slowest_block(report), 2),
        "servers": ServerCounts(**states),
    }


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
