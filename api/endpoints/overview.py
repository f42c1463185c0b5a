"""The swarm as a whole: `/`, `/api/v1/state`, `/swarm.txt`.

These are prepared once per snapshot (`api.responses.per_snapshot`). The handlers answer until that has happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.resources import resource
from api.responses.kinds import COLORED, swarm_text
from api.services import services_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.responses.prepared import PreparedResponse


async def state(request: Request) -> PreparedResponse:
    """The whole state as JSON. 503 before the first snapshot; while a replica renders its first one, this waits."""
    services = services_of(request)
    prepared = services.prepared.find(request.scope)
    if prepared is None and services.swarm.snapshot is not None:
        await services.swarm.rendered()
        prepared = services.prepared.find(request.scope)
    if prepared is None:
        raise services.no_snapshot()
    return prepared


async def text(request: Request) -> PreparedResponse:
    """A picture of the swarm for terminals, with colours where `?color=1` asks for them; also what `/` is as text."""
    services = services_of(request)
    snapshot, freshness = services.snapshot(), services.swarm.view().freshness
    if (prepared := services.prepared.find(request.scope)) is not None:
        return prepared
    color = resource(request.scope) == COLORED
    return await services.draw(request, lambda _: swarm_text(snapshot, freshness, color=color), key=f"text {color}")
