"""The reachability desk: takes questions, has workers look, and gives each caller an answer in time.

However many callers ask about one peer, in this process or in another, one worker looks once. This process
keeps one watch for each peer that anyone asks about; a watch has its question admitted (`api.admission` decides,
for all processes, whether to reuse a verdict, join a check or begin one), and then waits for the reply on the one
stream that all watches share. Every second it admits again: if the worker that had taken the check
was lost, the check begins anew at another.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import RedisError

from api.admission import Admissions, NobodyCouldLookError, Question
from api.request_id import current_request_id
from shared import tracing
from shared.reachability import VANTAGE_PATTERN, Answer, decode_answer
from shared.snapshot import Verdict
from shared.store import keys, stored
from shared.store.streams import StreamTail
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

    from shared.tasks import Tasks

ADMIT_AGAIN = 1.0
"""Seconds after which a watch asks Redis again how its check stands."""
VANTAGES_LAST = 1.0
"""Seconds for which the list of vantage points is used before Redis is asked again."""
OTHER_VANTAGES_WAIT = 0.5
"""Seconds that other vantage points get once one has reached the peer: the verdict stands, evidence is welcome."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Watch:
    """All callers of this process that wait for one peer's verdict from one vantage point."""

    question: Question
    result: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    waiters: int = 0
    pursuit: asyncio.Task[None] | None = None


