"""`/events`: server-sent events tell open pages that there is something new.

All subscribers of a process share its one Redis reader; each costs a waiting task.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.responses import Response, StreamingResponse

from api.headers import CORS
from api.problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from starlette.requests import Request

    from api.metrics import ApiMetrics
    from api.swarm import Swarm
    from shared.snapshot import CrawlStatus

HEARTBEAT = 15.0
"""Seconds; proxies cut connections that say nothing for a minute."""
RETRY_MS = 3000
MAX_SUBSCRIBERS = 20_000


async def events(request: Request) -> Response:
    """An event for each new snapshot (its id) and each status (`ok`, the error, or how far a first crawl has come)."""
    swarm: Swarm = request.app.state.swarm
    metrics: ApiMetrics = request.app.state.metrics
    if metrics.subscribers >= MAX_SUBSCRIBERS:
        raise Problem(503, "Too many event streams are open; pages poll instead.", headers={"retry-after": "60"})
    return StreamingResponse(
        _counted(metrics, _stream(swarm, request.headers.get("last-event-id"))),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no", **CORS},
    )


async def _counted(metrics: ApiMetrics, stream: AsyncGenerator[str, None]) -> AsyncIterator[str]:
    metrics.subscribers += 1
    try:
        async for item in stream:
            yield item
    finally:
        metrics.subscribers -= 1
        await stream.aclose()


async def _stream(swarm: Swarm, last_seen: str | None) -> AsyncGenerator[str, None]:
    yield f"retry: {RETRY_MS}\n\n"
    told = last_seen
    told_status: CrawlStatus | None = None
    while True:
        if swarm.snapshot_id is not None and swarm.snapshot_id != told:
            told = swarm.snapshot_id
            yield f"id: {told}\nevent: snapshot\ndata: {told}\n\n"
        if swarm.status is not None and swarm.status != told_status:
            told_status = swarm.status
            words = _words(told_status)
            yield f"event: status\ndata: {' '.join(words.split())}\n\n"
        try:
            async with asyncio.timeout(HEARTBEAT):
                await swarm.changed()
        except TimeoutError:
            yield ": still here\n\n"


def _words(status: CrawlStatus) -> str:
    if (progress := status.progress) is not None:
        return f"{progress.doing} {progress.servers} {progress.dialled}"
    return "ok" if status.ok else (status.error or "failed")
