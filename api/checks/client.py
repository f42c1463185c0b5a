"""This module runs reachability checks: has them admitted to the queue, and gives each caller an answer in time.

However many callers check one peer, in this process or in another, one worker probes it once. This process keeps one
`PendingCheck` per peer, and polls Redis for it every second: `api.checks.admission` decides, for all processes, whether
to reuse a verdict, join a check that is under way, or begin one. So a check whose worker was lost begins anew at
another. Verdicts arrive on one stream of replies, which all pending checks share.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from api.checks.admission import Admissions, Check, NoVerdictError
from api.checks.vantages import Vantages
from api.http.request_id import current_request_id
from shared import tracing
from shared.reachability import Answer, Stage, address_subject, decode_answer, job_subject
from shared.snapshot import Verdict
from shared.store import keys, stored
from shared.store.streams import StreamTail
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

    from shared.given import GivenAddress
    from shared.inference import InferenceRequest
    from shared.tasks import Tasks

POLL_INTERVAL = 1.0
"""Seconds after which a pending check asks Redis again how it stands."""
OTHER_VANTAGES_TIMEOUT = 0.5
"""Seconds that other vantage points get once one has reached the peer. They add evidence; the verdict is decided."""

log = structlog.get_logger()


@dataclass(slots=True)
class PendingCheck:
    """A check that callers of this process wait for."""

    check: Check
    result: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    waiters: int = 0
    polling: asyncio.Task[None] | None = None


class CheckClient:
    """Checks peers for all requests of this process. `start` comes first; then `check` as often as wanted."""

    def __init__(self, redis: Redis, tasks: Tasks, *, max_queued: int) -> None:
        self._redis = redis
        self._tasks = tasks
        self._pending: dict[tuple[str, str, bool], PendingCheck] = {}
        """By `Check.key`."""
        self._tail = StreamTail(redis, (keys.REPLIES,), about="replies")
        self._admissions = Admissions(redis, max_queued=max_queued)
        self._vantages = Vantages(redis)
        self.followers = 0
        """Pages that watch the stages of a check."""
        self.on_reply: Callable[[Answer], None] = lambda _: None
        """Called with each reply that arrives, for metrics."""

    @property
    def waiting(self) -> int:
        """How many callers wait now."""
        return sum(pending.waiters for pending in self._pending.values())

    def start(self) -> None:
        """Read replies and admit checks from now on, until the tasks are closed."""
        self._tasks.keep("replies", self._read_replies)
        self._tasks.keep("admissions", self._admissions.run)

    async def check(
        self, peer_id: str, *, deadline: float, vantage: str | None = None, fresh: bool = False
    ) -> list[Answer]:
        """Return what each live vantage point (or the one that is named) found, within `deadline` (monotonic seconds).

        Raises `NoVerdictError` where none could probe the peer.
        """
        names = await self._vantages.live(deadline, vantage)
        checks = (Check(name, peer_id, deadline, fresh, current_request_id()) for name in names)
        tasks = [awaited(self._answer_to(check, deadline)) for check in checks]
        try:
            await self._until_decided(tasks, deadline)
        finally:
            await end(*(task for task in tasks if not task.done()))
        answers = [task.result() for task in tasks if task.done() and not task.cancelled() and not task.exception()]
        if not answers:
            failed = next((task.exception() for task in tasks if task.done() and not task.cancelled()), None)
            raise NoVerdictError(str(failed or "no worker answered in time"))
        return answers

    async def infer(self, peer_id: str, request: InferenceRequest, *, deadline: float) -> Answer:
        """Return the answer of one vantage point that probed the peer and had it compute.

        Only one vantage point does: a server never computes for two at once. Raises `NoVerdictError` without an answer.
        """
        name, *_ = await self._vantages.live(deadline)
        check = Check(name, peer_id, deadline, fresh=False, request_id=current_request_id(), inference=request)
        return await self._answer_to(check, deadline)

    async def dial(self, given: GivenAddress, *, deadline: float, vantage: str | None = None) -> Answer:
        """Return what one vantage point (`vantage`, else the first) found at an address that a client gave.

        Callers that give the same address share one dial. The answer is about the address, never about the peer.
        Raises `NoVerdictError` where no vantage point could dial it.
        """
        name, *_ = await self._vantages.live(deadline, vantage)
        check = Check(name, "", deadline, fresh=False, request_id=current_request_id(), address=str(given))
        return await self._answer_to(check, deadline)

    async def stage(self, peer_id: str) -> Stage | None:
        """Return the furthest stage that any vantage point's check of a peer has come to; None where no check runs.

        The check may have begun in another process. Raises `redis.RedisError`, `OSError`.
        """
        names = await self._vantages.names()
        if not names:
            return None
        reading = self._redis.pipeline(transaction=False)
        for name in names:
            reading.get(keys.inflight(name, peer_id))
        jobs = [job for job in await reading.execute(raise_on_error=False) if isinstance(job, bytes)]
        reading = self._redis.pipeline(transaction=False)
        for job in jobs:
            reading.hmget(b"rq:job:" + job, "status", "stage")
        found = [
            stored.read("stage", _stage, fields)
            for fields in (await reading.execute(raise_on_error=False) if jobs else ())
            if isinstance(fields, list)
        ]
        order = list(Stage)
        return max((stage for stage in found if stage is not None), key=order.index, default=None)

    async def _until_decided(self, tasks: list[asyncio.Task[Answer]], deadline: float) -> None:
        running: set[asyncio.Task[Answer]] = set(tasks)
        while running:
            done, running = await asyncio.wait(
                running, timeout=max(0.0, deadline - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                return
            if running and any(
                not task.exception() and task.result().outcome.verdict is Verdict.REACHABLE for task in done
            ):
                deadline = min(deadline, time.monotonic() + OTHER_VANTAGES_TIMEOUT)

    async def _answer_to(self, check: Check, deadline: float) -> Answer:
        """Return one vantage point's answer: join this process's pending check with the same key, or begin this one."""
        pending = self._pending.get(check.key)
        if pending is None or pending.result.done():
            pending = self._pending[check.key] = PendingCheck(check)
            pending.polling = self._tasks.start("check", self._poll(pending))
        pending.waiters += 1
        pending.check.deadline = max(pending.check.deadline, deadline)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                answer = await asyncio.shield(pending.result)
        except TimeoutError:
            raise NoVerdictError("no worker answered in time") from None
        else:
            # A request that shares a probe links its own trace to the probe's.
            tracing.current().link(answer.traceparent)
            return answer
        finally:
            pending.waiters -= 1
            if not pending.waiters:
                self._close(pending)

    async def _poll(self, pending: PendingCheck) -> None:
        """Admit the check again every `POLL_INTERVAL` seconds, until it has an answer or its deadline is over."""
        check = pending.check
        try:
            while not pending.result.done() and time.monotonic() < check.deadline:
                admitted = await self._admissions.admit(check)
                if admitted.answer is not None:
                    if not pending.result.done():
                        pending.result.set_result(admitted.answer)
                    return
                check.job_id = admitted.job_id
                log.debug("check admitted", peer_id=check.peer_id, job_id=admitted.job_id, began=admitted.began)
                await asyncio.wait([pending.result], timeout=POLL_INTERVAL)
        except NoVerdictError as error:
            _fail(pending, error)
        except (RedisError, OSError) as error:
            _fail(pending, NoVerdictError(f"the monitor's queue is away ({type(error).__name__})"))
        except Exception as error:
            _fail(pending, NoVerdictError(f"the check failed ({type(error).__name__})"))
            raise

    def _close(self, pending: PendingCheck) -> None:
        """Forget a check that nobody waits for any more."""
        if self._pending.get(pending.check.key) is pending:
            del self._pending[pending.check.key]
        if pending.result.done():
            # Polling ends by itself. A reply may be here before Redis's answer that the check was admitted.
            pending.result.exception()  # retrieved: nobody is left to raise it to
        elif pending.polling is not None:
            pending.polling.cancel()

    def _resolve(self, answer: Answer) -> None:
        """Give an answer to the pending checks that it answers."""
        subjects = (
            [address_subject(answer.address)]
            if answer.address
            else [job_subject(answer.peer_id, inference=inference) for inference in (False, True)]
        )
        for subject in subjects:
            for fresh in (False, True):
                pending = self._pending.get((answer.vantage, subject, fresh))
                if pending is None or pending.result.done() or not pending.check.is_answered_by(answer):
                    continue
                # A verdict from before its admission does not answer a check that wants a fresh one.
                if pending.check.job_id or not fresh:
                    pending.result.set_result(answer)

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
                    self._resolve(answer)


def _fail(pending: PendingCheck, error: NoVerdictError) -> None:
    if not pending.result.done():
        pending.result.set_exception(error)


def _stage(fields: list[bytes | None]) -> Stage | None:
    """Return the stage, given a job's fields `status` and `stage`. Raises `ValueError` for an unknown stage."""
    status, stage = fields
    if stage is not None:
        return Stage(stage.decode())
    return {None: None, b"queued": Stage.QUEUE}.get(status, Stage.LOOKUP)
