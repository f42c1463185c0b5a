"""`python -m reachability_worker`: run reachability checks from Redis; `--check PEER_ID` runs one without Redis."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from reachability_worker.check_command import check
from reachability_worker.given_addresses import AddressProber
from reachability_worker.inference import InferenceChecker
from reachability_worker.metrics import WorkerMetrics
from reachability_worker.nodes import Nodes
from reachability_worker.prober import Prober
from reachability_worker.settings import WorkerSettings
from reachability_worker.worker import ConcurrentWorker
from shared import heap, logs, tracing
from shared.p2p.daemon import allow_many_files
from shared.settings import begin, command_line
from shared.store.connection import connect, connect_sync

if TYPE_CHECKING:
    import argparse


def main() -> int:
    arguments, settings = begin(_parser(), WorkerSettings)
    logs.configure(settings, "reachability_worker", by_hand=arguments.check is not None)
    allow_many_files()
    if arguments.check is not None:
        probers = _probers(settings, WorkerMetrics())
        return asyncio.run(check(arguments.check, *probers, settings.check_timeout, as_json=arguments.json))
    tracing.start(settings.otel_exporter_otlp_endpoint, "reachability_worker")
    heap.freeze_imports()
    asyncio.run(_run(settings))
    tracing.stop()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_line("reachability_worker", __doc__, WorkerSettings)
    parser.add_argument(
        "--check",
        metavar="PEER_ID",
        help="probe one peer now; if an address is given, dial it as it is; "
        "exit code: 0 reachable, 1 unreachable, 2 nobody could probe it",
    )
    parser.add_argument("--json", action="store_true", help="print the result of --check as JSON")
    return parser


async def _run(settings: WorkerSettings) -> None:
    metrics = WorkerMetrics(settings.vantage)
    if settings.worker_metrics_port:
        metrics.serve(settings.worker_metrics_port, settings.metrics_host)
    nodes, prober, address_prober = _probers(settings, metrics)
    redis = connect(settings.redis_url, f"worker-{settings.vantage}-{os.getpid()}")
    # RQ's registration is synchronous, so it has a connection of its own.
    connection = connect_sync(settings.redis_url)
    worker = ConcurrentWorker(
        settings.vantage,
        nodes,
        prober,
        address_prober,
        InferenceChecker(
            dial_private=settings.dial_private_addresses.allows(settings.bootstrap_peers),
            dial_timeout=settings.check_timeout,
        ),
        connection=connection,
        redis=redis,
        metrics=metrics,
        checks_at_once=settings.checks_at_once,
        verdict_reuse=settings.verdict_reuse,
        shutdown_grace=settings.shutdown_grace,
    )
    worker.install_signal_handlers()
    worker.tasks.keep("prober", nodes.run)
    try:
        await worker.run()
    finally:
        await redis.aclose()
        connection.close()


def _probers(settings: WorkerSettings, metrics: WorkerMetrics) -> tuple[Nodes, Prober, AddressProber]:
    nodes = Nodes(
        settings.bootstrap_peers,
        settings.dial_private_addresses,
        on_opened=lambda role: metrics.nodes_opened.labels(role).inc(),
        on_addresses_refused=metrics.addresses_refused,
    )
    prober = Prober(nodes, check_timeout=settings.check_timeout, dials_at_once=settings.dials_at_once)
    return nodes, prober, AddressProber(nodes, check_timeout=settings.check_timeout)


if __name__ == "__main__":
    sys.exit(main())
