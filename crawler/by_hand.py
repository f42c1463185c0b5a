"""This module does what `python -m crawler` is asked for by hand: a crawl, a diagnosis, a picture, a moved history."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from crawler.crawl import crawl_once
from crawler.diagnose import Finding, diagnose
from crawler.history.move import MoveError, export_to, import_from
from crawler.notices import webhook
from crawler.notify.trial import try_all
from crawler.observe.observation import SwarmUnavailableError
from crawler.terminal.watch import watch
from shared.p2p.daemon import NodeError
from shared.p2p.dht_node import DHTClientNode
from shared.public.state import state_document
from shared.text_picture import text_picture

if TYPE_CHECKING:
    import argparse

    from crawler.settings import CrawlerSettings

EXIT_INTERRUPTED = 130
"""By Ctrl-C: 128 + the number of SIGINT, as shells say it."""


def do(settings: CrawlerSettings, arguments: argparse.Namespace) -> int:
    """Do what the options say, and return the exit code."""
    if arguments.test_notice:
        return _test_notice(settings)
    if arguments.export_file is not None or arguments.import_file is not None:
        return _move(settings, arguments)
    with suppress(KeyboardInterrupt):
        return asyncio.run(_without_redis(settings, arguments))
    return 0 if arguments.watch else EXIT_INTERRUPTED


def _test_notice(settings: CrawlerSettings) -> int:
    urls = tuple(url.get_secret_value() for url in settings.notify_urls)
    tried = list(try_all(urls, webhook(settings, time.time), settings.notify_monitor_url))
    for taken, receiver in tried:
        print(f"{'sent' if taken else 'FAIL'}  {receiver}")
    if not tried:
        print("No receiver: set NOTIFY_URLS or INCIDENT_WEBHOOK_URL.", file=sys.stderr)
    return 0 if tried and all(taken for taken, _ in tried) else 1


def _move(settings: CrawlerSettings, arguments: argparse.Namespace) -> int:
    try:
        if arguments.export_file is not None:
            done = export_to(settings.redis_url, arguments.export_file)
        else:
            done = import_from(settings.redis_url, arguments.import_file)
    except MoveError as error:
        print(f"The history was not moved: {error}.", file=sys.stderr)
        return 1
    print(done)
    return 0


async def _without_redis(settings: CrawlerSettings, arguments: argparse.Namespace) -> int:
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
        print(f"The swarm cannot be seen: {error}.", file=sys.stderr)
        for peer in getattr(error, "bootstrap_peers", ()):
            print(f"  {peer.peer_id} at {', '.join(peer.addresses)}: {peer.error}", file=sys.stderr)
        print("Set INITIAL_PEERS for another swarm; `make demo` shows a private one.", file=sys.stderr)
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
        print(f"This machine's own node does not work: {error}.", file=sys.stderr)
        return 1
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n")
    else:
        print(f"\nVerdict: {found.verdict}\nNext: {found.next_step}\n  $ {found.command}")
    return 0 if found.ok else 1


def _print_finding(finding: Finding) -> None:
    print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.text}", flush=True)
