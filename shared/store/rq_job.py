"""This module reads RQ's jobs as hostile text: nothing that a job names is imported, called or fetched.

RQ's own `Job` imports its function and its callbacks by name, even when a worker only cleans up after another, and
posts to the URLs that it contains. Every worker of the monitor reads jobs as `InertJob` instead.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import as_text

from shared.store import keys, stored

if TYPE_CHECKING:
    from redis import Redis

_NAME = re.compile(rb"[A-Za-z0-9._:-]{1,200}")


class InertJob(Job):
    """A job that can be read, moved and counted, but not run."""

    @property
    def func(self) -> Any:
        """Raises `LookupError`: a subclass defines in code what may be called, never Redis."""
        raise LookupError(f"{self.func_name!r} is not a job of this monitor")

    success_callback = failure_callback = stopped_callback = None  # not callbacks that Redis names

    def send_webhooks(self, status: Any, *, exc_string: str | None = None) -> None:
        """Do nothing: a URL in Redis may be anyone's."""


def purge(connection: Redis, queue: str) -> None:
    """Delete from RQ's lists of a queue what RQ cannot read and would fail on each time; each entry counts as refused.

    Reads every job of the queue, so use it for a short one, after RQ has failed. Raises `redis.RedisError`, `OSError`.
    """
    for key, kind in keys.of_rq(queue).items():
        there = as_text(connection.type(key))
        if there not in (kind, "none"):
            stored.refuse("key", ValueError(f"{key} is a {there}"))
            connection.delete(key)
            continue
        members: Any
        match kind:
            case "list":
                members = connection.lrange(key, 0, -1)
            case "zset":
                members = connection.zrange(key, 0, -1)
            case _:
                members = connection.smembers(key)
        for member in members:
            if _is_readable(connection, member, is_job=kind != "set"):
                continue
            stored.refuse("rq", ValueError(f"{member[:80]!r} in {key}"))
            match kind:
                case "list":
                    connection.lrem(key, 0, member)
                case "zset":
                    connection.zrem(key, member)
                case _:
                    connection.srem(key, member)


def _is_readable(connection: Redis, member: bytes, *, is_job: bool) -> bool:
    if _NAME.fullmatch(member) is None:
        return False
    if not is_job:
        return True
    job_id = member.decode().partition(":")[0]  # registries name executions: JOB:EXECUTION
    try:
        job = InertJob.fetch(job_id, connection=connection, serializer=JSONSerializer)
        _ = job.args
    except NoSuchJobError:
        return True  # it has expired, and RQ skips it
    except Exception as error:
        if isinstance(error, RedisError | OSError) and stored.is_outage(error):
            raise
        connection.delete(f"{Job.redis_job_namespace_prefix}{job_id}")
        return False
    return True
