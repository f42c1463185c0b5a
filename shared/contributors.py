"""This module defines what is stored about a contributor: for how long servers under a public name served how much."""

from __future__ import annotations

from typing import Annotated

import msgspec

from shared.snapshot import MAX_UNIX_SECONDS, UnixSeconds

DAY = 86400
DAYS_KEPT = 31
MAX_MODELS = 20
MAX_NAME = 64
LIFE_SECONDS = 366 * DAY
"""A name is forgotten so long after it was last seen."""
WINDOWS = {"day": 1, "week": 7, "month": 30}
"""Days in UTC, of which the last is today."""
ServedSeconds = Annotated[float, msgspec.Meta(ge=0, le=1000 * MAX_UNIX_SECONDS)]
"""A server-second is one server reached for a second, a block-second one of its blocks."""


class Day(msgspec.Struct, frozen=True, array_like=True):
    """What was served on one day. `day` counts from 1970-01-01."""

    day: Annotated[int, msgspec.Meta(ge=0)]
    server_seconds: ServedSeconds
    block_seconds: ServedSeconds


class Contributor(msgspec.Struct, frozen=True, array_like=True):
    """What is counted for one public name."""

    first_seen: UnixSeconds
    last_seen: UnixSeconds
    server_seconds: ServedSeconds = 0.0
    """Of all time."""
    block_seconds: ServedSeconds = 0.0
    days: Annotated[tuple[Day, ...], msgspec.Meta(max_length=DAYS_KEPT)] = ()
    """The oldest first."""
    models: Annotated[dict[str, ServedSeconds], msgspec.Meta(max_length=MAX_MODELS)] = {}
    """Block-seconds by DHT prefix: of the models that were helped most."""

    def within(self, days: int, now: float) -> tuple[float, float]:
        """Return server-seconds and block-seconds of the last days, today included."""
        today = int(now // DAY)
        return self.in_days(range(today - days + 1, today + 1))

    def in_days(self, days: range) -> tuple[float, float]:
        """Return server-seconds and block-seconds of these days, counted from 1970-01-01."""
        counted = [day for day in self.days if day.day in days]
        return sum(day.server_seconds for day in counted), sum(day.block_seconds for day in counted)


def decode(data: bytes) -> Contributor:
    """Return a stored contributor. Whatever this raises, `stored.read` refuses the entry."""
    return msgspec.msgpack.decode(data, type=Contributor)
