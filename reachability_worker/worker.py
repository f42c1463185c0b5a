"""This module is an RQ worker that runs a thousand checks at once, on one asyncio loop and with two libp2p nodes.

RQ's own workers run one job at a time (in a fork, or in place). A check is 99% waiting, so this worker takes jobs in
batches, runs each as a task, and writes the results back in batches. To RQ it is a worker like any other: it registers,
sends heartbeats, obeys `rq suspend` and `rq worker-pool`'s signals (`registration`), and its jobs are in
StartedJobRegistry.
"""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import structlog
from redis.exceptions import RedisError

from reachability_worker.job import Check, read_check
from reachability_worker.registration import Registration
from reachability_worker.results import Results
from reachability_worker.scripts import Scripts
from reachability_worker.spans import check_span, note_outcome
from shared.inference import InferenceOutcome, ServerInference
from shared.reachability import WORKER_LEASE, Cause, DialOutcome
from shared.snapshot import Verdict
from shared.store import keys, stored
from shared.store.clock import RedisClock
from shared.store.inference_turn import inference_turn
from shared.tasks import Tasks, end

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from reachability_worker.given_addresses import AddressProber
    from reachability_worker.inference import InferenceChecker
    from reachability_worker.job import PackedJob
    from reachability_worker.metrics import WorkerMetrics
    from reachability_worker.nodes import Nodes
    from reachability_worker.prober import Prober
    from shared.reachability import Stage

CHECKS_PER_BATCH = 250
WAIT_SECONDS = 1
"""Seconds that an idle worker waits in one blocking read: less than the socket timeout and the lease."""
RENEW_EVERY = 1.0
MAINTAIN_EVERY = 2.0
LAST_WRITE_TIMEOUT = 1.0
"""Seconds for each of the last writes of a worker that stops. Without them its lease and its jobs expire."""

log = structlog.get_logger()


