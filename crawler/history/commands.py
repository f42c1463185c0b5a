"""This module returns the Redis commands that record one crawl: pure functions of the crawl and what is stored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from crawler.incidents import Watch, step
from shared import changes, incidents
from shared.store import keys
from shared.store.rings import CRAWLED, DAY, Resolution, pack_crawled, pack_model, sample, unpack_crawled, unpack_model
from shared.store.server_history import LIFE_SECONDS, seen, unpack_header
from shared.store.server_history import changes as header_changes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.changes import Change
    from shared.snapshot import ModelReport, ModelState

Command = tuple[str | bytes | int | float, ...]
"""A Redis command, or `("CHANGE", id, document)`, which the history's script runs (`crawler.history.writer`)."""

MAX_CLOSED_INCIDENTS = 500
YEAR = 366 * DAY
_NEVER_ONLINE_PENALTY = LIFE_SECONDS - 2 * DAY
_NEVER_HEALTHY_PENALTY = YEAR - 2 * DAY
"""Seconds by which these rank as older than they are, so that they are deleted two days after they were last seen."""
MEMBERS_PER_COMMAND = 1_000
"""Members per ZADD: Lua unpacks no more than some thousand values."""


def change_command(change: Change) -> Command:
    """Return the command that writes the one entry of this change; an older entry is replaced."""
    return ("CHANGE", change.id, msgspec.msgpack.encode(change))


class StoredOutage(NamedTuple):
    """What Redis holds about a model's outages: its watch, and the incident that is shown as open."""

    watch: Watch | None = None
    opened: incidents.Incident | None = None
    after_gap: bool = False
    """Whether nobody looked for long before this crawl: what an earlier one suspected then counts no more."""

    @property
    def agreed(self) -> Watch | None:
        """The watch to continue from. It takes over the incident that is shown as open, so healthy crawls end it."""
        if self.opened is None:
            if self.watch is None or not self.after_gap:
                return self.watch
            return msgspec.structs.replace(self.watch, suspected=None)
        if self.watch is None:
            return Watch.of(self.opened)
        return msgspec.structs.replace(self.watch, incident=self.opened, suspected=None)


class FollowedModel(NamedTuple):
    """A model of this crawl, or one that is missing from it, with the state that the crawl proves (None: unknown)."""

    report: ModelReport
    state: ModelState | None
    stored: StoredOutage


def crawled_commands(hour: int, minutes: int, *, first: bool, new_minute: bool, ring: bytes = b"") -> list[Command]:
    """Return the commands that count this minute, unless it is counted. `minutes` of the hour are counted so far.

    `ring` has all hours where a clock that was ahead may have counted later ones: those are deleted.
    """
    commands: list[Command] = []
    for later in range(hour + 1, hour + CRAWLED.slots) if ring else ():
        place = CRAWLED.offset(later)
        if unpack_crawled(ring[place : place + CRAWLED.width], later):
            commands.append(("SETRANGE", keys.HISTORY_CRAWLED, place, bytes(CRAWLED.width)))
    if first:
        commands.append(("SETRANGE", keys.HISTORY_CRAWLED, CRAWLED.size - 1, b"\0"))
    if not minutes:
        commands.append(("SETRANGE", keys.HISTORY_CRAWLED, CRAWLED.offset(hour), pack_crawled(hour, 1)))
        commands.append(("EXPIRE", keys.HISTORY_CRAWLED, CRAWLED.life))
    elif new_minute:
        commands.append(("SETRANGE", keys.HISTORY_CRAWLED, CRAWLED.offset(hour), pack_crawled(hour, minutes + 1)))
    return commands


