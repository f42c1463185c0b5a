"""`python -m tests.support.past_weeks REDIS_URL FOLDER`: two weeks of a made-up swarm, for screenshots.

The monitor's own writers record it in Redis, make the weekly reports, and write the export into the folder.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from crawler.history.daily_export import DailyExport
from crawler.history.weekly_report import WeeklyReports
from shared.inference import InferenceOutcome, ServerInference
from shared.judgement.coverage import coverage
from shared.snapshot import PeerState, Verdict
from shared.store.connection import connect
from shared.store.rings import DAY, HOUR
from shared.store.snapshots import SnapshotWriter
from tests import page_snapshots
from tests.crawler.recording import record

if TYPE_CHECKING:
    from shared.snapshot import ModelReport, ServerReport, Snapshot

DAYS = 15
AWAY = 0.03
"""Of the servers in each hour."""


async def write_past(url: str, export: Path) -> None:
    """Record a crawl per hour and publish the newest, then make the reports and the export of these weeks."""
    redis = connect(url, "past weeks")
    chance, now = random.Random(1), time.time()
    swarm = msgspec.structs.replace(page_snapshots.swarm_of_60(), update_period=HOUR / 2)
    hours = [_hour(swarm, now - HOUR * ago, chance) for ago in range(DAYS * 24, 0, -1)]
    newest = msgspec.structs.replace(_hour(swarm, now - 5, None), update_period=60.0)
    _, leader = await record(redis, *hours, newest)
    await SnapshotWriter(redis).publish(newest, leader.lease)
    await WeeklyReports(redis, leader).make()
    await DailyExport(redis, export, leader, now=lambda: now - now % DAY + 3 * HOUR).export()
    await redis.aclose()


def _hour(swarm: Snapshot, at: float, chance: random.Random | None) -> Snapshot:
    """Return the swarm as a crawl found it at a time, each server computing; by chance some are away."""
    return msgspec.structs.replace(
        swarm, models=tuple(_found(model, at, chance) for model in swarm.models), taken_at=at
    )


def _found(model: ModelReport, at: float, chance: random.Random | None) -> ModelReport:
    def one(server: ServerReport) -> ServerReport:
        span, name = (server.span.start, server.span.end), server.public_name
        server = msgspec.structs.replace(
            server,
            public_name=name if name is None or name.isascii() else "Rhine Lab",  # fonts for others are not everywhere
            inference=ServerInference(InferenceOutcome.COMPUTED, span, at - 60, 0.3, 0.12),
        )
        if chance is None or chance.random() > AWAY:
            return server
        return msgspec.structs.replace(server, state=PeerState.OFFLINE, verdict=Verdict.UNKNOWN)

    usability = model.usability and msgspec.structs.replace(model.usability, checked_at=at - 60)
    found = msgspec.structs.replace(model, servers=tuple(map(one, model.servers)), usability=usability)
    return msgspec.structs.replace(found, state=coverage(found).state)


if __name__ == "__main__":
    asyncio.run(write_past(sys.argv[1], Path(sys.argv[2])))
