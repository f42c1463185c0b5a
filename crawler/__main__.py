"""`python -m crawler`: crawl the swarm on schedule into Redis; with `--once`, print its state and end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from crawler.crawl import crawl_once
from crawler.diagnose import Finding, diagnose
from crawler.history.daily_export import DailyExport
from crawler.history.move import MoveError, export_to, import_from
from crawler.history.weekly_report import WeeklyReports
from crawler.history.writer import HistoryWriter
from crawler.inference.rounds import InferenceChecks
from crawler.leader import Leadership
from crawler.loop import CrawlLoop
from crawler.metrics import CrawlerMetrics
from crawler.notify.digest import Choice, parse_quiet_hours
from crawler.notify.incident_notices import IncidentNotices
from crawler.notify.notice_queue import NoticeQueue
from crawler.notify.operator_notices import OperatorNotices
from crawler.notify.trial import try_all
from crawler.notify.webhook import Webhook, parse_target
from crawler.observe.observation import SwarmUnavailableError
from crawler.observe.observer import Observer
from crawler.publish import Publisher
from crawler.settings import CrawlerSettings
from crawler.terminal.watch import watch
from shared import heap, logs, tracing
from shared.p2p.daemon import NodeError, allow_many_files
from shared.p2p.dht_node import DHTClientNode
from shared.public.state import state_document
from shared.settings import begin, command_line
from shared.store.clock import RedisClock
from shared.store.connection import connect, connect_sync
from shared.store.inference_turn import inference_turn
from shared.store.snapshots import SnapshotWriter
from shared.tasks import Tasks, awaited
from shared.text_picture import text_picture

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from redis.asyncio import Redis

EXIT_INTERRUPTED = 130
"""By Ctrl-C: 128 + the number of SIGINT, as shells say it."""


def main() -> int:
    arguments, settings = begin(_parser(), CrawlerSettings)
    moves = arguments.export_file is not None or arguments.import_file is not None
    by_hand = arguments.once or arguments.diagnose or arguments.watch or arguments.test_notice or moves
    logs.configure(settings, "crawler", by_hand=by_hand)
    if arguments.test_notice:
        return _test_notice(settings)
    if moves:
        return _move(settings, arguments)
    allow_many_files()
    if by_hand:
        with suppress(KeyboardInterrupt):
            return asyncio.run(_by_hand(settings, arguments))
        return 0 if arguments.watch else EXIT_INTERRUPTED
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


def _move(settings: CrawlerSettings, arguments: argparse.Namespace) -> int:
    try:
        if arguments.export_file is not None:
            done = export_to(settings.redis_url, arguments.export_file)
        else:
            done = import_from(settings.redis_url, arguments.import_file)
    except MoveError as error:
        print(f"The history was not moved: {error}.", file=sys.stderr)  # noqa: T201
        return 1
    print(done)  # noqa: T201
    return 0


async def _by_hand(settings: CrawlerSettings, arguments: argparse.Namespace) -> int:
    """Do what needs no Redis, and return the exit code."""
    if arguments.once:
        return await _once(settings, "json" if arguments.json else arguments.format)
    if arguments.diagnose:
        return await _diagnose(settings, as_json=arguments.json)
    await watch(settings, as_json=arguments.json)
    return 0


async def _once(settings: CrawlerSettings, form: str) -> int:
    try:
        async with await DHTClientNode.open(settings.dial_private_addresses) as dht_node:
            snapshot = await crawl_once(settings, dht_node)
    except (SwarmUnavailableError, NodeError) as error:
        print(f"The swarm cannot be seen: {error}.", file=sys.stderr)  # noqa: T201
        for peer in getattr(error, "bootstrap_peers", ()):
            print(f"  {peer.peer_id} at {', '.join(peer.addresses)}: {peer.error}", file=sys.stderr)  # noqa: T201
        print("Set INITIAL_PEERS for another swarm; `make demo` shows a private one.", file=sys.stderr)  # noqa: T201
        return 1
    if form == "text":
        sys.stdout.write(text_picture(snapshot, color=sys.stdout.isatty()))
    else:
        document = msgspec.json.encode(state_document(snapshot))
        sys.stdout.write(msgspec.json.format(document, indent=2).decode() + "\n")
    return 0


async def _diagnose(settings: CrawlerSettings, *, as_json: bool) -> int:
    try:
        found = await diagnose(settings, say=(lambda _: None) if as_json else _print_finding)
    except NodeError as error:
        print(f"This machine's own node does not work: {error}.", file=sys.stderr)  # noqa: T201
        return 1
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n")
    else:
        print(f"\nVerdict: {found.verdict}\nNext: {found.next_step}\n  $ {found.command}")  # noqa: T201
    return 0 if found.ok else 1


def _print_finding(finding: Finding) -> None:
    print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.text}", flush=True)  # noqa: T201


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
            if settings.incident_webhook_url is not None:
                beside.keep("incident_notices", _notices(settings, redis, leadership, metrics, clock).run)
            if settings.notify_urls:
                told = _operator_notices(settings, redis, leadership, metrics, clock)
                beside.keep("operator_notices", told.run)
            beside.keep("weekly_reports", WeeklyReports(redis, leadership, now=clock.now).run)
            if settings.export_folder is not None:
                export = DailyExport(
                    redis, settings.export_folder, leadership, now=clock.now, days_kept=settings.export_days
                )
                beside.keep("daily_export", export.run)
            await crawling
    except asyncio.CancelledError:
        pass
    finally:
        await redis.aclose()


def _notices(
    settings: CrawlerSettings, redis: Redis, leadership: Leadership, metrics: CrawlerMetrics, clock: RedisClock
) -> IncidentNotices:
    webhook = _webhook(settings, clock.now)
    assert webhook is not None  # noqa: S101 - called where there is one
    queue = NoticeQueue(
        connect_sync(settings.redis_url), webhook.deliver, lambda outcome: metrics.notices.labels(outcome).inc()
    )
    official_only = settings.incident_webhook_models == "official"
    return IncidentNotices(redis, leadership, queue, clock, official_only=official_only)


def _webhook(settings: CrawlerSettings, now: Callable[[], float]) -> Webhook | None:
    secret = settings.incident_webhook_secret
    if settings.incident_webhook_url is None:
        return None
    return Webhook(
        parse_target(settings.incident_webhook_url),
        secret=None if secret is None else secret.get_secret_value().encode(),
        allow_private=settings.incident_webhook_allow_private,
        now=now,
    )


def _operator_notices(
    settings: CrawlerSettings, redis: Redis, leadership: Leadership, metrics: CrawlerMetrics, clock: RedisClock
) -> OperatorNotices:
    quiet_hours = settings.notify_quiet_hours
    return OperatorNotices(
        redis,
        leadership,
        clock,
        urls=[url.get_secret_value() for url in settings.notify_urls],
        choice=Choice(
            settings.notify_models, settings.notify_servers, settings.notify_contributors, settings.notify_severity
        ),
        official=frozenset(model.dht_prefix for model in settings.official_models),
        digest_seconds=settings.notify_digest,
        quiet_hours=None if quiet_hours is None else parse_quiet_hours(quiet_hours),
        monitor_url=settings.notify_monitor_url,
        on_ended=lambda outcome: metrics.notices.labels(outcome).inc(),
    )


def _test_notice(settings: CrawlerSettings) -> int:
    urls = tuple(url.get_secret_value() for url in settings.notify_urls)
    tried = list(try_all(urls, _webhook(settings, time.time), settings.notify_monitor_url))
    for taken, receiver in tried:
        print(f"{'sent' if taken else 'FAIL'}  {receiver}")  # noqa: T201
    if not tried:
        print("No receiver: set NOTIFY_URLS or INCIDENT_WEBHOOK_URL.", file=sys.stderr)  # noqa: T201
    return 0 if tried and all(taken for taken, _ in tried) else 1


if __name__ == "__main__":
    sys.exit(main())
