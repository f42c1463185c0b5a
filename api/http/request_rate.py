"""This module counts the requests of a client address per minute, for all replicas together."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from shared.store import keys

if TYPE_CHECKING:
    from redis.asyncio import Redis

WINDOW_MS = 60_000

# KEYS: the client's counter. ARGV: window, cost. Returns the count and the milliseconds until it begins anew.
_COUNT = """
local count = redis.pcall('INCRBY', KEYS[1], ARGV[2])
if type(count) == 'table' then  -- something else stands there
  redis.call('DEL', KEYS[1])
  count = redis.call('INCRBY', KEYS[1], ARGV[2])
end
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return {count, redis.call('PTTL', KEYS[1])}
"""


class Budget(NamedTuple):
    """What a client address has used of its requests per minute."""

    used: int
    resets_in: float
    """Seconds."""


class RequestRate:
    """Counts requests in Redis, so that all replicas share the limit."""

    def __init__(self, redis: Redis) -> None:
        self._count = redis.register_script(_COUNT)

    async def count(self, address: str, cost: int = 1) -> Budget:
        """Count a request of a client as `cost`, and return what it has used. Raises `redis.RedisError`."""
        used, resets_in_ms = await self._count(keys=[keys.rate(address)], args=[WINDOW_MS, cost])
        return Budget(used, resets_in_ms / 1000)
