"""`/check/{peer_id}/stages`: server-sent events that tell an open page how far a check has come.

It begins no check: it reads what workers write about the running one, whichever process requested it, with two reads of
Redis per interval and stream. A page without this stream shows the verdict only.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redis.exceptions import RedisError
from starlette.responses import Response, StreamingResponse

from api.http.headers import EVENT_STREAM
from api.http.problems import Problem
from api.services import services_of
from shared.reachability import ANSWER_WITHIN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from api.checks.client import CheckClient

INTERVAL = 0.4
"""Seconds between reads. Workers write once a second."""
MAX_FOLLOWERS = 200
"""Open streams of one process; more pages wait without stages."""


async def stages(request: Request) -> Response:
    """A `stage` event (queue, lookup, dial, security, protocol) for each stage that the peer's check comes to."""
    services = services_of(request)
    peer_id = await services.peer_id(request.path_params["peer_id"])
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    if request.method == "HEAD" or request.scope["http_version"] == "1.0":  # it would wait for the end of the body
        return Response(headers=headers, media_type=EVENT_STREAM)
    if services.checks.followers >= MAX_FOLLOWERS:
        raise Problem(503, "Too many checks are watched; the verdict comes without.", headers={"retry-after": "10"})
    return StreamingResponse(_follow(services.checks, peer_id), media_type=EVENT_STREAM, headers=headers)


async def _follow(checks: CheckClient, peer_id: str) -> AsyncIterator[str]:
    checks.followers += 1
    try:
        told = None
        yield ": watching\n\n"
        for _ in range(round(ANSWER_WITHIN / INTERVAL)):
            try:
                stage = await checks.stage(peer_id)
            except (RedisError, OSError):
                return
            if stage is None and told is not None:
                return  # its verdict is there
            if stage is not None and stage != told:
                told = stage
                yield f"event: stage\ndata: {stage}\n\n"
            await asyncio.sleep(INTERVAL)
    finally:
        checks.followers -= 1