class ReachabilityDesk:
    """One a process. `start` sets it going; `ask` is for each request."""

    def __init__(self, redis: Redis, tasks: Tasks, *, max_queued: int) -> None:
        self._redis = redis
        self._tasks = tasks
        self._watches: dict[tuple[str, str, bool], _Watch] = {}
        """By vantage point, peer, and whether a fresh look is wanted: a recent verdict answers the others only."""
        self._tail = StreamTail(redis, (keys.REPLIES,), about="replies")
        self._admissions = Admissions(redis, max_queued=max_queued)
        self._vantages: list[str] = []
        self._vantages_at = -VANTAGES_LAST
        self._finding_vantages: asyncio.Task[list[str]] | None = None
        self.on_reply: Callable[[Answer], None] = lambda _: None
        """Told of each reply that comes in, for metrics."""

    @property
    def waiting(self) -> int:
        """Callers that wait now."""
        return sum(watch.waiters for watch in self._watches.values())

    def start(self) -> None:
        """Read replies and admit questions from now on, until the tasks are closed."""
        self._tasks.keep("replies", self._read_replies)
        self._tasks.keep("admissions", self._admissions.run)

    async def vantages(self) -> list[str]:
        """Return the vantage points that had a live worker within the last second. Raises `redis.RedisError`.

        Shared by all callers; whether a worker lives at this moment is decided where each question is admitted.
        """
        if time.monotonic() - self._vantages_at > VANTAGES_LAST and (
            self._finding_vantages is None or self._finding_vantages.done()
        ):
            self._finding_vantages = awaited(self._find_vantages())
            self._finding_vantages.add_done_callback(_look_at)
        if self._finding_vantages is not None and not self._finding_vantages.done():
            return await asyncio.shield(self._finding_vantages)
        return self._vantages

    async def _find_vantages(self) -> list[str]:
        seconds, microseconds = await self._redis.time()
        now_ms = seconds * 1000 + microseconds // 1000
        names: Any = await self._redis.zrangebyscore(keys.VANTAGES, now_ms, "+inf")
        read = (stored.read("vantage", _vantage, name) for name in names)
        self._vantages, self._vantages_at = sorted(name for name in read if name is not None), time.monotonic()
        return self._vantages

    async def ask(
        self, peer_id: str, *, deadline: float, vantage: str | None = None, fresh: bool = False
    ) -> list[Answer]:
        """Return what each live vantage point found, within `deadline` (monotonic seconds).

        Raises `NobodyCouldLookError` where none could.
        """
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                names = await self.vantages()
        except (RedisError, OSError, TimeoutError) as error:
            raise NobodyCouldLookError("the monitor's queue is away") from error
        if vantage is not None:
            names = [name for name in names if name == vantage]
        if not names:
            raise NobodyCouldLookError("no worker is looking now")
        tasks = [awaited(self._ask_one(name, peer_id, deadline, fresh)) for name in names]
        try:
            await self._until_decided(tasks, deadline)
        finally:
            await end(*(task for task in tasks if not task.done()))
        answers = [task.result() for task in tasks if task.done() and not task.cancelled() and not task.exception()]
        if not answers:
            failed = next((task.exception() for task in tasks if task.done() and not task.cancelled()), None)
            raise NobodyCouldLookError(str(failed or "no worker answered in time"))
        return answers

    async def _until_decided(self, tasks: list[asyncio.Task[Answer]], deadline: float) -> None:
        pending: set[asyncio.Task[Answer]] = set(tasks)
        while pending:
            done, pending = await asyncio.wait(
                pending, timeout=max(0.0, deadline - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                return
            if pending and any(
                not task.exception() and task.result().outcome.verdict is Verdict.REACHABLE for task in done
            ):
                deadline = min(deadline, time.monotonic() + OTHER_VANTAGES_WAIT)

    async def _ask_one(self, vantage: str, peer_id: str, deadline: float, fresh: bool) -> Answer:
        watch = self._watches.get((vantage, peer_id, fresh))
        if watch is None or watch.result.done():
            watch = _Watch(Question(vantage, peer_id, deadline, fresh, current_request_id()))
            self._watches[vantage, peer_id, fresh] = watch
            watch.pursuit = self._tasks.start("check", self._pursue(watch))
        watch.waiters += 1
        watch.question.deadline = max(watch.question.deadline, deadline)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                answer = await asyncio.shield(watch.result)
        except TimeoutError:
            raise NobodyCouldLookError("no worker answered in time") from None
        else:
            # Whoever shares a look that another request began finds it from his own trace.
            tracing.current().link(answer.traceparent)
            return answer
        finally:
            watch.waiters -= 1
            if not watch.waiters:
                self._close(watch)

    async def _pursue(self, watch: _Watch) -> None:
        """Have the question admitted until it has an answer or nobody waits for one any more."""
        question = watch.question
        try:
            while not watch.result.done() and time.monotonic() < question.deadline:
                admitted = await self._admissions.admit(question)
                if admitted.answer is not None:
                    if not watch.result.done():
                        watch.result.set_result(admitted.answer)
                    return
                question.job_id = admitted.job_id
                log.debug("asked", peer_id=question.peer_id, job_id=admitted.job_id, began=admitted.began)
                await asyncio.wait([watch.result], timeout=ADMIT_AGAIN)
        except NobodyCouldLookError as error:
            self._give_up(watch, error)
        except (RedisError, OSError) as error:
            self._give_up(watch, NobodyCouldLookError(f"the monitor's queue is away ({type(error).__name__})"))
        except Exception as error:
            self._give_up(watch, NobodyCouldLookError(f"the check failed ({type(error).__name__})"))
            raise

    def _give_up(self, watch: _Watch, error: NobodyCouldLookError) -> None:
        if not watch.result.done():
            watch.result.set_exception(error)

    def _close(self, watch: _Watch) -> None:
        place = watch.question.vantage, watch.question.peer_id, watch.question.fresh
        if self._watches.get(place) is watch:
            del self._watches[place]
        if watch.result.done():
            # The pursuit ends by itself. A reply may be here before Redis's word that the question was admitted.
            watch.result.exception()  # seen: nobody is left to raise it to
        elif watch.pursuit is not None:
            watch.pursuit.cancel()

    def _settle(self, answer: Answer) -> None:
        for fresh in (False, True):
            watch = self._watches.get((answer.vantage, answer.peer_id, fresh))
            # A verdict from before the question was admitted does not answer one that wants a fresh look.
            if watch is not None and not watch.result.done() and (watch.question.job_id or not fresh):
                watch.result.set_result(answer)

    async def _read_replies(self) -> None:
        while True:
            try:
                await self._tail.at_end()
                break
            except (RedisError, OSError):
                await asyncio.sleep(0.25)
        async for entries in self._tail.follow():
            for entry in entries:
                answer = stored.read("reply", lambda fields: decode_answer(fields[b"answer"]), entry.fields)
                if answer is not None:
                    self.on_reply(answer)
                    self._settle(answer)


def _vantage(name: bytes) -> str:
    if re.fullmatch(VANTAGE_PATTERN, text := name.decode()) is None:
        raise ValueError("not the name of a vantage point")
    return text


def _look_at(task: asyncio.Task[Any]) -> None:
    """Take a task's error, also where everybody who waited for it has left."""
    if not task.cancelled():
        task.exception()
