"""`/api/v1/state` and `/swarm.txt` where the table of ready bodies has no answer: queries, and before the first one."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from starlette.responses import Response

from api.headers import CORS, TEXT
from api.problems import Problem
from shared.text_picture import text_picture

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.bodies import BodyTable
    from api.swarm import Swarm

NO_SNAPSHOT_RETRY = 5


async def state(request: Request) -> Response:
    """The whole state as JSON. 503 before the first snapshot; a replica that is making its first one is waited for."""
    table: BodyTable = request.app.state.table
    swarm: Swarm = request.app.state.swarm
    body = table.find(request.scope)
    if body is None and swarm.snapshot is not None:
        await swarm.rendered()
        body = table.find(request.scope)
    if body is None:
        raise no_snapshot(swarm)
    return cast("Response", body)  # an ASGI app, which is all that a response has to be


async def text(request: Request) -> Response:
    """The picture, with terminal colours where `?color=1` asks for them."""
    swarm: Swarm = request.app.state.swarm
    if swarm.snapshot is None:
        raise no_snapshot(swarm)
    color = request.query_params.get("color") == "1"
    return Response(text_picture(swarm.snapshot, color=color), headers=CORS, media_type=TEXT)


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
