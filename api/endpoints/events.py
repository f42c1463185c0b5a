"""`/events`: server-sent events, which tell open pages that there is something new.

With `?server=`, `?model=` or `?contributor=` the changes of these come as well, with `?changes=all` those of everybody.

All streams of a process share its one Redis reader; each costs a waiting task.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.responses import Response

from api.http.connection_limits import ENDLESS
from api.http.headers import EVENT_STREAM
from api.http.problems import Problem
from api.responses.changes import filter_of
from api.services import services_of
from shared.changes import ChangeFilter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from api.responses.swarm import Swarm
    from api.services import Services
    from shared.snapshot import CrawlStatus

RETRY_MS = 3000
POLL_MS = 15_000
"""For clients of HTTP/1.0, which get no stream."""
MAX_SUBSCRIBERS = 20_000


async def events(request: Request) -> Response:
    """An event for each new snapshot (its id) and each status (`ok`, the error, or how far a first crawl has come)."""
    services = services_of(request)
    wanted = _wanted(request)
    if wanted is not None:
        services.require_public(request)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    if request.method == "HEAD":
        return Response(headers=headers, media_type=EVENT_STREAM)
    if request.scope["http_version"] == "1.0":
        # HTTP/1.0 has no streams: the answer holds what is new, and tells the client when to ask again.
        told = "".join(_news(services.swarm, request.headers.get("last-event-id"), None))
        return Response(f"retry: {POLL_MS}\n\n{told}", headers=headers, media_type=EVENT_STREAM)
    if services.metrics.subscribers >= MAX_SUBSCRIBERS:
        raise Problem(503, "Too many event streams are open; pages poll instead.", headers={"retry-after": "60"})
    return EventStream(services, wanted, request.headers.get("last-event-id"), headers)


def _wanted(request: Request) -> ChangeFilter | None:
    """Return which changes the stream carries; None where it carries none."""
    if request.query_params.get("changes") == "all":
        return ChangeFilter()
    wanted = filter_of(request.query_params)
    return None if wanted == ChangeFilter() else wanted


class EventStream(Response):
    """An answer that lasts until the client disconnects. Starlette's StreamingResponse takes a quarter more memory."""

    def __init__(
        self, services: Services, wanted: ChangeFilter | None, last_told: str | None, headers: Mapping[str, str]
    ) -> None:
        super().__init__(headers=headers, media_type=EVENT_STREAM)
        del self.headers["content-length"]
        self._swarm = services.swarm
        self._changes = services.changes
        self._metrics = services.metrics
        self._wanted = wanted
        self._told = last_told
        self._told_status: CrawlStatus | None = None
        self._told_changes = services.changes.newest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[ENDLESS] = True
        self._metrics.subscribers += 1
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(self._send(send))
                while (await receive())["type"] != "http.disconnect":
                    pass
                sending.cancel()
        finally:
            self._metrics.subscribers -= 1

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await _write(send, f"retry: {RETRY_MS}\n\n{self._news()}")
        while True:
            is_news = await self._swarm.subscribers.wait()
            # A stream with a slow client may find at its heartbeat what others were sent before.
            await _write(send, self._news() or ("" if is_news else ": still here\n\n"))

    def _news(self) -> str:
        """Return everything new in one piece, because each write costs a system call."""
        found = [*_news(self._swarm, self._told, self._told_status)]
        self._told = self._swarm.snapshot_id or self._told
        self._told_status = self._swarm.status or self._told_status
        if self._wanted is not None:
            found.append(self._changes.events(self._told_changes, self._wanted))
            self._told_changes = self._changes.newest
        return "".join(found)


async def _write(send: Send, text: str) -> None:
    if text:
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


def _news(swarm: Swarm, told: str | None, told_status: CrawlStatus | None) -> Iterator[str]:
    """Yield events for a client that was last sent this snapshot id and this status."""
    if swarm.snapshot_id is not None and swarm.snapshot_id != told:
        yield f"id: {swarm.snapshot_id}\nevent: snapshot\ndata: {swarm.snapshot_id}\n\n"
    if swarm.status is not None and swarm.status != told_status:
        yield f"event: status\ndata: {' '.join(_words(swarm.status).split())}\n\n"


def _words(status: CrawlStatus) -> str:
    if (progress := status.progress) is not None:
        return f"{progress.doing} {progress.servers} {progress.dialled}"
    return "ok" if status.ok else (status.error or "failed")
