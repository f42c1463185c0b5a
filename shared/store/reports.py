"""This module keeps the weekly reports, as JSON, one field per week of one hash: at most `MAX_REPORTS`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.days import parse_week
from shared.store import keys, stored
from shared.store.fencing import FencedScript

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis

MAX_REPORTS = 260
"""Five years of weeks. A report takes about 2 kB, at most 40."""

# KEYS: lease, reports. ARGV: lease, the week, its report, reports kept. One that is there stays as it is.
_ADD = """
redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[3])
local weeks = {}
for _, name in ipairs(redis.call('HKEYS', KEYS[2])) do
  if string.match(name, '^%d%d%d%d%-W%d%d$') then weeks[#weeks + 1] = name else redis.call('HDEL', KEYS[2], name) end
end
table.sort(weeks)
for i = 1, #weeks - tonumber(ARGV[4]) do redis.call('HDEL', KEYS[2], weeks[i]) end
return 1
"""


class Reports:
    """Reads and writes the reports. Every method raises `redis.RedisError`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._add = FencedScript(redis, _ADD)

    async def add(self, week: str, report: bytes, lease: str) -> None:
        """Keep a week's report, if it has none. Raises `DeposedError` where this crawler does not lead any more."""
        await self._add(lease, [keys.REPORTS], week, report, MAX_REPORTS)

    async def weeks(self) -> list[str]:
        """Return the weeks that have a report, the newest first."""
        (found,) = await stored.answers(self._redis, "report", ("HKEYS", keys.REPORTS))
        names = stored.read_all("report", stored.text, found or ())
        return sorted((name for name in names if parse_week(name) is not None), reverse=True)

    async def get(self, weeks: Sequence[str]) -> list[bytes]:
        """Return the reports of these weeks, without those that have none."""
        if not weeks:
            return []
        (found,) = await stored.answers(self._redis, "report", ("HMGET", keys.REPORTS, *weeks))
        return [data for data in found or () if data is not None]
