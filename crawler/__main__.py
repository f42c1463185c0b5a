"""`python -m crawler`: crawl the swarm on schedule into Redis; with `--once`, print its state and end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from crawler.history.weekly_report import WeeklyReports
from crawler.history.writer import HistoryWriter
from crawler.inference.rounds import InferenceChecks
from crawler.leader import Leadership
from crawler.loop import CrawlLoop
from crawler.metrics import CrawlerMetrics
from crawler.observe.observer import Observer
from crawler.publish import Publisher
from crawler.settings import CrawlerSettings
from shared import heap, logs, tracing
from shared.p2p.daemon import allow_many_files
from shared.settings import begin, command_line
from shared.store.clock import RedisClock
from shared.store.connection import connect
from shared.store.inference_turn import inference_turn
from shared.store.snapshots import SnapshotWriter
from shared.tasks import Tasks, awaited

if TYPE_CHECKING:
    import argparse


def main() -> int:
    arguments, settings = begin(_parser(), CrawlerSettings)
    moves = arguments.export_file is not None or arguments.import_file is not None
    by_hand = arguments.once or arguments.diagnose or arguments.watch or arguments.test_notice or moves
    logs.configure(settings, "crawler", by_hand=by_hand)
    allow_many_files()
    if by_hand:
        from crawler.by_hand import do  # noqa: PLC0415 - megabytes that the service need not hold

        return do(settings, arguments)
    tracing.start(settings.otel_exporter_otlp_endpoint, "crawler")
    heap.freeze_imports()
    asyncio.run(_run(settings))
    tracing.stop()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_line("crawler", __doc__, CrawlerSettings)
    parser.add_argument("--once", action="store_true", help="crawl once without Redis, print the state, and exit")
    parser.add_argument(
        "--diagnose", action="store_true", help="print step by step what can be seen, and what is wrong"
    )
    parser.add_argument("--watch", action="store_true", help="show the swarm after each crawl, without Redis")
    parser.add_argument("--test-notice", action="store_true", help="send an example to every receiver, and exit")
    moving = parser.add_mutually_exclusive_group()
    moving.add_argument(
        "--export", dest="export_file", type=Path, metavar="FILE", help="write the whole history into a new file"
    )
    moving.add_argument(
        "--import", dest="import_file", type=Path, metavar="FILE", help="read such a file into a Redis without history"
    )
    parser.add_argument("--format", choices=("json", "text"), default="json", help="format of --once (default json)")
    parser.add_argument("--json", action="store_true", help="print JSON; with --watch a line per crawl")
    return parser


async def _run(settings: CrawlerSettings) -> None:
    metrics = CrawlerMetrics()
    if settings.crawler_metrics_port:
        metrics.serve(settings.crawler_metrics_port, settings.metrics_host)
    redis = connect(settings.redis_url, f"crawler-{os.getpid()}")
    leadership = Leadership(redis, f"{socket.gethostname()}-{os.getpid()}")
    clock = RedisClock(redis)
    inference = None
    if settings.inference_checks:
        inference = InferenceChecks(
            period=settings.inference_period,
            models=settings.inference_models,
            dial_timeout=settings.dial_timeout,
            dial_private=settings.dial_private_addresses.allows(settings.bootstrap_peers),
            identity=settings.inference_identity,
            leads=lambda: leadership.lease is not None,
            count=lambda outcome: metrics.inference_checks.labels(outcome).inc(),
            now=clock.now,
            turn=partial(inference_turn, redis),
        )
    publisher = Publisher(SnapshotWriter(redis), HistoryWriter(redis), leadership, metrics, clock, inference=inference)
    loop = CrawlLoop(settings, Observer(settings), publisher, leadership, metrics)
    # Where the crawl loop ends, the process ends, and its supervisor starts it again.
    crawling = awaited(loop.run())
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, crawling.cancel)
    try:
        async with Tasks() as beside:
            beside.keep("redis_memory", lambda: metrics.watch_redis(redis))
            if inference is not None:
                beside.keep("inference", inference.run)
            if settings.incident_webhook_url is not None or settings.notify_urls:
                from crawler.notices import notices  # noqa: PLC0415 - RQ's worker among others: 1.6 MB

                for loop_name, sender in notices(settings, redis, leadership, metrics, clock):
                    beside.keep(loop_name, sender.run)
            beside.keep("weekly_reports", WeeklyReports(redis, leadership, now=clock.now).run)
            if settings.export_folder is not None:
                from crawler.history.daily_export import DailyExport  # noqa: PLC0415 - as the notices

                export = DailyExport(
                    redis, settings.export_folder, leadership, now=clock.now, days_kept=settings.export_days
                )
                beside.keep("daily_export", export.run)
            await crawling
    except asyncio.CancelledError:
        pass
    finally:
        await redis.aclose()


if __name__ == "__main__":
    sys.exit(main())
