"""This module sends changes to one of the operators' services while this crawler leads.

Redis holds the service's position in the stream of changes: everything before it was sent. (An updated change is a new
entry of the stream.) What could not be sent, or waits for the end of quiet hours, lies after the position and becomes
part of the next message. So nothing is lost, and many changes make one message. A message whose confirmation got lost
is sent again.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import RedisError

from crawler.notify.digest import message
from crawler.notify.services import NotSentError, masked, send
from shared import changes
from shared.store import keys, stored
from shared.store.fencing import DeposedError, FencedScript
from shared.store.streams import stream_position

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
Position = tuple[int, int]
"""A stream id: milliseconds, and a number that tells entries of the same one apart."""

# KEYS: lease, positions. ARGV: lease, field, position, expiry in seconds.
_ADVANCE = """
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return redis.call('EXPIRE', KEYS[2], ARGV[4])
"""

log = structlog.get_logger()


class OperatorNotices:
    """Sends digests to one service for one crawler while it leads. Its lease fences what it writes."""

    def __init__(
        self,
        redis: Redis,
        leadership: Leadership,
        clock: RedisClock,
        *,
        url: str,
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
        self._url = url
        self._field = hashlib.sha256(url.encode()).hexdigest()[:16]
        self._choice = choice
        self._official = official
        self._digest_seconds = digest_seconds
        self._quiet_hours = quiet_hours
        self._monitor_url = monitor_url
        self._on_ended = on_ended
        self._advance = FencedScript(redis, _ADVANCE)
        self._told: dict[str, int] = {}
        """The changes that last and were sent: how often each had happened then, by its id."""
        self._sending: asyncio.Future[None] | None = None
        """The message that is under way, perhaps for longer than it was waited for."""
        self._retry_at = 0.0
        """Monotonic seconds."""
        self._pause = FIRST_PAUSE

    async def run(self) -> None:
        """Send until cancelled. Outages of Redis and of the service are waited out."""
        while True:
            if self._leadership.lease is not None:
                # The crawl loop logs these, and deletes keys of a wrong type at each crawl.
                with suppress(DeposedError, RedisError, OSError):
                    await self.send_due()
            await asyncio.sleep(POLL_EVERY)

    async def send_due(self) -> None:
        """Send one message with all changes after the position, where that is due.

        Raises `DeposedError`, `redis.RedisError`, `OSError`.
        """
        newest: Any = await self._redis.xrevrange(keys.CHANGES, count=1)
        end = stream_position(newest[0][0]) if newest else (0, 0)
        written: Any = await self._redis.hget(keys.NOTICE_POSITIONS, self._field)
        position = None if written is None else stored.read("change", stream_position, written)
        if position is None or position > end:  # a new service: it gets the changes from now on
            await self._move(end)
        else:
            await self._send_after(position)

    async def _send_after(self, position: Position) -> None:
        entries: Any = await self._redis.xrange(keys.CHANGES, "({}-{}".format(*position))
        if not entries:
            return
        last, wanted = stream_position(entries[-1][0]), self._wanted(entries)
        if not wanted or (await self._is_due(next(iter(wanted))) and await self._send(list(wanted.values()))):
            await self._move(last)

    def _wanted(self, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> dict[Position, Change]:
        """Return the changes to send, by their place in the stream: chosen ones that the service does not know yet.

        It knows one that lasts, if an update only added evidence, such as further blocks that a model lost.
        """
        wanted = {}
        for entry_id, fields in entries:
            change = stored.read("change", lambda entry: changes.decode(entry[b"change"]), fields)
            if change is None or not self._choice.takes(change, self._official):
                continue
            if not (change.lasts and self._told.get(change.id) == change.times):
                wanted[stream_position(entry_id)] = change
        return wanted

    async def _is_due(self, oldest: Position) -> bool:
        """Whether a message may be sent now, whose oldest change is at this place."""
        now, begun = await self._clock.ask(), oldest[0] / 1000
        quiet = self._quiet_hours is not None and self._quiet_hours.include(now)
        collecting = begun <= now < begun + self._digest_seconds  # after a clock was set back, `begun` is later
        return not quiet and not collecting and time.monotonic() >= self._retry_at

    async def _send(self, found: list[Change]) -> bool:
        """Send one message, and return whether the service took it."""
        if self._sending is not None and not self._sending.done():
            return self._failed("the message before is still under way")
        self._sending = _in_thread(partial(send, self._url, message(found, self._monitor_url)))
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await asyncio.shield(self._sending)
        except (NotSentError, TimeoutError) as error:
            return self._failed(str(error) or "timeout")
        self._pause = FIRST_PAUSE
        for change in found:
            if change.lasts:
                self._told[change.id] = change.times
            else:
                self._told.pop(change.id, None)
        self._on_ended("delivered")
        log.info("notice delivered", service=masked(self._url), changes=len(found))
        return True

    def _failed(self, reason: str) -> bool:
        self._retry_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._on_ended("failed")
        log.warning("notice not delivered; it will be retried", service=masked(self._url), reason=reason)
        return False

    async def _move(self, position: Position) -> None:
        packed = "{}-{}".format(*position)
        await self._advance(self._leadership.lease, [keys.NOTICE_POSITIONS], self._field, packed, KEPT)


def _in_thread(work: Callable[[], None]) -> asyncio.Future[None]:
    """Run `work` in a thread of its own, which may take for ever: those of asyncio are few, and are waited for."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def end(error: Exception | None) -> None:
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)
            ended.exception()  # read, so that asyncio does not log it where nobody waits any more

    def run() -> None:
        error = None
        try:
            work()
        except Exception as raised:  # noqa: BLE001 - raised where it is awaited
            error = raised
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(end, error)

    threading.Thread(target=run, daemon=True).start()
    return ended
