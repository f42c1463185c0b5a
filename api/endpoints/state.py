"""`/api/v1/state` and `/swarm.txt` where the table of ready bodies has no answer: before it has the first one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.headers import CORS, TEXT
from api.http.problems import Problem
from api.http.resources import resource
from api.responses.prepared import Body
from shared.text_picture import text_picture

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.responses.on_demand import OnDemand
    from api.responses.prepared import BodyTable
    from api.responses.swarm import Swarm
    from shared.snapshot import Snapshot

TEXT_PATH = "/swarm.txt"
COLOR_PATH = "/swarm.txt?color=1"

NO_SNAPSHOT_RETRY = 5


async def state(request: Request) -> Body:
    """The whole state as JSON. 503 before the first snapshot; a replica that is making its first one is waited for."""
    table: BodyTable = request.app.state.table
    swarm: Swarm = request.app.state.swarm
    body = table.find(request.scope)
    if body is None and swarm.snapshot is not None:
        await swarm.rendered()
        body = table.find(request.scope)
    if body is None:
        raise no_snapshot(swarm)
    return body


def text_body(snapshot: Snapshot, *, color: bool) -> Body:
    """Draw the picture and compress it."""
    return Body.make(
        text_picture(snapshot, color=color).encode(),
        TEXT,
        headers=CORS,
        vary="Accept, Accept-Encoding",
        route=TEXT_PATH,
    )


async def text(request: Request) -> Body:
    """The picture, with terminal colours where `?color=1` asks for them, until the table has it."""
    table: BodyTable = request.app.state.table
    swarm: Swarm = request.app.state.swarm
    demand: OnDemand = request.app.state.on_demand
    snapshot = swarm.snapshot
    if snapshot is None:
        raise no_snapshot(swarm)
    if request.url.path == TEXT_PATH and (body := table.find(request.scope)) is not None:
        return body
    color = resource(request.scope) == COLOR_PATH

    async def make() -> Body:
        return await demand.draw(lambda: text_body(snapshot, color=color))

    return await demand.get(f"{TEXT_PATH}#{color}", make)


def no_snapshot(swarm: Swarm) -> Problem:
    """What is said while there is nothing to show, with the reason where one is known."""
    if swarm.status is not None and not swarm.status.ok:
        reason = f"the last crawl failed: {swarm.status.error}"
    elif not swarm.connected:
        reason = "Redis is away"
    else:
        reason = "the first crawl has not ended"
    return Problem(
        503,
        f"There is no snapshot of the swarm yet: {reason}.",
        headers={**CORS, "retry-after": str(NO_SNAPSHOT_RETRY)},
    )
