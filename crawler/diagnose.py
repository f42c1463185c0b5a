"""This module is `python -m crawler --diagnose`: it reports step by step why a swarm shows nothing, and what next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from crawler.crawl import crawl_once
from crawler.observe.observation import SwarmUnavailableError
from shared import words
from shared.address_text import endpoint
from shared.advice.causes import explanation
from shared.advice.commands import REPOSITORY
from shared.advice.help import Need, wanted
from shared.judgement.coverage import coverage
from shared.judgement.swarm import count_states, judged_models
from shared.p2p.dht_node import DHTClientNode
from shared.p2p.petals import MODEL_INDEX_KEY
from shared.snapshot import PeerState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from crawler.settings import CrawlerSettings
    from shared.snapshot import Snapshot

MAX_CLOCK_SKEW = 3.0
"""Seconds; hivemind nodes refuse to talk to those whose clock differs by more."""
MAX_MODELS_NAMED = 20
CHECK_CLOCK = "timedatectl status"
WATCH = "python -m crawler --watch"

Step = Literal["swarm", "bootstrap peer", "clock", "models", "crawl", "model", "lookups", "records", "server"]


class Finding(msgspec.Struct, frozen=True):
    """What one step found."""

    step: Step
    ok: bool
    text: str


class Diagnosis(msgspec.Struct, frozen=True):
    """The conclusion from all findings."""

    ok: bool
    """Whether the swarm can be observed from here."""
    verdict: str
    next_step: str
    command: str
    """A line for a shell that does the next step, or shows more of it."""
    findings: tuple[Finding, ...] = ()


async def diagnose(settings: CrawlerSettings, say: Callable[[Finding], None]) -> Diagnosis:
    """Check each thing that a crawl needs, pass each finding to `say` at once, and return the conclusion."""
    findings: list[Finding] = []

    def tell(step: Step, text: str, *, ok: bool = True) -> None:
        findings.append(Finding(step, ok, words.clean(text)))
        say(findings[-1])

    def ended(diagnosis: Diagnosis) -> Diagnosis:
        return msgspec.structs.replace(diagnosis, findings=tuple(findings))

    kind = "Private" if settings.private_swarm else "Public"
    tell("swarm", f"{kind} swarm with {words.count(len(settings.bootstrap_peers), 'bootstrap peer')}.")
    async with await DHTClientNode.open(settings.dial_private_addresses) as node:
        failures = await node.join(settings.bootstrap_peers, settings.dial_timeout)
        for peer_id, failure in failures.items():
            places = ", ".join(settings.bootstrap_peers[peer_id])
            outcome = "ok" if failure is None else explanation(failure)
            tell("bootstrap peer", f"{peer_id} at {places}: {outcome}", ok=failure is None)
        joined = [peer_id for peer_id, failure in failures.items() if failure is None]
        if not joined:
            return ended(_nobody_answers(settings.bootstrap_peers))
        skewed = False
        for peer_id in joined:
            skew = await node.clock_skew(peer_id)
            if skew is not None and abs(skew) > MAX_CLOCK_SKEW:
                skewed = True
                tell("clock", f"This machine's clock differs by {skew:+.1f} s from {peer_id}'s.", ok=False)
        found = await node.look_up([MODEL_INDEX_KEY], settings.lookup_timeout)
        if index := found.values(MODEL_INDEX_KEY):
            tell("models", f"Models announced: {words.listed(sorted(index), MAX_MODELS_NAMED)}.")
        elif MODEL_INDEX_KEY not in found.whole:
            tell("models", "The lookup of the announced models did not answer in time.", ok=False)
        else:
            nothing = "No model is announced: no server of this swarm has started, or its announcements have expired."
            tell("models", nothing, ok=False)
        try:
            snapshot = await crawl_once(settings, node)
        except SwarmUnavailableError as error:
            tell("crawl", f"The crawl failed: {error}.", ok=False)
            verdict = "A bootstrap peer answers, but the swarm cannot be observed."
            return ended(_set_the_clock(verdict) if skewed else Diagnosis(False, verdict, "Try it again.", WATCH))
    _describe(snapshot, tell)
    return ended(_set_the_clock(_counted(snapshot)) if skewed else _conclusion(snapshot, settings))


def _describe(snapshot: Snapshot, tell: Callable[..., None]) -> None:
    for model in snapshot.models:
        counts = count_states([model])
        states = ", ".join(f"{counts[state]} {state}" for state in PeerState if counts[state])
        covered = coverage(model)
        served = f"{covered.covered_blocks}/{model.num_blocks} blocks served; {states or 'no servers'}"
        tell("model", f"{model.dht_prefix}: {served}", ok=covered.has_path)
    if snapshot.unanswered_keys:
        keys = words.count(snapshot.unanswered_keys, "DHT key")
        tell("lookups", f"{keys} did not answer in time: raise LOOKUP_TIMEOUT if this stays.", ok=False)
    for reason, count in snapshot.refused.by_reason.items():
        example = snapshot.refused.examples.get(reason, "in an entry")
        tell("records", f"Refused {words.count(count, 'record')}: {reason} (for example {example})", ok=False)
    for issue in snapshot.reachability_issues:
        tell("server", f"{issue.peer_id}: {issue.error} {issue.advice}", ok=False)
    if not snapshot.num_servers:
        tell("server", "No server is announced.", ok=False)


def _nobody_answers(bootstrap_peers: Mapping[str, list[str]]) -> Diagnosis:
    found = (endpoint(address) for addresses in bootstrap_peers.values() for address in addresses)
    place = next((f"{at.host} {at.port}" for at in found if at.transport == "tcp" and at.host_and_port[0]), "")
    return Diagnosis(
        False,
        "No bootstrap peer answers: the swarm cannot be observed from this machine.",
        "check INITIAL_PEERS, and that this machine may connect to those ports.",
        f"nc -vz {place}" if place else WATCH,
    )


def _set_the_clock(verdict: str) -> Diagnosis:
    return Diagnosis(
        False, f"{verdict} This machine's clock is wrong.", "set it by NTP, then diagnose again.", CHECK_CLOCK
    )


def _counted(snapshot: Snapshot) -> str:
    judged = judged_models(snapshot)
    usable = sum(coverage(model).has_path for model in judged)
    if not judged:
        return "The swarm can be joined, but no server announces anything."
    kind = "official model" if any(model.official for model in judged) else "model"
    return f"The swarm can be observed: {usable} of {words.count(len(judged), kind)} can be used."


def _conclusion(snapshot: Snapshot, settings: CrawlerSettings) -> Diagnosis:
    """Return the verdict, and as the next step what is most urgent: no server, a gap, an unreachable server."""
    verdict = _counted(snapshot)
    if not snapshot.num_servers:
        peers = f" --initial_peers {' '.join(settings.initial_peers)}" if settings.private_swarm else ""
        start = "start a server with the initial peers of this swarm; it shows up a minute or two after it has joined."
        return Diagnosis(True, verdict, start, f"python -m petals.cli.run_server {REPOSITORY}{peers}")
    unreachable = [
        server.peer_id for model in snapshot.models for server in model.servers if server.state is PeerState.UNREACHABLE
    ]
    if unreachable:
        peers = words.count(len(set(unreachable)), "server")
        check = f"see at which stage a connection ends; {peers} cannot be reached from here."
        return Diagnosis(True, verdict, check, f"python -m reachability_worker --check {unreachable[0]}")
    missing = next((line for line in wanted(snapshot) if line.need is Need.MISSING), None)
    if missing is not None:
        return Diagnosis(True, verdict, f"{missing.name}: {missing.sentence}", missing.command)
    return Diagnosis(True, verdict, "nothing is wrong that can be seen from here; watch it.", WATCH)
