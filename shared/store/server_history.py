"""What is kept of one server: a header of 24 bytes, then a ring of one byte an hour for 30 days.

The byte is the number of minutes of that hour in which a crawl found the server online. Beside the minutes in
which any crawl saw the swarm (`shared.store.rings.LOOKS`) it is an uptime; where nobody looked, there is none.
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
    """The header. Times are Unix seconds, cut to whole ones; 0 is never."""

    first_seen: int
    last_seen: int
    online_since: int = 0
    """When the session began that lasted at `last_online`: without a recorded crawl that did not find it online."""
    last_online: int = 0
    hour: int = 0
    """The newest hour that stands in the ring."""
    sessions: int = 0
    """Times that it came online."""
    minutes: int = 0
    """Minutes of `hour` in which it was online."""
    missed: int = 0
    """Minutes of its first hour in which somebody looked before it was there."""


def seen(
    before: ServerRecord | None, at: float, *, online: bool, last_look: int, missed: int, stood: int = 0
) -> ServerRecord:
    """Return the header after a crawl that ended `at` and found the server announced.

    `last_look` is the end of the recorded crawl before this one (0 without one), `missed` the minutes of this hour
    in which somebody looked before this crawl; `stood` is what the ring has for this hour, where the header is of a
    later one: by a clock that was ahead.
    """
    now = int(at)
    hour = now // HOUR
    if before is None:
        before = ServerRecord(first_seen=now, last_seen=now, hour=hour, missed=min(missed, 60))
    elif before.last_seen > now:
        # By a clock that was ahead.
        before = msgspec.structs.replace(
            before, first_seen=min(before.first_seen, now), last_online=min(before.last_online, now)
        )
    minutes = before.minutes if before.hour == hour else min(stood, 60) if before.hour > hour else 0
    if not online:
        return msgspec.structs.replace(before, last_seen=now, hour=hour, minutes=minutes)
    if before.hour != hour or before.last_online // MINUTE != now // MINUTE:
        minutes = min(minutes + 1, 60)
    goes_on = before.online_since > 0 and before.last_online == last_look
    return msgspec.structs.replace(
        before,
        last_seen=now,
        online_since=before.online_since if goes_on else now,
        last_online=now,
        hour=hour,
        sessions=before.sessions if goes_on else min(before.sessions + 1, 0xFFFF),
        minutes=minutes,
    )


def place_of(hour: int) -> int:
    """Return where the byte of an hour stands."""
    return HEADER_BYTES + hour % HOURS_KEPT


def changes(before: ServerRecord | None, after: ServerRecord) -> list[tuple[int, bytes]]:
    """Return what to write where: (offset, bytes), a few pieces."""
    header = _HEADER.pack(*msgspec.structs.astuple(after))
    place = place_of(after.hour)
    if before is None:
        ring = bytearray(HOURS_KEPT)
        ring[after.hour % HOURS_KEPT] = after.minutes
        return [(0, header + bytes(ring))]
    if after.hour - before.hour >= HOURS_KEPT:
        return [(0, header + bytes(HOURS_KEPT)), (place, bytes((after.minutes,)))]
    pieces = [(0, header), (place, bytes((after.minutes,)))]
    # Hours that a clock which was ahead has written: they would be read as the lap before's.
    ahead = range(max(after.hour, before.hour - HOURS_KEPT) + 1, before.hour + 1)
    pieces += [(place_of(hour), b"\0") for hour in ahead if (hour - after.hour) % HOURS_KEPT]
    # Hours in which it was not announced still hold what the lap before wrote there.
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
    """One hour: in how many of its minutes somebody looked, and in how many of those the server was online."""

    hour: int
    looked: int
    online: int


def unpack_hours(data: bytes, looks: dict[int, int], now: float) -> tuple[ServerHour, ...]:
    """Return the hours since it was first seen in which somebody looked, oldest first."""
    header = unpack_header(data)
    if header is None or len(data) < SIZE:
        return ()
    ring = data[HEADER_BYTES:]
    current, first = int(now // HOUR), header.first_seen // HOUR
    result = []
    for hour in range(max(first, current - HOURS_KEPT + 1), current + 1):
        looked = looks.get(hour, 0) - (header.missed if hour == first else 0)
        # After its newest hour the ring is a lap old: it was not announced since.
        online = min(ring[hour % HOURS_KEPT], 60) if hour <= header.hour else 0
        if looked > 0 or online:
            result.append(ServerHour(hour, max(looked, online), online))
    return tuple(result)
