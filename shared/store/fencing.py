"""This module fences what a leading crawler writes: Redis refuses writes that name another lease than the current one.

So a crawler that was deposed, perhaps while it was frozen, cannot overwrite anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from shared.store import keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis

_FENCE = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('DEPOSED') end"
_REFUSALS = ("DEPOSED", "OLDER", "STALE")


class DeposedError(Exception):
    """Another crawler leads now, or has written something newer: this write was refused."""


class FencedScript:
    """A Lua script that runs for the leading crawler alone. `KEYS[1]` and `ARGV[1]` are the lease's, others follow."""

    def __init__(self, redis: Redis, lua: str) -> None:
        self._run = redis.register_script(_FENCE + lua)

    async def __call__(self, lease: str | None, names: Sequence[str], *arguments: Any) -> Any:
        """Run it for the keys `names`. Raises `DeposedError`, `redis.RedisError`."""
        try:
            return await self._run(keys=[keys.CRAWLER_LEASE, *names], args=[lease or "", *arguments])
        except ResponseError as error:
            if str(error).startswith(_REFUSALS):
                raise DeposedError(str(error)) from error
            raise
