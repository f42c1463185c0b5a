"""This module writes the daily export: files with the rows of each day that has ended, for anyone to read and keep.

A file's content follows from the history alone, and a day that has ended changes no more. So a file that is missing is
written, whoever leads and whatever was interrupted, and one that is there is left as it is; two crawlers that both
believe to lead write the same bytes. A file appears whole, by being renamed.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from datetime import date, timedelta
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from shared.days import day_of, start_of
from shared.export_files import Kind, files_of, parse_name
from shared.public.data import crawl_row, incident_row, packed, server_row
from shared.store.history import HistoryReader
from shared.store.rings import DAY, HOUR, HOURS_KEPT, Resolution
from shared.store.server_history import unpack_hours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from redis.asyncio import Redis

    from crawler.leader import Leadership
    from shared.export_files import ExportFile
    from shared.public.data import CrawlRow, Row, ServerRow

SETTLED = 2 * HOUR
"""Seconds after a day's end at which its files are written: crawls that began in it have been recorded."""
DAYS_BACK = HOURS_KEPT * HOUR // DAY - 1
"""Days that are written later where nobody could: the hours of older ones are partly gone."""
EVERY = 600.0
TEMPORARY = ".tmp"

log = structlog.get_logger()


class DailyExport:
    """Writes the files while this process leads."""

    def __init__(
        self,
        redis: Redis,
        folder: Path,
        leadership: Leadership,
        *,
        now: Callable[[], float] = time.time,
        days_kept: int = 1_096,
    ) -> None:
        self._history = HistoryReader(redis)
        self._folder = folder
        self._leadership = leadership
        self._now = now
        self._days_kept = days_kept

    async def run(self) -> None:
        """Look every ten minutes whether a file is missing. Raises `OSError` where the folder cannot be written."""
        while True:
            if self._leadership.lease is not None:
                try:
                    await self.export()
                except RedisError as error:
                    log.warning("export not written: redis is away", error=str(error))
            await asyncio.sleep(EVERY if self._leadership.lease is not None else 5)

    async def export(self) -> int:
        """Write the missing files, delete those that are too old; return how many were written.

        Raises `redis.RedisError`, `OSError`.
        """
        now = self._now()
        missing = await asyncio.to_thread(self._missing, now)
        looks = await self._history.looks(now) if missing else {}
        seen_on = {day_of(hour * HOUR) for hour in looks}
        missing = [file for file in missing if file.day in seen_on]  # on other days nobody looked
        written = await self._write(missing, looks, now) if missing else 0
        await asyncio.to_thread(self._prune, now)
        if written:
            log.info("export written", files=written, newest=max(missing, key=_day).day.isoformat())
        return written

    def _missing(self, now: float) -> list[ExportFile]:
        there = {entry.name for entry in os.scandir(self._folder)}
        last = day_of(now - SETTLED) - timedelta(days=1)
        first = max(last - timedelta(days=DAYS_BACK - 1), day_of(now) - timedelta(days=DAYS_BACK))
        days = (first + timedelta(days=number) for number in range((last - first).days + 1))
        return [file for day in days for file in files_of(day) if file.name not in there]

    async def _write(self, missing: list[ExportFile], looks: dict[int, int], now: float) -> int:
        days = sorted({file.day for file in missing})
        models = {
            prefix: (await self._history.model(prefix, Resolution.HOUR, now)).slots
            for prefix in await self._history.models()
        }
        crawls = [crawl_row(prefix, slot) for prefix, slots in models.items() for slot in slots]
        servers = await self._history.hours_of_servers(now)

        def rows_of_servers() -> list[ServerRow]:
            wanted = {start_of(day) // HOUR + hour for day in days for hour in range(24)}
            return [
                server_row(peer_id, record, hour)
                for peer_id, (record, data) in servers.items()
                for hour in unpack_hours(data, looks, now)
                if hour.hour in wanted
            ]

        rows: dict[tuple[Kind, date], list[Row]] = {}
        _sort_in(rows, Kind.CRAWLS, crawls)
        _sort_in(rows, Kind.SERVERS, await asyncio.to_thread(rows_of_servers))
        for day in days:
            start = start_of(day)
            ended = await self._history.ended_incidents(start, start + DAY)
            rows[Kind.INCIDENTS, day] = [incident_row(incident) for incident in ended]
        for file in missing:
            await asyncio.to_thread(self._replace, file, rows.get((file.kind, file.day), []))
        return len(missing)

    def _replace(self, file: ExportFile, rows: list[Row]) -> None:
        """Write a file under another name, and rename it: no reader sees half of it, whatever ends this process."""
        temporary = self._folder / f"{file.name}.{os.getpid()}{TEMPORARY}"
        try:
            with temporary.open("wb") as target:
                target.write(packed(file.kind, file.form, rows))
                target.flush()
                os.fsync(target.fileno())
            temporary.replace(self._folder / file.name)
        finally:
            temporary.unlink(missing_ok=True)

    def _prune(self, now: float) -> None:
        """Delete files of days that are not kept any more, and what interrupted writes left; nothing else."""
        oldest = day_of(now) - timedelta(days=self._days_kept)
        for path in list(self._folder.iterdir()):
            name, ending, rest = path.name.partition(".gz")
            file = parse_name(name + ending)
            with suppress(FileNotFoundError):  # another crawler was faster
                left_over = rest.endswith(TEMPORARY) and path.stat().st_mtime < time.time() - HOUR
                if file is not None and (left_over or (not rest and file.day < oldest)):
                    path.unlink()


def _sort_in(rows: dict[tuple[Kind, date], list[Row]], kind: Kind, found: Iterable[CrawlRow | ServerRow]) -> None:
    """Sort rows to their days; within one they stay in order."""
    for row in found:
        rows.setdefault((kind, date.fromisoformat(row.hour[:10])), []).append(row)


def _day(file: ExportFile) -> date:
    return file.day
