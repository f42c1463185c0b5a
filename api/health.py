"""`/livez` and `/readyz`, for supervisors and load balancers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.swarm import Swarm


async def livez(request: Request) -> Response:
    """The process answers."""
    return JSONResponse({"status": "alive"})


async def readyz(request: Request) -> Response:
    """It has something to serve: a snapshot, however old, or a Redis that will bring one. Else 503."""
    swarm: Swarm = request.app.state.swarm
    ready = swarm.connected or swarm.snapshot is not None
    document = {
        "status": "ready" if ready else "waiting for Redis",
        "redis": swarm.connected,
        "snapshot_age": swarm.view().age,
    }
    return JSONResponse(document, 200 if ready else 503)
