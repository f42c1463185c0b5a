"""`python -m reachability_worker`: run reachability checks from Redis; `--check PEER_ID` runs one without Redis."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING

from reachability_worker.metrics import WorkerMetrics
from reachability_worker.prober import Prober
from reachability_worker.settings import WorkerSettings
from reachability_worker.worker import ConcurrentWorker
from shared import heap, logs, tracing
from shared.p2p.daemon import allow_many_files
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.reachability import DialOutcome, advice
from shared.settings import begin, command_line
from shared.snapshot import Verdict
from shared.store.connection import connect, connect_sync
from shared.tasks import Tasks

if TYPE_CHECKING:
    import argparse

START_TIMEOUT = 10.0
EXIT_CODES = {Verdict.REACHABLE: 0, Verdict.UNREACHABLE: 1, Verdict.UNKNOWN: 2}


def main() -> int:
    arguments, settings = begin(_parser(), WorkerSettings)
    logs.configure(settings, "reachability_worker")
    allow_many_files()
    if arguments.check is not None:
        try:
            peer_id = parse_peer_id(arguments.check)
        except BadPeerIdError as error:
            print(f"{arguments.check!r}: {error}", file=sys.stderr)  # noqa: T201
            return 2
        return asyncio.run(_check(settings, peer_id))
    tracing.start(settings.otel_exporter_otlp_endpoint, "reachability_worker")
    heap.settle()
    asyncio.run(_run(settings))
    tracing.stop()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_line("reachability_worker", __doc__, WorkerSettings)
    parser.add_argument(
        "--check", metavar="PEER_ID", help="probe one peer now; exit code 0 reachable, 1 unreachable, 2 unknown"
    )
    return parser


async def _run(settings: WorkerSettings) -> None:
    metrics = WorkerMetrics(settings.vantage)
    if settings.worker_metrics_port:
        metrics.serve(settings.worker_metrics_port, settings.metrics_host)
    prober = _prober(settings, metrics)
    redis = connect(settings.redis_url, f"worker-{settings.vantage}-{os.getpid()}")
    # RQ's registration is synchronous, so it has a connection of its own.
    connection = connect_sync(settings.redis_url)
    worker = ConcurrentWorker(
        settings.vantage,
        prober,
        connection=connection,
        redis=redis,
        metrics=metrics,
        checks_at_once=settings.checks_at_once,
        verdict_reuse=settings.verdict_reuse,
        shutdown_grace=settings.shutdown_grace,
    )
    worker.install_signal_handlers()
    worker.tasks.keep("prober", prober.run)
    try:
        await worker.run()
    finally:
        await redis.aclose()
        connection.close()


def _prober(settings: WorkerSettings, metrics: WorkerMetrics) -> Prober:
    return Prober(
        settings.bootstrap_peers,
        check_timeout=settings.check_timeout,
        dials_at_once=settings.dials_at_once,
        dial_private=settings.dial_private_addresses,
        on_node_opened=lambda role: metrics.nodes_opened.labels(role).inc(),
        on_addresses_refused=metrics.addresses_refused,
    )


async def _check(settings: WorkerSettings, peer_id: str) -> int:
    prober = _prober(settings, WorkerMetrics())
    async with Tasks() as tasks:
        tasks.keep("prober", prober.run)
        await prober.until_fit(START_TIMEOUT)
        outcome = await prober.probe(peer_id, time.monotonic() + settings.check_timeout)
    print(_describe(peer_id, outcome))  # noqa: T201
    return EXIT_CODES[outcome.verdict]


def _describe(peer_id: str, outcome: DialOutcome) -> str:
    lines = [f"{peer_id}: {outcome.verdict}", f"  stage:     {outcome.stage}"]
    if outcome.addresses:
        lines.append(f"  addresses: {', '.join(outcome.addresses)}")
    if outcome.relayed is not None:
        lines.append(f"  path:      {'through a relay' if outcome.relayed else 'direct'}")
    if outcome.rtt is not None:
        lines.append(f"  connected: in {outcome.rtt * 1000:.1f} ms")
    if outcome.protocol_ok is not None:
        lines.append(f"  serves:    {'yes' if outcome.protocol_ok else 'no Petals blocks (yet)'}")
    if outcome.explanation and outcome.cause:
        lines += [f"  why:       {outcome.explanation}", f"  advice:    {advice(outcome.cause)}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
