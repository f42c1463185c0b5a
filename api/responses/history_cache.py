"""This module reads histories and incidents from Redis on request, each at most every 15 seconds.

Concurrent requests share one read. While Redis is away, the last value that was read is served.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from redis.exceptions import RedisError

from api.hidden import incident_without_addresses, report_without_addresses
from api.http.problems import Problem
from api.responses.read_through import FRESH_SECONDS, OldValueError, ReadThrough
from shared.public.reports import decode_report
from shared.store import stored
from shared.store.rings import Resolution

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from shared.contributors import Contributor
    from shared.incidents import Incident
    from shared.public.reports import ReportDocument
    from shared.store.history import HistoryReader, ModelHistory, ServerHistory
    from shared.store.reports import Reports

MAX_ENTRIES = 128
"""Histories in the cache; the least recently used is dropped first. A model's minutes take 0.3 MB, others far less."""
READ_SECONDS = 2.0
READS_AT_ONCE = 4
"""As many as its client has connections."""
RETRY_AFTER = 5
PAGE_TIMEOUT = 0.5
"""Seconds that a page waits for its history."""

T = TypeVar("T")


class HistoryAwayError(Problem, OldValueError):
    """Redis does not answer, and there is no earlier value. A handler that needs the value answers 503."""

    def __init__(self) -> None:
        headers = {"retry-after": str(RETRY_AFTER)}
        super().__init__(503, "The history cannot be read now: Redis is away.", headers=headers)


class HistoryCache:
    """The history as this process knows it. Every method raises `HistoryAwayError`."""

    def __init__(
        self, reader: HistoryReader, reports: Reports, now: Callable[[], float], *, hide_addresses: bool = False
    ) -> None:
        """`now` returns Unix seconds."""
        self._reader = reader
        self._reports = reports
        self._now = now
        self._hide_addresses = hide_addresses
        self._values = ReadThrough(FRESH_SECONDS, MAX_ENTRIES)
        self._slots = asyncio.Semaphore(READS_AT_ONCE)

    async def model(self, dht_prefix: str, resolution: Resolution = Resolution.HOUR) -> ModelHistory:
        """Return a model's slots; none for a model without history."""
        return await self._read(
            ("model", dht_prefix, resolution), lambda: self._reader.model(dht_prefix, resolution, self._now())
        )

    async def server(self, peer_id: str) -> ServerHistory | None:
        """Return a server's hours; None where nothing is kept of it."""
        return await self._read(("server", peer_id), lambda: self._reader.server(peer_id, self._now()))

    async def incidents(self) -> tuple[Incident, ...]:
        """Return open and ended incidents, the newest first."""
        return await self._read(("incidents",), self._read_incidents)

    async def _read_incidents(self) -> tuple[Incident, ...]:
        found = await self._reader.incidents()
        return tuple(map(incident_without_addresses, found)) if self._hide_addresses else found

    async def contributors(self) -> dict[str, Contributor]:
        """Return what is counted for each public name."""
        return await self._read(("contributors",), self._reader.contributors)

    async def report_weeks(self) -> list[str]:
        """Return the weeks that have a report, the newest first."""
        return await self._read(("weeks",), self._reports.weeks)

    async def reports(self, *weeks: str) -> list[ReportDocument]:
        """Return the reports of these weeks that can be read."""
        packed = await self._read(("reports", *weeks), lambda: self._reports.get(weeks))
        found = [stored.read("report", decode_report, data) for data in packed]
        there = [report for report in found if report is not None]
        return list(map(report_without_addresses, there)) if self._hide_addresses else there

    async def _read(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        async def load() -> T:
            try:
                async with asyncio.timeout(READ_SECONDS), self._slots:
                    return await read()
            except (RedisError, OSError) as error:  # TimeoutError is an OSError
                raise HistoryAwayError from error

        return await self._values.get(key, load)


async def in_time(past: Awaitable[T]) -> T | None:
    """Return the history for a page, or None after `PAGE_TIMEOUT` or while Redis is away: the page then omits it."""
    try:
        async with asyncio.timeout(PAGE_TIMEOUT):
            return await past
    except (HistoryAwayError, TimeoutError):
        return None
