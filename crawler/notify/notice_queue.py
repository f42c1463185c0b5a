"""This module queues and delivers notices as RQ jobs: they outlive restarts, and are retried with growing pauses.

RQ keeps the queue (`rq info` shows it, `rq requeue` retries a notice that was given up); the leading crawler delivers,
one notice at a time, in a thread. A job holds only the notice: its receiver and its secret are settings, and nothing in
Redis names code (`shared.store.rq_job`).
"""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from redis.exceptions import RedisError, WatchError
from rq import Queue
from rq.job import Job, JobStatus, Retry
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty
from rq.worker import SimpleWorker

from crawler.notify.webhook import DeliveryError
from shared.incidents import Incident  # noqa: TC001 - msgspec reads the annotation
from shared.store import keys, stored
from shared.store.connection import SOCKET_TIMEOUT
from shared.store.fencing import DeposedError
from shared.store.rq_job import InertJob, purge

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    Deliver = Callable[[bytes], None]

QUEUE = "incident-notices"
FUNCTION = "crawler.tell"
"""A name, not an import path."""
BACKOFF = (5, 15, 60, 300, 900, *(3600 for _ in range(24)))
"""Seconds after the first, second, … failure: about a day. Then the notice is given up."""
JOB_TIMEOUT = 60
"""Seconds per delivery, also to a receiver that sends its answer slowly."""
FAILURE_TTL = 7 * 86400
"""Seconds for which a notice that was given up can be requeued by hand."""
SCHEDULER_INTERVAL = 5
CLOSE_TIMEOUT = 1.0
PUT_TRIES = 10
WORKER_TTL = 60
MAINTENANCE_INTERVAL = 30
"""Seconds between searches for deliveries whose crawler ended meanwhile: they are retried."""

log = structlog.get_logger()


class Notice(msgspec.Struct, frozen=True):
    """The document that is sent. `id` stays the same when it is sent again."""

    id: str
    event: str
    """incident.opened or incident.closed"""
    sent_at: float
    """When it was queued, in Unix seconds."""
    incident: Incident


class _NoticeJob(InertJob):
    """A job that delivers its notice with the `deliver` function that the worker sets."""

    deliver: Deliver | None = None

    @property
    def func(self) -> Any:
        if self.func_name != FUNCTION or self.instance is not None or self.deliver is None:
            return super().func
        return partial(_deliver, self.deliver)


def _deliver(deliver: Deliver, text: str) -> None:
    """Deliver a notice. Raises `DeliveryError`, and `msgspec.MsgspecError` for text that is not a notice."""
    deliver(msgspec.json.encode(msgspec.json.decode(text, type=Notice)))


class _Worker(SimpleWorker):
    death_penalty_class = TimerDeathPenalty  # signals are for the main thread
    connection_timeout = SOCKET_TIMEOUT  # type: ignore[assignment]  # a property
    """RQ would set the connection's timeout to 55 s for blocking reads, of which there are none here."""

    def __init__(self, connection: Redis, deliver: Deliver, on_ended: Callable[[str], None]) -> None:
        super().__init__(
            [QUEUE],
            connection=connection,
            job_class=_NoticeJob,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL,
            maintenance_interval=MAINTENANCE_INTERVAL,
            log_job_description=False,
        )
        self._deliver = deliver
        self._on_ended = on_ended

    def execute_job(self, job: Job, queue: Queue) -> None:
        assert isinstance(job, _NoticeJob)  # noqa: S101 - it was read as one
        job.deliver = self._deliver
        super().execute_job(job, queue)

    def handle_job_success(self, job: Job, *arguments: Any, **more: Any) -> None:
        super().handle_job_success(job, *arguments, **more)
        self._on_ended("delivered")
        log.info("incident notice delivered", job_id=job.id)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Log one line, where RQ logs a traceback: a receiver that is away is no fault of the monitor."""
        self._on_ended("failed")
        context = {"job_id": job.id, "reason": f"{exc_info[1]}", "retries_left": job.retries_left}
        if not job.should_retry:
            self._on_ended("given_up")
            log.error("incident notice given up", **context)
        elif isinstance(exc_info[1], DeliveryError):
            log.warning("incident notice not delivered; it will be retried", **context)
        else:
            log.error("incident notice not delivered; it will be retried", **context, exc_info=exc_info)


class _Scheduler(RQScheduler):
    """RQ's scheduler, called by the crawler instead of running in a process of its own."""

    def __init__(self, connection: Redis) -> None:
        super().__init__([QUEUE], connection, interval=SCHEDULER_INTERVAL, serializer=JSONSerializer)
        self._own = connection

    @property
    def connection(self) -> Redis:
        """Our connection: RQ would make a new one from its options, which loses Sentinel."""
        return self._own


