"""This module defines the settings of a reachability worker, read from environment variables."""

from __future__ import annotations

from shared.p2p.swarm_settings import SwarmSettings
from shared.reachability import DIAL_TIMEOUT, VANTAGE_PATTERN
from shared.settings import Field


class WorkerSettings(SwarmSettings):
    vantage: str = Field(
        "default",
        pattern=VANTAGE_PATTERN,
        description="Name of this worker's vantage point; workers with the same name share a queue.",
    )
    check_timeout: float = Field(
        DIAL_TIMEOUT,
        gt=0.1,
        le=8,
        description="Seconds that one probe of a peer may take, if the check's deadline allows it.",
    )
    checks_at_once: int = Field(2000, ge=1, le=20_000, description="Checks that this process runs at once.")
    dials_at_once: int = Field(
        1024, ge=1, le=4000, description="Dials that this process runs at once; other checks wait."
    )
    verdict_reuse: float = Field(
        5.0, ge=0, le=60, description="Seconds for which a verdict answers further checks of the same peer."
    )
    shutdown_grace: float = Field(
        6.0, ge=0, le=60, description="Seconds that SIGTERM gives running checks; then they return to the queue."
    )
    worker_metrics_port: int = Field(
        0, ge=0, le=65535, description="Private port of the worker's own metrics; 0: none."
    )