class ConcurrentWorker:
    """Takes and runs checks from `run` to `stop`. Checks still in flight then are finished or handed back."""

    def __init__(
        self,
        vantage: str,
        nodes: Nodes,
        prober: Prober,
        address_prober: AddressProber,
        inference_checker: InferenceChecker,
        *,
        connection: Redis,
        redis: AsyncRedis,
        metrics: WorkerMetrics,
        checks_at_once: int,
        verdict_reuse: float,
        shutdown_grace: float,
    ) -> None:
        self._registration = Registration(vantage, connection)
        self._vantage = vantage
        self._nodes = nodes
        self._prober = prober
        self._address_prober = address_prober
        self._inference_checker = inference_checker
        self._redis = redis
        self._metrics = metrics
        self._checks_at_once = checks_at_once
        self._shutdown_grace = shutdown_grace
        self._scripts = Scripts(redis, self._registration)
        self._clock = RedisClock(redis)
        self._results = Results(
            self._scripts,
            vantage=vantage,
            verdict_reuse=verdict_reuse,
            on_written=self._forget,
            now=self._clock.now,
            delete_unusable=self._delete_unusable,
        )
        self._renew_now = asyncio.Event()
        self.tasks = Tasks(on_change=self._renew_now.set)
        """The loops that it depends on. While one of them fails, it gives up its lease and takes no checks."""
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._stages: dict[str, Stage] = {}
        """Stages that checks in flight have come to, by job id; written with the next renewal, once a second."""
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
        lease_released = False
        async with self.tasks:
            self.tasks.keep("answers", self._results.run)
            self.tasks.keep("lease", self._renew)
            self.tasks.keep("beats", self._maintain)
            taker = self.tasks.keep("taker", self._take)
            await self._stopping.wait()
            log.info("stopping", in_flight=self.in_flight)
            await end(taker)
            with suppress(RedisError, OSError):
                async with asyncio.timeout(LAST_WRITE_TIMEOUT):
                    await self._renew_once(lease=0)
                    lease_released = True
            await self._drain()
        if lease_released:  # a thread cannot be cancelled, and would wait for a Redis that does not answer
            with suppress(RedisError, OSError):
                await asyncio.to_thread(self._registration.register_death)

    def stop(self) -> None:
        self._stopping.set()

    def install_signal_handlers(self) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, self.stop)

    async def _take(self) -> None:
        queue = self._registration.queue_key
        while True:
            await self._room.wait()
            if self._suspended or not self._nodes.fit:
                await asyncio.sleep(0.1)
                continue
            try:
                # Waits until the queue is not empty, by moving its first id to where it already is.
                first = await self._redis.blmove(queue, queue, WAIT_SECONDS, "LEFT", "LEFT")
                if first is None or self._suspended or not self._nodes.fit:
                    continue  # it stays where it is, for another worker
                jobs = await self._scripts.take(min(CHECKS_PER_BATCH, self._checks_at_once - self.in_flight))
            except (RedisError, OSError) as error:
                await self._delete_unusable_after(error)
                await asyncio.sleep(0.25)
                continue
            refused = [job[0] for job in jobs if not self._start(job)]
            if refused:
                self._metrics.refused.inc(len(refused))
                with suppress(RedisError, OSError):
                    await self._scripts.drop(refused)

    def _start(self, job: PackedJob) -> bool:
        """Start a check; return False for a job that is not one."""
        check = stored.read("job", read_check, job)
        if check is None:
            return False
        self._in_flight[check.job_id] = self.tasks.start("check", self._run(check))
        if self.in_flight >= self._checks_at_once:
            self._room.clear()
        return True

    async def _run(self, check: Check) -> None:
        # Bound in the task's own context, so every log line about this check carries its request id.
        structlog.contextvars.bind_contextvars(request_id=check.request_id)
        try:
            await self._answer(check)
        except Exception:
            self._forget([check.job_id])  # it has no answer; the api requests the check again
            raise

    async def _answer(self, check: Check) -> None:
        with check_span(check, self._registration.queue_name) as span:
            outcome = await self._probe(check)
            note_outcome(span, outcome)
            if outcome.cause is Cause.NODE_UNFIT and not self._nodes.fit and time.monotonic() < check.deadline:
                # This worker's fault: another worker may be able to probe the peer. Without one the api answers 503.
                await self._hand_back([check.job_id])
            else:
                self._results.put(check, outcome, span.traceparent, await self._infer(check, outcome))

    async def _infer(self, check: Check, outcome: DialOutcome) -> ServerInference | None:
        """Return what the peer computed; None where nobody asked for it, or the peer was not reached."""
        asked = check.inference
        if asked is None or outcome.verdict is not Verdict.REACHABLE:
            return None
        async with inference_turn(self._redis, check.peer_id) as mine:
            if not mine:
                blocks, detail = (asked.start, asked.end), "another inference check of it goes on"
                return ServerInference(InferenceOutcome.UNKNOWN, blocks, self._clock.now(), detail=detail)
            found = await self._inference_checker.infer(check.peer_id, outcome, asked, check.deadline)
            return msgspec.structs.replace(found, checked_at=self._clock.now())

    async def _probe(self, check: Check) -> DialOutcome:
        """Return what was found at the given address, where the check is about one, else of the peer; and count it."""
        started = time.monotonic()
        on_stage = partial(self._stages.__setitem__, check.job_id)
        try:
            if check.given is not None:
                outcome = await self._address_prober.probe_at(check.given, check.deadline, on_stage)
            else:
                outcome = await self._prober.probe(check.peer_id, check.deadline, on_stage)
        except Exception as error:
            log.exception("check failed", peer_id=check.peer_id)
            outcome = DialOutcome.unknown(Cause.OTHER, error=repr(error)[:200])
        if check.given is not None:
            self._metrics.dialled_given(outcome)
        else:
            self._metrics.checked(outcome, time.monotonic() - started)
        log.debug("probed", peer_id=check.peer_id, verdict=outcome.verdict, stage=outcome.stage, cause=outcome.cause)
        return outcome

    def _forget(self, job_ids: list[str]) -> None:
        """Take checks out of those in flight."""
        for job_id in job_ids:
            self._in_flight.pop(job_id, None)
            self._stages.pop(job_id, None)
        self._room.set()

    async def _renew(self) -> None:
        while True:
            # An unfit, suspended or broken worker gives its lease up, so callers get a 503 at once.
            self._renew_now.clear()
            takes_checks = self._nodes.fit and not self._suspended and not self.tasks.failing
            self._metrics.takes_checks.set(takes_checks)
            self._metrics.in_flight.set(self.in_flight)
            try:
                self._metrics.queued(*await self._renew_once(lease=WORKER_LEASE if takes_checks else 0))
                await self._clock.ask()
            except (RedisError, OSError) as error:
                await self._delete_unusable_after(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(RENEW_EVERY):
                    await self._renew_now.wait()

    async def _renew_once(self, lease: float) -> tuple[int, float]:
        news = dict(self._stages)
        queued = await self._scripts.renew(lease, {job_id: news.get(job_id, "") for job_id in self._in_flight})
        for job_id, stage in news.items():
            if self._stages.get(job_id) is stage:
                del self._stages[job_id]
        return queued

    async def _maintain(self) -> None:
        """Send RQ's heartbeat, follow `rq suspend`, delete jobs of killed workers, clean RQ's lists."""
        away = False
        while True:
            try:
                lost = await self._scripts.reconcile()
                if lost:
                    log.warning("dropped checks that a lost worker had started", checks=lost)
                self._suspended = await asyncio.to_thread(self._registration.beat, busy=bool(self._in_flight))
                if away:
                    log.info("redis is back")
                away = False
            except (RedisError, OSError) as error:
                if stored.is_outage(error) and not away:
                    log.warning("redis is away; trying again every two seconds", error=str(error))
                    away = True
                await self._delete_unusable_after(error)
            await asyncio.sleep(MAINTAIN_EVERY)

    async def _delete_unusable_after(self, error: Exception) -> None:
        """Delete the worker's keys of a wrong type, unless the error is an outage, which the caller waits out."""
        if stored.is_outage(error):
            return
        stored.refuse("redis", error)
        with suppress(RedisError, OSError):
            await self._delete_unusable()

    async def _delete_unusable(self) -> None:
        own = {self._registration.key: "hash"}
        await stored.delete_unusable(
            self._redis, keys.of_the_workers(self._vantage, self._registration.queue_name) | own
        )

    async def _drain(self) -> None:
        """Wait for the checks in flight for the grace time, then hand the rest back."""
        if self._in_flight:
            await asyncio.wait(self._in_flight.values(), timeout=self._shutdown_grace)
        left = [job_id for job_id, task in self._in_flight.items() if not task.done()]
        await end(*(self._in_flight[job_id] for job_id in left))
        if left:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WRITE_TIMEOUT):
                    await self._hand_back(left)
        for _ in range(20):
            if not self._in_flight:
                break
            await asyncio.sleep(0.05)

    async def _hand_back(self, job_ids: list[str]) -> None:
        """Put checks back at the front of the queue, for another worker."""
        log.info("handed back", checks=len(job_ids))
        self._forget(job_ids)
        with suppress(RedisError, OSError):
            await self._scripts.hand_back(job_ids)
