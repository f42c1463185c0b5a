"""`/livez` and `/readyz`, for supervisors and load balancers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from api.services import services_of

if TYPE_CHECKING:
    from starlette.requests import Request


async def livez(request: Request) -> Response:
    """The process answers."""
    return JSONResponse({"status": "alive"})


async def readyz(request: Request) -> Response:
    """It has something to serve: a snapshot, however old, or a Redis that will bring one; and its loops run. Else 503.

    `failing` names the loops that do not: `snapshots` (what pages show), `replies` and `admissions` (checks), `ages`.
    """
    services = services_of(request)
    swarm, tasks = services.swarm, services.tasks
    served = swarm.connected or swarm.snapshot is not None
    status = f"failing: {', '.join(tasks.failing)}" if tasks.failing else "ready" if served else "waiting for Redis"
    document = {
        "status": status,
        "redis": swarm.connected,
        "snapshot_age": swarm.view().age,
        "failing": tasks.failing,
    }
    return JSONResponse(document, 200 if status == "ready" else 503)
