"""An RQ worker that runs a thousand checks at once, on one asyncio loop and the nodes of one prober.

RQ's own workers run one job at a time (a fork each, or in place). A check is 99% waiting, so this one takes
jobs in batches, runs each as a task, and writes the results back in batches. To RQ it is a worker like any
other: it registers, beats, obeys `rq suspend` and `rq worker-pool`'s signals (`registration`), and its jobs stand
in StartedJobRegistry.
"""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
from redis.exceptions import RedisError
from rq.utils import now as rq_now
from rq.utils import utcformat

from reachability_worker.job import BadJobError, Check, read_check
from reachability_worker.registration import Registration
from reachability_worker.results import Results
from reachability_worker.scripts import Scripts
from reachability_worker.spans import check_span, note_outcome
from shared import keys
from shared.reachability import RENEWAL, WORKER_LEASE, Cause, DialOutcome

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from reachability_worker.metrics import WorkerMetrics
    from reachability_worker.prober import Looks

TAKE_AT_ONCE = 250
WAIT_SECONDS = 1
"""How long an idle worker waits in one blocking read. Under the socket time-out, and under the lease."""
RENEW_EVERY = 1.0
MAINTAIN_EVERY = 2.0

log = structlog.get_logger()


class ConcurrentWorker:
    """`run` goes on until `stop`; then what is in flight is finished or handed back."""

    def __init__(
        self,
        vantage: str,
        prober: Looks,
        *,
        connection: Redis,
        redis: AsyncRedis,
        metrics: WorkerMetrics,
        checks_at_once: int,
        verdict_reuse: float,
        shutdown_grace: float,
    ) -> None:
        self._registration = Registration(vantage, connection)
        self._queue_key, self._wip_key = self._registration.queue_key, self._registration.wip_key
        self._vantage = vantage
        self._prober = prober
        self._redis = redis
        self._metrics = metrics
        self._checks_at_once = checks_at_once
        self._shutdown_grace = shutdown_grace
        self._scripts = Scripts(redis)
        self._execution = uuid4().hex
        """One execution id for the process: with the job's id it is unique, and RQ asks for no more."""
        self._results = Results(
            self._scripts,
            self._registration,
            vantage=vantage,
            execution=self._execution,
            verdict_reuse=verdict_reuse,
            on_written=self._written,
        )
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Event()
        self._stopping = asyncio.Event()
        self._suspended = False

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    async def run(self) -> None:
        """Take and run checks until `stop` is called; then finish them or hand them back.

        Redis may go and come back meanwhile, also empty.
        """
        self._room.set()
        await self._register()
        finisher = asyncio.create_task(self._results.run())
        others = [asyncio.create_task(self._renew()), asyncio.create_task(self._maintain())]
        taker = asyncio.create_task(self._take())
        try:
            await self._stopping.wait()
            log.info("stopping", in_flight=self.in_flight)
            taker.cancel()
            with suppress(RedisError, OSError):
                await self._renew_once(lease=0)
            await self._drain()
        finally:
            for task in (taker, finisher, *others):
                task.cancel()
            await asyncio.gather(taker, finisher, *others, return_exceptions=True)
            with suppress(RedisError, OSError):
                await asyncio.to_thread(self._registration.register_death)

    def stop(self) -> None:
        self._stopping.set()

    def install_signal_handlers(self) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, self.stop)

    async def _register(self) -> None:
        away = False
        while True:
            try:
                await asyncio.to_thread(self._registration.register)
                break
            except (RedisError, OSError) as error:
                if not away:
                    log.warning("redis is away; trying again every second", error=str(error))
                away = True
                await asyncio.sleep(1)
        if away:
            log.info("redis is back")

    async def _take(self) -> None:
        away = False
        while True:
            await self._room.wait()
            if self._suspended or not self._prober.fit:
                await asyncio.sleep(0.1)
                continue
            try:
                # Waits until the queue is not empty: moves the first id onto its own place.
                first = await self._redis.blmove(self._queue_key, self._queue_key, WAIT_SECONDS, "LEFT", "LEFT")
                if first is None or self._suspended or not self._prober.fit:
                    continue  # it stays where it is, for another worker
                jobs = await self._scripts.take(
                    keys=[self._queue_key, self._wip_key],
                    args=[
                        min(TAKE_AT_ONCE, self._checks_at_once - self.in_flight),
                        self._registration.name,
                        utcformat(rq_now()),
                        RENEWAL,
                        keys.inflight(self._vantage, ""),
                        self._execution,
                    ],
                )
                away = False
            except (RedisError, OSError) as error:
                if not away:
                    log.warning("redis is away", error=str(error))
                away = True
                await asyncio.sleep(0.25)
                continue
            for job_id, packed, left_ms, asked_by, traceparent in jobs:
                self._start(job_id.decode(), packed, left_ms / 1000, asked_by, traceparent)

    def _start(self, job_id: str, packed: bytes, seconds_left: float, asked_by: bytes, traceparent: bytes) -> None:
        try:
            check = read_check(job_id, packed, seconds_left, asked_by, traceparent)
        except BadJobError as error:
            log.warning("job refused", job_id=job_id[:64], reason=str(error))
            self._metrics.refused.inc()
            self._results.put(Check(job_id, "", 0.0), DialOutcome.unknown(Cause.OTHER, error="not a check"))
            return
        self._in_flight[job_id] = asyncio.create_task(self._run(check))
        if self.in_flight >= self._checks_at_once:
            self._room.clear()

    async def _run(self, check: Check) -> None:
        # In the task's own context: whatever is logged about this check names the request that it is for.
        structlog.contextvars.bind_contextvars(request_id=check.request_id)
        with check_span(check, self._registration.queue_name) as span:
            outcome = await self._look(check)
            note_outcome(span, outcome)
            if outcome.cause is Cause.NODE_UNFIT and not self._prober.fit and time.monotonic() < check.deadline:
                # Not the peer's fault: another worker may be able to look. Where none is, the api tells the callers.
                await self._hand_back([check.job_id])
            else:
                self._results.put(check, outcome, span.traceparent)

    async def _look(self, check: Check) -> DialOutcome:
        started = time.monotonic()
        try:
            outcome = await self._prober.look(check.peer_id, check.deadline)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("check failed", peer_id=check.peer_id)
            outcome = DialOutcome.unknown(Cause.OTHER, error=repr(error)[:200])
        self._metrics.checked(outcome, time.monotonic() - started)
        log.debug("looked", peer_id=check.peer_id, verdict=outcome.verdict, stage=outcome.stage, cause=outcome.cause)
        return outcome

    def _written(self, checks: list[Check]) -> None:
        for check in checks:
            self._in_flight.pop(check.job_id, None)
        self._room.set()

    async def _renew(self) -> None:
        while True:
            with suppress(RedisError, OSError):
                # An unfit or suspended worker gives its lease up: callers hear at once that nobody looks.
                looks = self._prober.fit and not self._suspended
                self._metrics.looking.set(looks)
                waiting, oldest_ms = await self._renew_once(lease=WORKER_LEASE if looks else 0)
                self._metrics.queued(waiting, oldest_ms / 1000)
            self._metrics.in_flight.set(self.in_flight)
            await asyncio.sleep(RENEW_EVERY)

    async def _renew_once(self, lease: float) -> list[int]:
        renewed: list[int] = await self._scripts.renew(
            keys=[self._wip_key, keys.VANTAGES, keys.workers(self._vantage), self._queue_key],
            args=[
                self._registration.name, self._vantage, lease, keys.inflight(self._vantage, ""), RENEWAL,
                self._execution, *self._in_flight,
            ],
        )  # fmt: skip
        return renewed

    async def _maintain(self) -> None:
        """Beat for RQ, follow `rq suspend`, drop what killed workers left, clean RQ's registries."""
        while True:
            with suppress(RedisError, OSError):
                # Before RQ's own cleaning, which would keep lost checks as failed jobs: they are asked again.
                lost = await self._scripts.reconcile(keys=[self._wip_key])
                if lost:
                    log.warning("dropped checks that a lost worker had started", checks=lost)
                self._suspended = await asyncio.to_thread(self._registration.beat, busy=bool(self._in_flight))
            await asyncio.sleep(MAINTAIN_EVERY)

    async def _drain(self) -> None:
        """Give the checks in flight their grace, then put the rest back for the next worker."""
        if self._in_flight:
            await asyncio.wait(self._in_flight.values(), timeout=self._shutdown_grace)
        left = [job_id for job_id, task in self._in_flight.items() if not task.done()]
        for job_id in left:
            self._in_flight[job_id].cancel()
        if left:
            await self._hand_back(left)
        for _ in range(20):
            if not self._in_flight:
                break
            await asyncio.sleep(0.05)

    async def _hand_back(self, job_ids: list[str]) -> None:
        """Put checks back, whole and in front, for the next worker that can look."""
        log.info("handed back", checks=len(job_ids))
        for job_id in job_ids:
            self._in_flight.pop(job_id, None)
        self._room.set()
        with suppress(RedisError, OSError):
            await self._scripts.hand_back(keys=[self._queue_key, self._wip_key], args=[self._execution, *job_ids])