class NoticeQueue:
    """Queues and delivers notices. All methods block, and raise `redis.RedisError` and `OSError`."""

    def __init__(self, connection: Redis, deliver: Deliver, on_ended: Callable[[str], None]) -> None:
        """`on_ended` gets each delivery's outcome: "delivered" or "failed", and "given_up" after the last failure."""
        self._connection = connection
        self._queue = Queue(QUEUE, connection=connection, job_class=_NoticeJob, serializer=JSONSerializer)
        self._worker = _Worker(connection, deliver, on_ended)
        self._scheduler = _Scheduler(connection)
        self._working = threading.Lock()
        self._closing = False

    def put(self, notice: Notice, lease: str) -> None:
        """Queue a notice, and record in the same step that it was queued, so that it is never lost or queued twice.

        Raises `DeposedError` where the lease is not the leader's.
        """
        for _ in range(PUT_TRIES):
            with suppress(WatchError):  # the lease was renewed at the same moment
                self._put(notice, lease)
                return
        raise TimeoutError("the lease was renewed at each attempt")

    def _put(self, notice: Notice, lease: str) -> None:
        with self._connection.pipeline() as pipeline:
            pipeline.watch(keys.CRAWLER_LEASE)  # type: ignore[no-untyped-call]
            if pipeline.get(keys.CRAWLER_LEASE) != lease.encode():
                raise DeposedError("DEPOSED")
            pipeline.multi()
            self._queue.enqueue(
                FUNCTION,
                msgspec.json.encode(notice).decode(),
                job_id=job_id(notice.id),
                job_timeout=JOB_TIMEOUT,
                retry=Retry(max=len(BACKOFF), interval=list(BACKOFF)),
                result_ttl=0,
                failure_ttl=FAILURE_TTL,
                description=f"tell {notice.id}",
                pipeline=pipeline,
            )
            pipeline.hset(keys.INCIDENTS_DELIVERED, notice.id, "1")
            pipeline.execute()

    def is_pending(self, notice_id: str) -> bool:
        """Whether a notice is queued, and neither delivered nor given up."""
        status = self._connection.hget(f"{Job.redis_job_namespace_prefix}{job_id(notice_id)}", "status")
        return status is not None and status != JobStatus.FAILED.value.encode()

    def deliver_due(self) -> int:
        """Deliver the notices that are due. Return how many were tried."""
        try:
            return self._deliver_due()
        except Exception as error:
            if isinstance(error, RedisError | OSError) and stored.is_outage(error):
                raise
            # RQ failed on an entry of its lists. Delete such entries, and deliver the notices beside them.
            stored.refuse("rq", error)
            purge(self._connection, QUEUE)
            return self._deliver_due()

    def _deliver_due(self) -> int:
        tried = 0
        with self._working:
            self._beat()
            self._scheduler.acquire_locks()  # type: ignore[no-untyped-call]
            self._scheduler.enqueue_scheduled_jobs()  # type: ignore[no-untyped-call]
            while not self._closing and (taken := self._take()):
                self._worker.execute_job(*taken)
                tried += 1
        return tried

    def _take(self) -> tuple[Job, Queue] | None:
        return Queue.dequeue_any(
            [self._queue], None, connection=self._connection, job_class=_NoticeJob, serializer=JSONSerializer
        )

    def open(self) -> None:
        """Deliver again after `close`."""
        self._closing = False

    def close(self) -> None:
        """Stop: release the scheduler's lock and leave RQ's list of workers; where a delivery hangs, both expire."""
        self._closing = True
        if self._working.acquire(timeout=CLOSE_TIMEOUT):
            self._scheduler.release_locks()  # type: ignore[no-untyped-call]
            self._worker.register_death()  # type: ignore[no-untyped-call]
            self._working.release()

    def _beat(self) -> None:
        """Register as an RQ worker if not registered, send a heartbeat, and run RQ's maintenance when it is due."""
        if not self._connection.hexists(self._worker.key, "birth"):
            self._connection.delete(self._worker.key)
            self._worker.register_birth()  # type: ignore[no-untyped-call]
        self._worker.heartbeat()
        if self._worker.should_run_maintenance_tasks:
            self._worker.clean_registries()  # type: ignore[no-untyped-call]


def job_id(notice_id: str) -> str:
    """Return the id of a notice's job: RQ accepts letters, digits and dashes."""
    return "notice-" + notice_id.replace(":", "-")
