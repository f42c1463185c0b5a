"""This module is `python -m crawler --diagnose`: it reports step by step why a swarm shows nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crawler.crawl import crawl_once
from crawler.observe.observation import SwarmUnavailableError
from shared.judgement.coverage import coverage
from shared.judgement.swarm import count_states
from shared.p2p.dht_node import DHTClientNode
from shared.p2p.dial_errors import classify
from shared.p2p.petals import MODEL_INDEX_KEY
from shared.snapshot import PeerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.settings import CrawlerSettings
    from shared.snapshot import Snapshot

MAX_CLOCK_SKEW = 3.0
"""Seconds; hivemind nodes refuse to talk to those whose clock differs by more."""


async def diagnose(settings: CrawlerSettings, say: Callable[[str], None]) -> bool:
    """Check each thing that a crawl needs, and `say` each finding. Return whether the swarm can be observed."""
    say(
        f"{'Private' if settings.private_swarm else 'Public'} swarm. Bootstrap peers ({len(settings.bootstrap_peers)}):"
    )
    async with await DHTClientNode.open(settings.dial_private_addresses) as node:
        errors = await node.join(settings.bootstrap_peers, settings.dial_timeout)
        for peer_id, error in errors.items():
            places = ", ".join(settings.bootstrap_peers[peer_id])
            say(f"  {peer_id} at {places}: {'ok' if error is None else classify(error).explanation}")
        joined = [peer_id for peer_id, error in errors.items() if error is None]
        if not joined:
            say("No bootstrap peer answers: check INITIAL_PEERS, and that this machine may connect to those ports.")
            return False
        for peer_id in joined:
            skew = await node.clock_skew(peer_id)
            if skew is not None and abs(skew) > MAX_CLOCK_SKEW:
                say(f"This machine's clock differs by {skew:+.1f} s from {peer_id}'s: set it by NTP.")
        index = (await node.look_up([MODEL_INDEX_KEY], settings.lookup_timeout)).get(MODEL_INDEX_KEY, {})
        if index:
            say(f"Models announced: {', '.join(sorted(index)[:20])}")
        else:
            say("No model is announced: no server of this swarm has started, or its announcements have expired.")
        try:
            snapshot = await crawl_once(settings, node)
        except SwarmUnavailableError as error:
            say(f"The crawl failed: {error}.")
            return False
    _describe(snapshot, say)
    return True


def _describe(snapshot: Snapshot, say: Callable[[str], None]) -> None:
    for model in snapshot.models:
        counts = count_states([model])
        states = ", ".join(f"{counts[state]} {state}" for state in PeerState if counts[state])
        covered = coverage(model).covered_blocks
        say(f"  {model.dht_prefix}: {covered}/{model.num_blocks} blocks served; {states or 'no servers'}")
    if snapshot.unanswered_keys:
        say(f"{snapshot.unanswered_keys} DHT keys did not answer in time: raise LOOKUP_TIMEOUT if this stays.")
    for reason, count in snapshot.refused.by_reason.items():
        say(f"Refused {count} records: {reason} (for example {snapshot.refused.examples.get(reason, 'in an entry')})")
    for issue in snapshot.reachability_issues:
        say(f"  {issue.peer_id}: {issue.error} {issue.advice}")
    if not snapshot.num_servers:
        say("No server is announced. A server must be started with --initial_peers of this swarm.")
