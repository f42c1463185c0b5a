"""This module defines what is stored about a contributor: for how long servers under a public name served how much."""

from __future__ import annotations

import msgspec

from shared.snapshot import MAX_UNIX_SECONDS

DAY = 86400
DAYS_KEPT = 31
MAX_MODELS = 20
MAX_NAME = 64
LIFE_SECONDS = 366 * DAY
"""A name is forgotten so long after it was last seen."""
WINDOWS = {"day": 1, "week": 7, "month": 30}
"""Days in UTC, of which the last is today."""


class Day(msgspec.Struct, frozen=True, array_like=True):
    """What was served on one day. `day` counts from 1970-01-01."""

    day: int
    server_seconds: float
    block_seconds: float


class Contributor(msgspec.Struct, frozen=True, array_like=True):
    """Times are Unix seconds. A server-second is one server reached for a second; a block-second one of its blocks."""

    first_seen: float
    last_seen: float
    server_seconds: float = 0.0
    """Of all time."""
    block_seconds: float = 0.0
    days: tuple[Day, ...] = ()
    """The oldest first."""
    models: dict[str, float] = {}
    """Block-seconds by DHT prefix: of the models that were helped most."""

    def within(self, days: int, now: float) -> tuple[float, float]:
        """Return server-seconds and block-seconds of the last days, today included."""
        since = int(now // DAY) - days
        counted = [day for day in self.days if day.day > since]
        return sum(day.server_seconds for day in counted), sum(day.block_seconds for day in counted)


def encode(contributor: Contributor) -> bytes:
    return msgspec.msgpack.encode(contributor)


def decode(data: bytes) -> Contributor:
    """Return a stored contributor. Whatever this raises, `stored.read` refuses the entry."""
    found = msgspec.msgpack.decode(data, type=Contributor)
    numbers = [found.first_seen, found.last_seen, found.server_seconds, found.block_seconds, *found.models.values()]
    numbers += [value for day in found.days for value in (day.day, day.server_seconds, day.block_seconds)]
    if not all(0 <= value <= 1000 * MAX_UNIX_SECONDS for value in numbers):
        raise ValueError("not a contributor: a number is out of range")
    if len(found.days) > DAYS_KEPT or len(found.models) > MAX_MODELS:
        raise ValueError("not a contributor: too many days or models")
    return found
