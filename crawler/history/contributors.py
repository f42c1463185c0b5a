"""This module adds what each public name served since the crawl before: pure steps over counters kept in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shared.contributors import DAY, DAYS_KEPT, LIFE_SECONDS, MAX_MODELS, MAX_NAME, Contributor, Day
from shared.judgement.contributors import serving
from shared.store import keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crawler.history.commands import Command
    from shared.judgement.contributors import Serving
    from shared.snapshot import Snapshot

MAX_NAMES = 2_000
"""Names that are kept; those that served least are dropped first."""
PERIODS_AT_MOST = 2
"""Crawl periods that one crawl counts for at most: nothing is known of a longer gap."""


def contributor_commands(
    known: Mapping[str, Contributor], snapshot: Snapshot, at: float, *, last_crawl: float
) -> list[Command]:
    """Return the commands that count this crawl, given the stored counters by name."""
    seconds = min(at - last_crawl, PERIODS_AT_MOST * snapshot.update_period) if last_crawl else 0.0
    kept = {name: each for name, each in known.items() if at - each.last_seen <= LIFE_SECONDS}
    counted = {
        name: count(kept.get(name), shares, at, seconds)
        for name, shares in serving(snapshot).items()
        if len(name) <= MAX_NAME
    }
    kept.update(counted)
    if len(kept) > MAX_NAMES:
        most = sorted(kept.items(), key=lambda item: item[1].block_seconds, reverse=True)
        kept = dict(most[:MAX_NAMES])
    commands: list[Command] = [("HDEL", keys.CONTRIBUTORS, name) for name in known if name not in kept]
    commands += [
        ("HSET", keys.CONTRIBUTORS, name, msgspec.msgpack.encode(each))
        for name, each in counted.items()
        if name in kept
    ]
    if counted:
        commands.append(("EXPIRE", keys.CONTRIBUTORS, LIFE_SECONDS))
    return commands


def count(before: Contributor | None, shares: Sequence[Serving], at: float, seconds: float) -> Contributor:
    """Return the counters after these shares were served for so many seconds."""
    before = before or Contributor(first_seen=at, last_seen=at)
    servers = seconds * len({share.peer_id for share in shares})
    blocks = seconds * sum(share.blocks for share in shares)
    today = int(at // DAY)
    last = next((day for day in before.days if day.day == today), Day(today, 0.0, 0.0))
    days = tuple(day for day in before.days if today - DAYS_KEPT < day.day < today)
    models = dict(before.models)
    for share in shares:
        models[share.dht_prefix] = models.get(share.dht_prefix, 0.0) + seconds * share.blocks
    most = sorted(models.items(), key=lambda item: item[1], reverse=True)[:MAX_MODELS]
    return msgspec.structs.replace(
        before,
        last_seen=at,
        server_seconds=before.server_seconds + servers,
        block_seconds=before.block_seconds + blocks,
        days=(*days, Day(today, last.server_seconds + servers, last.block_seconds + blocks)),
        models=dict(most),
    )
