"""This module registers a worker with RQ, so that `rq info` and `rq suspend` work for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rq import worker_registration
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended
from rq.utils import now
from rq.worker import WorkerStatus
from rq.worker.base import BaseWorker

from shared.reachability import queue_name
from shared.store.connection import SOCKET_TIMEOUT
from shared.store.rq_job import InertJob

if TYPE_CHECKING:
    from redis import Redis

MAINTENANCE_INTERVAL = 10
"""Seconds between removals of workers that RQ still lists but that have ended."""
WORKER_TTL = 30
"""Seconds after which RQ forgets a worker that sends no heartbeat."""


class Registration(BaseWorker):
    """RQ's view of one worker. Its methods block on Redis, so they are called in a thread.

    All raise `redis.RedisError` and `OSError`.
    """

    connection_timeout = SOCKET_TIMEOUT  # type: ignore[assignment]  # a property
    """RQ would set the connection's timeout to 25 s for blocking reads, of which there are none here."""

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
        self.vantage = vantage
        self.queue_name = queue_name(vantage)
        self.queue_key: str = self.queues[0].key
        self.wip_key: str = self.queues[0].started_job_registry.key

    def _set_ip_address(self, connection: Redis) -> None:
        """Called by RQ as this is made, when Redis may be away; `beat` asks Redis for it."""
        self.ip_address = "unknown"

    def clean_registries(self) -> None:
        """Remove workers that have ended from RQ's list.

        Of RQ's registries only that of started jobs is used. RQ would clean it by this machine's clock, and call
        others' checks lost where that is ahead: `_RECONCILE` does it by Redis's.
        """
        for queue in self.queues:
            if queue.acquire_maintenance_lock():
                worker_registration.clean_worker_registry(queue)
                queue.release_maintenance_lock()
        self.last_cleaned_at = now()  # type: ignore[assignment]  # RQ has no types there

    def beat(self, *, busy: bool) -> bool:
        """Register where Redis does not know this worker, send a heartbeat, and clean RQ's list of workers.

        Return whether `rq suspend` is on.
        """
        if not self.connection.hexists(self.key, "birth"):  # the first heartbeat, or a Redis that came back empty
            self.connection.delete(self.key)
            super()._set_ip_address(self.connection)
            self.register_birth()  # type: ignore[no-untyped-call]
        self.heartbeat()
        self.set_state(WorkerStatus.BUSY if busy else WorkerStatus.IDLE)
        suspended = bool(is_suspended(self.connection, self))
        if self.should_run_maintenance_tasks:
            self.clean_registries()
        return suspended
