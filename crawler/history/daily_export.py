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
from datetime import timedelta
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import structlog
from redis.exceptions import RedisError

from shared.days import day_of, start_of
from shared.export_files import Kind, files_of, parse_name
from shared.public.data import crawl_row, incident_row, inference_row, packed, server_row
from shared.store.history import HistoryReader
from shared.store.inference_history import SERVER_HOURS, unpack_ring
from shared.store.rings import DAY, HOUR, HOURS_KEPT, Resolution
from shared.store.server_history import unpack_hours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from redis.asyncio import Redis

    from crawler.leader import Leadership
    from shared.export_files import ExportFile
    from shared.incidents import Incident
    from shared.public.data import Row
    from shared.store.history import ModelHistory
    from shared.store.server_history import ServerRecord

SETTLED = 2 * HOUR
"""Seconds after a day's end at which its files are written: crawls that began in it have been recorded."""
DAYS_BACK = HOURS_KEPT * HOUR // DAY - 1
"""Days that are written later where nobody could: the hours of older ones are partly gone."""
DAYS_BACK_OF = {Kind.INFERENCE: SERVER_HOURS.slots * HOUR // DAY - 1}
"""Fewer, where rows are kept for a shorter time."""
EVERY = 600.0
TEMPORARY = ".tmp"
_day = attrgetter("day")

log = structlog.get_logger()


class _Kept(NamedTuple):
    """What the history has at `now`."""

    models: list[ModelHistory]
    servers: dict[str, tuple[ServerRecord, bytes]]
    checks: dict[str, bytes]
    crawled: dict[int, int]
    now: float

    def rows(self, kind: Kind, hours: range, ended: list[Incident]) -> Iterator[Row]:
        """Yield the rows of some hours; `ended` are the incidents that were recorded as ended in them."""
        match kind:
            case Kind.CRAWLS:
                for model in self.models:
                    yield from (crawl_row(model.dht_prefix, slot) for slot in model.slots if slot.slot in hours)
            case Kind.SERVERS:
                for peer_id, (record, data) in self.servers.items():
                    seen = unpack_hours(data, self.crawled, self.now)
                    yield from (server_row(peer_id, record, hour) for hour in seen if hour.hour in hours)
            case Kind.INCIDENTS:
                yield from map(incident_row, ended)
            case Kind.INFERENCE:
                for model in self.models:
                    made = (proof for proof in model.proofs if proof.hour in hours)
                    yield from (inference_row(proof, dht_prefix=model.dht_prefix) for proof in made)
                for peer_id, data in self.checks.items():
                    made = (proof for proof in unpack_ring(data, SERVER_HOURS, self.now) if proof.hour in hours)
                    yield from (inference_row(proof, peer_id=peer_id) for proof in made)


class DailyExport:
    """Writes the files while this process leads."""

    def __init__(
        self,
        redis: Redis,
        folder: Path,
        leadership: Leadership,
        *,
        now: Callable[[], float],
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
        crawled = await self._history.crawled_minutes(now) if missing else {}
        seen_on = {day_of(hour * HOUR) for hour in crawled}
        missing = [file for file in missing if file.day in seen_on]  # other days have no crawl
        written = await self._write(missing, crawled, now) if missing else 0
        await asyncio.to_thread(self._prune, now)
        if written:
            log.info("export written", files=written, newest=max(missing, key=_day).day.isoformat())
        return written

    def _missing(self, now: float) -> list[ExportFile]:
        there = {entry.name for entry in os.scandir(self._folder)}
        last = day_of(now - SETTLED) - timedelta(days=1)

        def is_kept(file: ExportFile) -> bool:
            return file.day >= day_of(now) - timedelta(days=DAYS_BACK_OF.get(file.kind, DAYS_BACK))

        days = (last - timedelta(days=number) for number in reversed(range(DAYS_BACK)))
        return [file for day in days for file in files_of(day) if file.name not in there and is_kept(file)]

    async def _write(self, missing: list[ExportFile], crawled: dict[int, int], now: float) -> int:
        """Write one day after another: the rows of a month and 5,000 servers would take 0.7 GB at once."""
        models = [await self._history.model(prefix, Resolution.HOUR, now) for prefix in await self._history.models()]
        servers, checks = await self._history.hours_of_servers(now), await self._history.checks_of_servers()
        kept = _Kept(models, servers, checks, crawled, now)
        for day, files in groupby(missing, key=_day):
            start = start_of(day)
            ended = await self._history.ended_incidents(start, start + DAY)
            await asyncio.to_thread(self._write_day, list(files), kept, range(start, start + DAY), ended)
        return len(missing)

    def _write_day(self, files: list[ExportFile], kept: _Kept, day: range, ended: list[Incident]) -> None:
        for kind, some in groupby(files, key=lambda file: file.kind):
            rows = list(kept.rows(kind, range(day.start // HOUR, day.stop // HOUR), ended))
            for file in some:
                self._replace(file, rows)

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
