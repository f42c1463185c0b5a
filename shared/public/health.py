"""`/livez` and `/readyz`: for supervisors and load balancers."""

from __future__ import annotations

from shared.public.document import Document


class Liveness(Document):
    """The process answers."""

    status: str


class Readiness(Liveness):
    """Whether the process has something to serve, and what is wrong where it has not."""

    redis: bool
    """Whether Redis answers."""
    snapshot_age: float | None
    """Seconds; null without a snapshot."""
    failing: tuple[str, ...]
    """Loops of this process that do not run now."""
