"""RQ's jobs, as text that somebody wrote into Redis: nothing that one names is imported, called or fetched.

RQ's own `Job` imports its function and its callbacks by name, also when a worker merely tidies up after another,
and posts to the URLs that stand in it. Every worker of the monitor reads jobs as this class.
"""

from __future__ import annotations

from typing import Any

from rq.job import Job


class InertJob(Job):
    """A job that can be read, moved and counted, and that does nothing."""

    @property
    def func(self) -> Any:
        """Raises `LookupError`: what may be called is said by code, in a subclass, and not by Redis."""
        raise LookupError(f"{self.func_name!r} is not a job of this monitor")

    @property
    def success_callback(self) -> None:
        return None

    @property
    def failure_callback(self) -> None:
        return None

    @property
    def stopped_callback(self) -> None:
        return None

    def send_webhooks(self, status: Any, *, exc_string: str | None = None) -> None:
        """Send none: a URL in Redis is a stranger's."""
