"""This module defines the history of one server: a header of 24 bytes, then one byte per hour for 30 days.

The byte is the number of minutes of that hour in which a crawl found the server online. Divided by the minutes in which
any crawl saw the swarm (`shared.store.rings.CRAWLED`) it gives the uptime; without such minutes there is none.
"""

from __future__ import annotations

import struct

import msgspec

from shared.store.rings import HOUR, HOURS_KEPT, MINUTE

_HEADER = struct.Struct("<IIIIIHBB")
HEADER_BYTES = _HEADER.size
SIZE = HEADER_BYTES + HOURS_KEPT
LIFE_SECONDS = 31 * 24 * HOUR


class ServerRecord(msgspec.Struct, frozen=True):
    """The header. Times are whole Unix seconds; 0 means never."""

    first_seen: int
    last_seen: int
    online_since: int = 0
    """When the latest session began: since then every recorded crawl up to `last_online` found it online."""
    last_online: int = 0
    hour: int = 0
    """The newest hour in the ring."""
    sessions: int = 0
    """Number of times that it came online."""
    minutes: int = 0
    """Minutes of `hour` in which it was online."""
    missed: int = 0
    """Minutes of its first hour that had a crawl before it was first seen."""


def seen(
    before: ServerRecord | None, at: float, *, online: bool, last_crawl: int, missed: int, ring_minutes: int = 0
) -> ServerRecord:
    """Return the header after a crawl that ended `at` and found the server announced.

    `last_crawl` is the end of the recorded crawl before this one (0 without one), `missed` the minutes of this hour
    that had a crawl before this one. `ring_minutes` is the ring's byte for this hour, needed where a clock that was
    ahead left a header of a later hour.
    """
    now = int(at)
    hour = now // HOUR
    if before is None:
        before = ServerRecord(first_seen=now, last_seen=now, hour=hour, missed=min(missed, 60))
    elif before.last_seen > now:
        # It was written by a clock that was ahead.
        before = msgspec.structs.replace(
            before, first_seen=min(before.first_seen, now), last_online=min(before.last_online, now)
        )
    minutes = before.minutes if before.hour == hour else min(ring_minutes, 60) if before.hour > hour else 0
    if not online:
        return msgspec.structs.replace(before, last_seen=now, hour=hour, minutes=minutes)
    if before.hour != hour or before.last_online // MINUTE != now // MINUTE:
        minutes = min(minutes + 1, 60)
    goes_on = before.online_since > 0 and before.last_online == last_crawl
    return msgspec.structs.replace(
        before,
        last_seen=now,
        online_since=before.online_since if goes_on else now,
        last_online=now,
        hour=hour,
        sessions=before.sessions if goes_on else min(before.sessions + 1, 0xFFFF),
        minutes=minutes,
    )


def offset_of(hour: int) -> int:
    """Return the offset of an hour's byte."""
    return HEADER_BYTES + hour % HOURS_KEPT


def changes(before: ServerRecord | None, after: ServerRecord) -> list[tuple[int, bytes]]:
    """Return the writes that turn one header into the other: a few pairs (offset, bytes)."""
    header = _HEADER.pack(*msgspec.structs.astuple(after))
    offset = offset_of(after.hour)
    if before is None:
        ring = bytearray(HOURS_KEPT)
        ring[after.hour % HOURS_KEPT] = after.minutes
        return [(0, header + bytes(ring))]
    if after.hour - before.hour >= HOURS_KEPT:
        return [(0, header + bytes(HOURS_KEPT)), (offset, bytes((after.minutes,)))]
    pieces = [(0, header), (offset, bytes((after.minutes,)))]
    # Hours that a clock which was ahead wrote: they would be read as those of the lap before.
    ahead = range(max(after.hour, before.hour - HOURS_KEPT) + 1, before.hour + 1)
    pieces += [(offset_of(hour), b"\0") for hour in ahead if (hour - after.hour) % HOURS_KEPT]
    # Hours in which it was not announced still hold the lap before's bytes.
    first, last = (before.hour + 1) % HOURS_KEPT, after.hour % HOURS_KEPT
    if after.hour - before.hour > 1:
        if first < last:
            pieces.append((HEADER_BYTES + first, bytes(last - first)))
        else:
            pieces.append((HEADER_BYTES + first, bytes(HOURS_KEPT - first)))
            if last:
                pieces.append((HEADER_BYTES, bytes(last)))
    return pieces


def unpack_header(data: bytes) -> ServerRecord | None:
    if len(data) < HEADER_BYTES:
        return None
    return ServerRecord(*_HEADER.unpack(data[:HEADER_BYTES]))


class ServerHour(msgspec.Struct, frozen=True):
    """One hour: how many of its minutes had a crawl, and in how many of those the server was online."""

    hour: int
    crawled: int
    online: int


def unpack_hours(data: bytes, crawled: dict[int, int], now: float) -> tuple[ServerHour, ...]:
    """Return the hours since it was first seen that had a crawl, oldest first. `now` is Unix seconds."""
    header = unpack_header(data)
    if header is None or len(data) < SIZE:
        return ()
    ring = data[HEADER_BYTES:]
    current, first = int(now // HOUR), header.first_seen // HOUR
    result = []
    for hour in range(max(first, current - HOURS_KEPT + 1), current + 1):
        minutes = crawled.get(hour, 0) - (header.missed if hour == first else 0)
        # Bytes after its newest hour are a lap old: it was not announced since.
        online = min(ring[hour % HOURS_KEPT], 60) if hour <= header.hour else 0
        if minutes > 0 or online:
            result.append(ServerHour(hour, max(minutes, online), online))
    return tuple(result)
