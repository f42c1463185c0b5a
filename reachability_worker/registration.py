"""What RQ knows of a worker: that it lives, what it is called, whether it should rest. `rq info` tells the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rq.serializers import JSONSerializer
from rq.suspension import is_suspended
from rq.worker import WorkerStatus
from rq.worker.base import BaseWorker

from shared.reachability import queue_name
from shared.rq_job import InertJob

if TYPE_CHECKING:
    from redis import Redis

MAINTENANCE_INTERVAL = 10
"""Seconds between RQ's own cleanings of its registries."""
WORKER_TTL = 30
"""Seconds after which RQ forgets a worker that does not beat."""


class Registration(BaseWorker):
    """RQ's side of a worker. It blocks and speaks to Redis, so its methods are called in a thread.

    All raise `redis.RedisError` and `OSError`.
    """

    def __init__(self, vantage: str, connection: Redis) -> None:
        super().__init__(
            [queue_name(vantage)],
            connection=connection,
            serializer=JSONSerializer,
            job_class=InertJob,
            worker_ttl=WORKER_TTL,
            maintenance_interval=MAINTENANCE_INTERVAL,
            log_job_description=False,
        )
        self.queue_name = queue_name(vantage)
        self.queue_key: str = self.queues[0].key
        self.wip_key: str = self.queues[0].started_job_registry.key

    def register(self) -> None:
        self.register_birth()  # type: ignore[no-untyped-call]
        self.set_state(WorkerStatus.IDLE)

    def beat(self, *, busy: bool) -> bool:
        """Say that the worker lives, clean RQ's registries where it is time. Returns whether `rq suspend` is on."""
        if not self.connection.hexists(self.key, "birth"):  # a Redis that came back empty
            self.connection.delete(self.key)
            self.register_birth()  # type: ignore[no-untyped-call]
        self.heartbeat()
        self.set_state(WorkerStatus.BUSY if busy else WorkerStatus.IDLE)
        suspended = bool(is_suspended(self.connection, self))
        if self.should_run_maintenance_tasks:
            self.clean_registries()  # type: ignore[no-untyped-call]
        return suspended
