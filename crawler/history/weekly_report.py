"""This module makes a report of each week that has ended, once, from the history. The leading crawler writes it."""

from __future__ import annotations

import asyncio
import time
from statistics import fmean, median
from typing import TYPE_CHECKING

import msgspec
import structlog
from redis.exceptions import RedisError

from shared.days import week_of
from shared.incidents import summary
from shared.public.reports import (
    MAX_INCIDENTS,
    MAX_NAMES,
    MAX_PEERS,
    ReportDocument,
    ReportIncident,
    ReportModel,
)
from shared.store.fencing import DeposedError
from shared.store.history import HistoryReader
from shared.store.reports import Reports
from shared.store.rings import DAY, HOUR, Resolution
from shared.store.server_history import unpack_hours
from shared.store.snapshots import SnapshotWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from redis.asyncio import Redis

    from crawler.leader import Leadership
    from shared.contributors import Contributor
    from shared.days import Week
    from shared.incidents import Incident
    from shared.store.rings import ModelSlot
    from shared.store.server_history import ServerRecord

SETTLED = 2 * HOUR
"""Seconds after a week's end at which its report is made: crawls that began in it have been recorded."""
WEEKS_BACK = 3
"""Weeks that are reported later where nobody could: hours are kept for 30 days."""
EVERY = 600.0

log = structlog.get_logger()


class WeeklyReports:
    """Makes the reports while this process leads."""

    def __init__(self, redis: Redis, leadership: Leadership, *, now: Callable[[], float] = time.time) -> None:
        self._history = HistoryReader(redis)
        self._reports = Reports(redis)
        self._snapshots = SnapshotWriter(redis)
        self._leadership = leadership
        self._now = now

    async def run(self) -> None:
        """Look every ten minutes whether a week has no report yet."""
        while True:
            try:
                await self.make()
            except DeposedError:
                log.info("report not written: another crawler leads")
            except (RedisError, OSError) as error:
                log.warning("report not written: redis is away", error=str(error))
            await asyncio.sleep(EVERY if self._leadership.lease is not None else 5)

    async def make(self) -> list[str]:
        """Make the missing reports, and return their weeks. Raises `redis.RedisError`, `DeposedError`."""
        lease = self._leadership.lease
        if lease is None:
            return []
        now = self._now()
        last = week_of(now - SETTLED).before()
        there = await self._reports.weeks()
        missing = [week for number in range(WEEKS_BACK) if (week := last.before(number)).name not in there]
        crawled = await self._history.crawled_minutes(now) if missing else {}
        missing = [week for week in missing if any(hour in crawled for hour in _hours(week))]  # else there was no crawl
        if not missing:
            return []
        models = {
            prefix: (await self._history.model(prefix, Resolution.HOUR, now)).slots
            for prefix in await self._history.models()
        }
        servers = await self._history.hours_of_servers(now)
        incidents = await self._history.incidents()
        snapshot = await self._snapshots.latest()
        official = {model.dht_prefix for model in snapshot.models if model.official} if snapshot is not None else set()
        contributors = await self._history.contributors()
        for week in sorted(missing):
            report = await asyncio.to_thread(
                make_report, week, now, crawled=crawled, models=models, official=official, servers=servers,
                incidents=incidents, contributors=contributors,
            )  # fmt: skip
            await self._reports.add(week.name, msgspec.json.encode(report), lease)
            log.info("weekly report made", week=week.name)
        return [week.name for week in sorted(missing)]


def make_report(
    week: Week,
    now: float,
    *,
    crawled: dict[int, int],
    models: Mapping[str, Sequence[ModelSlot]],
    official: Collection[str],
    servers: Mapping[str, tuple[ServerRecord, bytes]],
    incidents: Sequence[Incident],
    contributors: Mapping[str, Contributor],
) -> ReportDocument:
    """Return a week's report. `crawled` is `{hour: minutes with a crawl}`; models have their hours."""
    hours = _hours(week)
    # Of an hour counts the share of the minutes with a crawl: crawls may be rarer than minutes.
    online = {
        peer_id: sum(hour.online / hour.crawled for hour in unpack_hours(data, crawled, now) if hour.hour in hours)
        for peer_id, (_, data) in servers.items()
    }
    new = sorted(
        peer_id
        for peer_id, (record, _) in servers.items()
        if online[peer_id] and week.start <= record.first_seen < week.end
    )
    since, until = (_watched_until(end, crawled) - DAY for end in (week.start, week.end))
    lost = sorted(
        peer_id for peer_id, (record, _) in servers.items() if record.last_online and since <= record.last_seen < until
    )
    known_before = any(hour < hours.start for hour in crawled)
    outages = sorted(_outages(incidents, week, now), key=lambda outage: outage.duration, reverse=True)
    days = range(week.start // DAY, week.end // DAY)
    hours_of = {name: round(each.in_days(days)[1] / HOUR, 1) for name, each in contributors.items()}
    served = sorted(((name, count) for name, count in hours_of.items() if count), key=lambda each: (-each[1], each[0]))
    rows = [
        _model(prefix, found, official=prefix in official)
        for prefix, slots in models.items()
        if (found := [slot for slot in slots if slot.slot in hours])
    ]
    return ReportDocument(
        week=week.name,
        start=week.start,
        end=week.end,
        made_at=now,
        hours_looked=sum(hour in crawled for hour in hours),
        models=tuple(sorted(rows, key=lambda row: (not row.official, -row.mean_servers_online, row.dht_prefix))),
        servers_online=sum(hours_online > 0 for hours_online in online.values()),
        server_hours=round(sum(online.values()), 1),
        num_new_servers=len(new) if known_before else None,
        new_servers=tuple(new[:MAX_PEERS]) if known_before else (),
        num_lost_servers=len(lost),
        lost_servers=tuple(lost[:MAX_PEERS]),
        num_incidents=len(outages),
        incidents=tuple(outages[:MAX_INCIDENTS]),
        thanks=dict(served[:MAX_NAMES]),
    )


def _watched_until(end: int, crawled: Collection[int]) -> int:
    """Return when the last hour ended before `end` that had a crawl: nobody saw who left after it."""
    return max(((hour + 1) * HOUR for hour in crawled if (hour + 1) * HOUR <= end), default=end)


def _hours(week: Week) -> range:
    return range(week.start // HOUR, week.end // HOUR)


def _model(prefix: str, slots: Sequence[ModelSlot], *, official: bool) -> ReportModel:
    crawls = sum(slot.crawls for slot in slots)
    return ReportModel(
        dht_prefix=prefix,
        official=official,
        crawls=crawls,
        uptime=round(sum(slot.healthy for slot in slots) / crawls, 6),
        mean_servers_online=round(fmean(slot.online for slot in slots), 2),
        median_speed=round(median(slot.slowest_block for slot in slots), 2),
    )


def _outages(incidents: Sequence[Incident], week: Week, now: float) -> Iterable[ReportIncident]:
    for incident in incidents:
        end = min(incident.end if incident.end is not None else now, week.end)
        duration = end - max(incident.start, week.start)
        if duration > 0:
            yield ReportIncident(
                id=incident.id,
                dht_prefix=incident.dht_prefix,
                start=incident.start,
                end=incident.end,
                duration=round(duration, 1),
                summary=summary(incident),
            )
