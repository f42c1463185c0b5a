"""This module elects the crawler that leads, by a lease in Redis that holds a fencing token.

Any number of crawlers may run; one holds the lease and crawls, the others wait. The lease's value is unique to the
holder and to its term, and every write names it (`shared.store.fencing`). So a crawler that was frozen, and resumes
after another one took the lease, cannot overwrite anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.store import keys

if TYPE_CHECKING:
    from redis.asyncio import Redis

LEASE_SECONDS = 5.0
RENEW_EVERY = 1.0

# KEYS: lease, fencing counter. ARGV: holder's name, milliseconds, the lease held until now ('' if none).
_HOLD = """
local current = redis.call('GET', KEYS[1])
if ARGV[3] ~= '' and current == ARGV[3] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return current
end
-- One that does not run out was not written by a crawler: it would bar all of them for ever.
local left_ms = redis.call('PTTL', KEYS[1])
if left_ms >= 0 and left_ms <= 60000 then return false end
local number = redis.pcall('INCR', KEYS[2])
if type(number) == 'table' then  -- no number stands there: any that was not used before will do
  number = redis.call('TIME')[1]
  redis.call('SET', KEYS[2], number)
end
local lease = number .. ':' .. ARGV[1]
redis.call('SET', KEYS[1], lease, 'PX', ARGV[2])
return lease
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class Leadership:
    """One crawler's part in the election."""

    def __init__(self, redis: Redis, name: str) -> None:
        self._name = name
        self._hold = redis.register_script(_HOLD)
        self._release = redis.register_script(_RELEASE)
        self.lease: str | None = None
        """The fencing token of this crawler's writes; None while another crawler leads."""

    async def hold(self) -> bool:
        """Renew the lease, or take it where nobody holds it. Return whether this crawler leads now.

        Raises `redis.RedisError`; the lease is then unknown, and Redis decides at the next write.
        """
        answer = await self._hold(
            keys=[keys.CRAWLER_LEASE, keys.CRAWLER_FENCING],
            args=[self._name, int(LEASE_SECONDS * 1000), self.lease or ""],
        )
        self.lease = answer.decode() if answer is not None else None
        return self.lease is not None

    async def release(self) -> None:
        """Give the lease up, so that another crawler can lead at once."""
        if self.lease is not None:
            await self._release(keys=[keys.CRAWLER_LEASE], args=[self.lease])
            self.lease = None
