"""`/livez` and `/readyz`, for supervisors and load balancers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response

from api.http.headers import JSON
from api.services import services_of
from shared.public.health import Liveness, Readiness

if TYPE_CHECKING:
    from starlette.requests import Request


async def livez(request: Request) -> Response:
    """The process answers."""
    return _json(Liveness(status="alive"))


async def readyz(request: Request) -> Response:
    """It has something to serve: a snapshot, however old, or a Redis that will bring one; and its loops run. Else 503.

    A Redis that holds a snapshot of another version will not bring one: until it does, replicas that have one serve.
    `failing` names the loops that do not: `snapshots` (what pages show), `replies` and `admissions` (checks), `ages`.
    """
    services = services_of(request)
    swarm, tasks = services.swarm, services.tasks
    view = swarm.view()
    if tasks.failing:
        status = f"failing: {', '.join(tasks.failing)}"
    elif view.unreadable:
        status = "cannot read the snapshot that there is"
    else:
        status = "ready" if swarm.connected or swarm.snapshot is not None else "waiting for Redis"
    readiness = Readiness(status=status, redis=swarm.connected, snapshot_age=view.age, failing=tuple(tasks.failing))
    return _json(readiness, 200 if status == "ready" else 503)


def _json(document: Liveness, status: int = 200) -> Response:
    # A proxy that sends old pages while no replica answers must not do so with this.
    return Response(msgspec.json.encode(document), status, media_type=JSON, headers={"cache-control": "no-store"})