def model_commands(model: FollowedModel, rings: list[bytes], at: float) -> list[Command]:
    commands: list[Command] = []
    report, prefix = model.report, model.report.dht_prefix
    if model.state is not None:
        for resolution, data in zip(Resolution, rings, strict=True):
            ring, key = resolution.ring, keys.history_of_model(resolution, prefix)
            record = sample(report, ring.slot(at))
            before = unpack_model(data)
            if not data:  # allocate the whole ring at once: Redis gives a growing string twice the memory
                commands.append(("SETRANGE", key, ring.size - 1, b"\0"))
            if before is None or before.slot != record.slot:
                commands.append(("EXPIRE", key, ring.life))
            record = before.merge(record) if before is not None else record
            commands.append(("SETRANGE", key, ring.offset(record.slot), pack_model(record)))
    watch, closed = step(model.stored.agreed, report, model.state, at)
    commands += incident_commands(prefix, model.stored, watch, closed, at)
    if watch is not None:
        healthy_at = watch.last_healthy if watch.last_healthy is not None else at - _NEVER_HEALTHY_PENALTY
        commands.append(("ZADD", keys.HISTORY_MODELS, at + YEAR if report.official else healthy_at, prefix))
    return commands


def withdrawal_commands(prefix: str, stored: StoredOutage, at: float) -> list[Command]:
    """Return the commands for an official model that the operator removed and nobody announces: its outage ends."""
    watch = stored.agreed
    closed = None
    if watch is not None and watch.incident is not None:
        closed = msgspec.structs.replace(watch.incident, end=at, outcome=incidents.Outcome.WITHDRAWN)
    healthy_at = watch.last_healthy if watch is not None and watch.last_healthy is not None else at
    return [
        *incident_commands(prefix, stored, None, closed, at),
        ("ZADD", keys.HISTORY_MODELS, "XX", healthy_at, prefix),  # its history lasts as long as any model's
    ]


def incident_commands(
    prefix: str, stored: StoredOutage, after: Watch | None, closed: incidents.Incident | None, at: float
) -> list[Command]:
    commands: list[Command] = []
    if after is None:
        commands.append(("HDEL", keys.INCIDENT_WATCH, prefix))
    elif after != stored.watch:
        commands.append(("HSET", keys.INCIDENT_WATCH, prefix, msgspec.msgpack.encode(after)))
    opened = after.incident if after is not None else None
    if opened != stored.opened:
        if opened is not None:
            commands.append(("HSET", keys.OPEN_INCIDENTS, prefix, incidents.encode(opened)))
            commands.append(change_command(changes.of_incident(opened, incidents.summary(opened), at)))
        else:
            commands.append(("HDEL", keys.OPEN_INCIDENTS, prefix))
    if closed is not None:
        stream = keys.closed_incidents(official=closed.official)
        year_ago = f"{max(0, math.floor((at - YEAR) * 1000))}"
        commands.append(("XADD", stream, "MAXLEN", MAX_CLOSED_INCIDENTS, "*", "incident", incidents.encode(closed)))
        commands.append(("XTRIM", stream, "MINID", year_ago))
        commands.append(("EXPIRE", stream, YEAR))
        commands.append(change_command(changes.of_incident(closed, incidents.summary(closed), at)))
    return commands


def server_commands(
    servers: dict[str, bool],
    headers: list[bytes],
    at: float,
    *,
    last_crawl: int,
    minutes: int,
    ring_minutes: Sequence[bytes],
) -> list[Command]:
    """Return the commands for all servers of a crawl (`{peer_id: online}`), given their stored headers.

    `last_crawl` is the end of the recorded crawl before this one, `minutes` those of this hour that had a crawl.
    `ring_minutes` has each ring's byte of this hour; it is empty where no header can be of a later hour.
    """
    commands: list[Command] = []
    ranks: list[float | str] = []
    for number, ((peer_id, online), data) in enumerate(zip(servers.items(), headers, strict=True)):
        key = keys.history_of_server(peer_id)
        before = unpack_header(data)
        after = seen(
            before,
            at,
            online=online,
            last_crawl=last_crawl,
            missed=minutes,
            ring_minutes=int.from_bytes(ring_minutes[number]) if ring_minutes else 0,
        )
        commands += [("SETRANGE", key, offset, piece) for offset, piece in header_changes(before, after)]
        if before is None or before.hour != after.hour:
            commands.append(("EXPIRE", key, LIFE_SECONDS))
        ranks += [at if after.last_online else at - _NEVER_ONLINE_PENALTY, peer_id]
    for first in range(0, len(ranks), 2 * MEMBERS_PER_COMMAND):
        commands.append(("ZADD", keys.HISTORY_SERVERS, *ranks[first : first + 2 * MEMBERS_PER_COMMAND]))
    return commands
