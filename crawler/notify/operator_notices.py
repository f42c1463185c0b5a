"""This module sends changes to the operators' services, to each independently, while this crawler leads.

Redis holds a position in the stream of changes per service: everything before it was sent. (An updated change is a new
entry of the stream.) What could not be sent, or waits for the end of quiet hours, lies after the position and becomes
part of the next message. So nothing is lost, and many changes make one message. A message whose confirmation got lost
is sent again.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import RedisError

from crawler.notify.digest import message
from crawler.notify.services import NotSentError, masked, send
from shared import changes
from shared.store import keys, stored
from shared.store.fencing import DeposedError, FencedScript

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from redis.asyncio import Redis

    from crawler.leader import Leadership
    from crawler.notify.digest import Choice, QuietHours
    from shared.changes import Change
    from shared.store.clock import RedisClock

POLL_EVERY = 5.0
SEND_TIMEOUT = 60.0
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 3600.0
"""Seconds after a failure; the pause doubles."""
KEPT = 400 * 86400

# KEYS: lease, positions. ARGV: lease, field, position, expiry in seconds.
_ADVANCE = """
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return redis.call('EXPIRE', KEYS[2], ARGV[4])
"""

log = structlog.get_logger()


class OperatorNotices:
    """Sends digests for one crawler while it leads. Its lease fences what it writes."""

    def __init__(
        self,
        redis: Redis,
        leadership: Leadership,
        clock: RedisClock,
        *,
        urls: Collection[str],
        choice: Choice,
        official: Collection[str],
        digest_seconds: float,
        quiet_hours: QuietHours | None,
        monitor_url: str | None,
        on_ended: Callable[[str], None],
    ) -> None:
        """`on_ended` gets each delivery's outcome: "delivered" or "failed"."""
        self._redis = redis
        self._leadership = leadership
        self._clock = clock
        self._urls = {hashlib.sha256(url.encode()).hexdigest()[:16]: url for url in urls}
        self._choice = choice
        self._official = official
        self._digest_seconds = digest_seconds
        self._quiet_hours = quiet_hours
        self._monitor_url = monitor_url
        self._on_ended = on_ended
        self._advance = FencedScript(redis, _ADVANCE)
        self._pauses: dict[str, tuple[float, float]] = {}
        """By service: when it is tried again (Unix seconds), and the pause after that."""

    async def run(self) -> None:
        """Send until cancelled. Outages of Redis and of services are waited out."""
        while True:
            if self._leadership.lease is not None:
                # The crawl loop logs these, and deletes keys of a wrong type at each crawl.
                with suppress(DeposedError, RedisError, OSError):
                    await self.send_due()
            await asyncio.sleep(POLL_EVERY)

    async def send_due(self) -> None:
        """Send each service one message with all changes after its position, where that is due.

        Raises `DeposedError`, `redis.RedisError`, `OSError`.
        """
        now = await self._clock.ask()
        positions: Any = await self._redis.hgetall(keys.NOTICE_POSITIONS)
        for field, url in self._urls.items():
            position = stored.read("change", _position, positions.get(field.encode()) or b"")
            if position is None:  # a new service: it gets the changes from now on
                await self._move(field, f"{int(now * 1000)}-0")
                continue
            await self._send_after(field, url, position, now)

    async def _send_after(self, field: str, url: str, position: str, now: float) -> None:
        entries: Any = await self._redis.xrange(keys.CHANGES, f"({position}")
        found = []
        for entry_id, fields in entries:
            change = stored.read("change", lambda entry: changes.decode(entry[b"change"]), fields)
            if change is not None and self._choice.takes(change, self._official):
                found.append((entry_id, change))
        if not entries:
            return
        last = entries[-1][0].decode()
        if not found:
            await self._move(field, last)
            return
        oldest = int(found[0][0].partition(b"-")[0]) / 1000
        retry_at, pause = self._pauses.get(field, (0.0, FIRST_PAUSE))
        quiet = self._quiet_hours is not None and self._quiet_hours.include(now)
        if quiet or now < max(retry_at, oldest + self._digest_seconds):
            return
        if await self._send(url, [change for _, change in found]):
            self._pauses.pop(field, None)
            await self._move(field, last)
        else:
            self._pauses[field] = (now + pause, min(2 * pause, LONGEST_PAUSE))

    async def _send(self, url: str, found: list[Change]) -> bool:
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await asyncio.to_thread(send, url, message(found, self._monitor_url))
        except (NotSentError, TimeoutError) as error:
            self._on_ended("failed")
            log.warning("notice not delivered; it will be retried", service=masked(url), reason=str(error) or "timeout")
            return False
        self._on_ended("delivered")
        log.info("notice delivered", service=masked(url), changes=len(found))
        return True

    async def _move(self, field: str, position: str) -> None:
        await self._advance(self._leadership.lease, [keys.NOTICE_POSITIONS], field, position, KEPT)


def _position(entry: bytes) -> str | None:
    """Return a stream id; None where there is none. Raises `ValueError` for anything else."""
    if not entry:
        return None
    milliseconds, _, sequence = entry.decode().partition("-")
    return f"{int(milliseconds)}-{int(sequence)}"
