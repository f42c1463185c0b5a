"""`/events`: server-sent events, which tell open pages that there is something new.

With `?server=`, `?model=` or `?contributor=` the changes of these come as well, with `?changes=all` those of everybody.

All subscribers of a process share its one Redis reader; each costs a waiting task.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.responses import Response, StreamingResponse

from api.http.headers import EVENT_STREAM
from api.http.problems import Problem
from api.responses.changes import filter_of
from api.services import services_of
from shared.changes import ChangeFilter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from starlette.requests import Request

    from api.metrics.process import ProcessMetrics
    from api.responses.changes import ChangeLog
    from api.responses.swarm import Swarm
    from shared.snapshot import CrawlStatus

HEARTBEAT = 15.0
"""Seconds; proxies cut connections that say nothing for a minute."""
RETRY_MS = 3000
POLL_MS = 15_000
"""For clients of HTTP/1.0, which get no stream."""
MAX_SUBSCRIBERS = 20_000


async def events(request: Request) -> Response:
    """An event for each new snapshot (its id) and each status (`ok`, the error, or how far a first crawl has come)."""
    services = services_of(request)
    swarm, metrics, wanted = services.swarm, services.metrics, _wanted(request)
    if wanted is not None:
        services.require_public(request)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    if request.method == "HEAD":
        return Response(headers=headers, media_type=EVENT_STREAM)
    if request.scope["http_version"] == "1.0":
        # It knows no body without a length but one that a closed connection ends: what is new, and come again.
        told = "".join(_news(swarm, request.headers.get("last-event-id"), None))
        return Response(f"retry: {POLL_MS}\n\n{told}", headers=headers, media_type=EVENT_STREAM)
    if metrics.subscribers >= MAX_SUBSCRIBERS:
        raise Problem(503, "Too many event streams are open; pages poll instead.", headers={"retry-after": "60"})
    return StreamingResponse(
        _counted(metrics, _stream(swarm, request.headers.get("last-event-id"), services.changes, wanted)),
        media_type=EVENT_STREAM,
        headers=headers,
    )


def _wanted(request: Request) -> ChangeFilter | None:
    """Return which changes the stream carries; None where it carries none."""
    if request.query_params.get("changes") == "all":
        return ChangeFilter()
    wanted = filter_of(request.query_params)
    return None if wanted == ChangeFilter() else wanted


async def _counted(metrics: ProcessMetrics, stream: AsyncGenerator[str, None]) -> AsyncIterator[str]:
    metrics.subscribers += 1
    try:
        async for item in stream:
            yield item
    finally:
        metrics.subscribers -= 1
        await stream.aclose()


async def _stream(
    swarm: Swarm, last_seen: str | None, changes: ChangeLog, wanted: ChangeFilter | None
) -> AsyncGenerator[str, None]:
    told_changes = changes.newest  # before the client hears that the stream is open
    yield f"retry: {RETRY_MS}\n\n"
    told = last_seen
    told_status: CrawlStatus | None = None
    while True:
        events = tuple(_news(swarm, told, told_status))
        told = swarm.snapshot_id or told
        told_status = swarm.status or told_status
        for event in events:
            yield event
        if wanted is not None:
            found = changes.events(told_changes, wanted)
            told_changes = changes.newest
            for event in found:
                yield event
        try:
            async with asyncio.timeout(HEARTBEAT):
                await swarm.changed()
        except TimeoutError:
            yield ": still here\n\n"


def _news(swarm: Swarm, told: str | None, told_status: CrawlStatus | None) -> Iterator[str]:
    """Yield what a reader does not know yet, who was told of this snapshot id and of this status."""
    if swarm.snapshot_id is not None and swarm.snapshot_id != told:
        yield f"id: {swarm.snapshot_id}\nevent: snapshot\ndata: {swarm.snapshot_id}\n\n"
    if swarm.status is not None and swarm.status != told_status:
        yield f"event: status\ndata: {' '.join(_words(swarm.status).split())}\n\n"


def _words(status: CrawlStatus) -> str:
    if (progress := status.progress) is not None:
        return f"{progress.doing} {progress.servers} {progress.dialled}"
    return "ok" if status.ok else (status.error or "failed")
