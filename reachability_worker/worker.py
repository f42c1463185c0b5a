"""An RQ worker that runs a thousand checks at once, on one asyncio loop and the nodes of one prober.

RQ's own workers run one job at a time (a fork each, or in place). A check is 99% waiting, so this one takes
jobs in batches, runs each as a task, and writes the results back in batches. To RQ it is a worker like any
other: it registers, beats, obeys `rq suspend` and `rq worker-pool`'s signals, and its jobs stand in
StartedJobRegistry.

What is in Redis is never trusted: a job is JSON, names the one known function, and is never imported.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import structlog
from redis.exceptions import RedisError
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended
from rq.utils import now as rq_now
from rq.utils import utcformat
from rq.worker import WorkerStatus
from rq.worker.base import BaseWorker

from reachability_worker.scripts import Scripts
from shared import keys, request_id
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.reachability import (
    CHECK_FUNCTION,
    RENEWAL,
    REPLIES_KEPT,
    WORKER_LEASE,
    Answer,
    Cause,
    DialOutcome,
    encode_answer,
    queue_name,
)
from shared.snapshot import Verdict

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
MAX_JOB_BYTES = 16 * 1024
ANSWER_RESERVE = 0.3
"""Seconds of a question's time that are kept to bring the answer back."""
MAINTENANCE_INTERVAL = 10
"""Seconds between RQ's own cleanings of its registries."""
WORKER_TTL = 30
"""Seconds after which RQ forgets a worker that does not beat."""

log = structlog.get_logger()


class Check(NamedTuple):
    """A job taken: its id, the peer, and until when to look, in monotonic seconds."""

    job_id: str
    peer_id: str
    deadline: float
    request_id: str = ""


class _Finished(NamedTuple):
    check: Check
    answer: bytes
    reuse_ms: int


class BadJobError(ValueError):
    """The job is not a check."""


class ConcurrentWorker(BaseWorker):
    """`work()` runs until SIGTERM or SIGINT; then what is in flight is finished or handed back."""

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
        super().__init__(
            [queue_name(vantage)],
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL,
            maintenance_interval=MAINTENANCE_INTERVAL,
            log_job_description=False,
        )
        self._vantage = vantage
        self._prober = prober
        self._redis = redis
        self._metrics = metrics
        self._checks_at_once = checks_at_once
        self._reuse_ms = int(verdict_reuse * 1000)
        self._shutdown_grace = shutdown_grace
        self._scripts = Scripts(redis)
        self._execution = uuid4().hex
        """One execution id for the process: with the job's id it is unique, and RQ asks for no more."""
        self._queue_key: str = self.queues[0].key
        self._wip_key: str = self.queues[0].started_job_registry.key
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Event()
        self._finished: asyncio.Queue[_Finished] = asyncio.Queue()
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
        await self._until_redis(asyncio.to_thread(self._register))
        finisher = asyncio.create_task(self._write_finished())
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
                await asyncio.to_thread(self.register_death)

    def stop(self) -> None:
        self._stopping.set()

    def install_signal_handlers(self) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, self.stop)

    def _register(self) -> None:
        self.register_birth()  # type: ignore[no-untyped-call]
        self.set_state(WorkerStatus.IDLE)

    async def _until_redis(self, first: Any) -> None:
        try:
            await first
        except (RedisError, OSError) as error:
            log.warning("redis is away; trying again every second", error=str(error))
            while True:
                await asyncio.sleep(1)
                with suppress(RedisError, OSError):
                    await asyncio.to_thread(self._register)
                    log.info("redis is back")
                    return

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
                        self.name,
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
            for job_id, packed, left_ms, asked_by in jobs:
                self._start(job_id.decode(), packed, left_ms / 1000, asked_by)

    def _start(self, job_id: str, packed: bytes, seconds_left: float, asked_by: bytes = b"") -> None:
        try:
            check = Check(
                job_id,
                read_job(job_id, packed),
                time.monotonic() + seconds_left - ANSWER_RESERVE,
                request_id.sane(asked_by.decode("latin-1")) or "",
            )
        except BadJobError as error:
            log.warning("job refused", job_id=job_id[:64], reason=str(error))
            self._metrics.refused.inc()
            self._finish(Check(job_id, "", 0.0), DialOutcome.unknown(Cause.OTHER, error="not a check"))
            return
        self._in_flight[job_id] = asyncio.create_task(self._run(check))
        if self.in_flight >= self._checks_at_once:
            self._room.clear()

    async def _run(self, check: Check) -> None:
        # In the task's own context: whatever is logged about this check names the request that it is for.
        structlog.contextvars.bind_contextvars(request_id=check.request_id)
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
        if outcome.cause is Cause.NODE_UNFIT and not self._prober.fit and time.monotonic() < check.deadline:
            # Not its own fault: another worker may well be able to look. Where none is, callers hear that from the api.
            await self._hand_back([check.job_id])
        else:
            self._finish(check, outcome)

    def _finish(self, check: Check, outcome: DialOutcome) -> None:
        reuse_ms = 0 if outcome.verdict is Verdict.UNKNOWN else self._reuse_ms
        answer = Answer(check.peer_id, self._vantage, time.time(), outcome, check.request_id)
        self._finished.put_nowait(_Finished(check, encode_answer(answer), reuse_ms))

    async def _write_finished(self) -> None:
        """Write results in batches: as many as came while the last batch was written."""
        while True:
            batch = [await self._finished.get()]
            while not self._finished.empty() and len(batch) < TAKE_AT_ONCE:
                batch.append(self._finished.get_nowait())
            jobs = [item for done in batch for item in (done.check.job_id, done.answer, done.reuse_ms)]
            while True:
                try:
                    await self._scripts.finish(
                        keys=[self._wip_key, self.key, keys.REPLIES],
                        args=[
                            self._execution,
                            keys.inflight(self._vantage, ""),
                            keys.verdict(self._vantage, ""),
                            REPLIES_KEPT,
                            *jobs,
                        ],
                    )
                    break
                except (RedisError, OSError) as error:
                    # The answers are kept; a caller whose time has passed meanwhile was told that nobody could look.
                    log.warning("results not written; trying again", error=str(error), results=len(batch))
                    await asyncio.sleep(0.25)
            for done in batch:
                self._in_flight.pop(done.check.job_id, None)
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
                self.name, self._vantage, lease, keys.inflight(self._vantage, ""), RENEWAL, self._execution,
                *self._in_flight,
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
                await asyncio.to_thread(self._beat)
            await asyncio.sleep(MAINTAIN_EVERY)

    def _beat(self) -> None:
        if not self.connection.hexists(self.key, "birth"):  # a Redis that came back empty
            self.connection.delete(self.key)
            self.register_birth()  # type: ignore[no-untyped-call]
        self.heartbeat()
        self.set_state(WorkerStatus.BUSY if self._in_flight else WorkerStatus.IDLE)
        self._suspended = bool(is_suspended(self.connection, self))
        if self.should_run_maintenance_tasks:
            self.clean_registries()  # type: ignore[no-untyped-call]

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


def read_job(job_id: str, packed: bytes) -> str:
    """Return the peer id that a job asks about. Raises `BadJobError` for everything that is not a check."""
    try:
        unpacked = zlib.decompressobj().decompress(packed, MAX_JOB_BYTES)
        function, instance, args, kwargs = json.loads(unpacked)
    except (zlib.error, ValueError, TypeError, RecursionError) as error:
        raise BadJobError("not RQ's JSON") from error
    if function != CHECK_FUNCTION or instance is not None or kwargs:
        raise BadJobError("not a call of the known function")
    if not isinstance(args, list) or len(args) != 1 or not isinstance(args[0], str):
        raise BadJobError("not one peer id")
    try:
        peer_id = parse_peer_id(args[0])
    except BadPeerIdError as error:
        raise BadJobError(str(error)) from error
    if job_id.rpartition("-")[0] != peer_id:
        raise BadJobError("the job's id names another peer")
    return peer_id
