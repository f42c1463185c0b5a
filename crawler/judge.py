"""This module judges an observation: pure functions from what was observed to the snapshot that is published."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from shared.advice.causes import advice, explanation
from shared.judgement.coverage import coverage
from shared.judgement.usability import model_usability
from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import (
    SCHEMA_VERSION,
    ModelReport,
    ModelState,
    PeerState,
    ReachabilityIssue,
    ServerReport,
    Snapshot,
    Span,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crawler.geoip import GeoDatabase
    from crawler.models import Model
    from crawler.observe.observation import Observation, ObservedModel
    from crawler.observe.records import ServerRecord

MIN_BLOCKS_FOR_A_NAME = 10
"""A public name is an advertisement; it is earned by serving this many blocks of a model."""

_NOT_PROBED = DialOutcome(Verdict.UNKNOWN, Stage.LOOKUP)
_RANK = {PeerState.OFFLINE: 0, PeerState.JOINING: 1, PeerState.ONLINE: 2}


def judge(observation: Observation, update_period: float, geo_database: GeoDatabase | None = None) -> Snapshot:
    """Return the snapshot of one crawl, with servers' locations where there is a database of them.

    `update_period` is seconds from one crawl's start to the next one's.
    """
    models = tuple(_model_report(observed, observation) for observed in observation.models)
    snapshot = Snapshot(
        schema=SCHEMA_VERSION,
        taken_at=observation.ended_at,
        update_period=update_period,
        update_duration=observation.duration,
        bootstrap_peers=observation.bootstrap_peers,
        models=models,
        reachability_issues=_issues(observation),
        top_contributors=_contributors(models),
        refused=observation.refused,
        unanswered_keys=observation.unanswered_keys,
        undialled_servers=observation.undialled,
        private_swarm=observation.private_swarm,
        crawler_peer_id=observation.crawler_peer_id,
    )
    return snapshot if geo_database is None else geo_database.with_locations(snapshot)


def with_since(snapshot: Snapshot, before: Snapshot | None) -> Snapshot:
    """Return the snapshot with when each model was first found as it is, going on from the snapshot before."""
    models = () if before is None else before.models
    known = {model.dht_prefix: (model_usability(model), model.since) for model in models}

    def since(model: ModelReport) -> float:
        kind, first = known.get(model.dht_prefix, (None, None))
        return first if first is not None and kind is model_usability(model) else snapshot.taken_at

    models = tuple(msgspec.structs.replace(model, since=since(model)) for model in snapshot.models)
    return msgspec.structs.replace(snapshot, models=models)


def peer_state(announced: PeerState, dial: DialOutcome) -> PeerState:
    """Return the state to show: UNREACHABLE only for a server that announces ONLINE and that a probe found so."""
    if announced is PeerState.ONLINE and dial.verdict is Verdict.UNREACHABLE:
        return PeerState.UNREACHABLE
    return announced


def conflict(record: ServerRecord, dial: DialOutcome, version: str | None) -> str | None:
    """Return how a probe contradicts the server's record, which anyone can write; None where it does not."""
    if dial.cause is Cause.PROTOCOL_MISSING:
        return "Its record says online, but the peer itself serves no Petals blocks (yet)."
    if version is not None and record.version is not None and version != record.version:
        return f"Its record says version {record.version}, but the peer itself says {version}."
    if dial.relayed is not None and record.using_relay is not None and dial.relayed != record.using_relay:
        announced, found = ("a relay", "directly") if record.using_relay else ("no relay", "through a relay")
        return f"Its record says that it uses {announced}, but it was reached {found}."
    return None


def best_span(announced: Mapping[int, ServerRecord], num_blocks: int) -> tuple[Span, ServerRecord]:
    """Return a server's span and the record that applies to it, from its records `{block: record}`.

    There is at least one, and each covers its block (`crawler.observe.records.check_block`).
    The best state wins; while a server moves, its old blocks say OFFLINE and its new ones JOINING or ONLINE.
    The same as petals' `compute_spans` with `min_state=OFFLINE`.
    """
    state = max((record.state for record in announced.values()), key=_RANK.__getitem__)
    blocks = [block for block, record in announced.items() if record.state is state]
    best = announced[min(blocks)]
    start, end = min(blocks), max(blocks) + 1
    if best.start_block is not None and best.end_block is not None:
        start, end = max(best.start_block, 0), max(min(best.end_block, num_blocks), end)
    return Span(start, end), best


def _model_report(observed: ObservedModel, observation: Observation) -> ModelReport:
    model = observed.model
    servers = tuple(
        _server_report(peer_id, observed.announcements[peer_id], model, observation)
        for peer_id in sorted(observed.announcements)
    )
    report = ModelReport(
        dht_prefix=model.dht_prefix,
        num_blocks=model.num_blocks,
        state=ModelState.BROKEN,
        name=model.name,
        short_name=model.short_name,
        repository=model.repository,
        official=model.official,
        limited=model.limited,
        servers=servers,
    )
    return msgspec.structs.replace(report, state=coverage(report).state)


def _server_report(
    peer_id: str, announced: Mapping[int, ServerRecord], model: Model, observation: Observation
) -> ServerReport:
    span, record = best_span(announced, model.num_blocks)
    probed = record.state is PeerState.ONLINE and peer_id in observation.dials
    dial = observation.dials[peer_id] if probed else _NOT_PROBED
    reached = dial.verdict is Verdict.REACHABLE
    state = peer_state(record.state, dial)
    return ServerReport(
        peer_id=peer_id,
        state=state,
        announced=record.state,
        span=span,
        show_public_name=state is PeerState.ONLINE and span.length >= MIN_BLOCKS_FOR_A_NAME,
        verdict=dial.verdict,
        error=explanation(dial),
        cause=None if reached else dial.cause,
        relayed=dial.relayed,
        relay=dial.relay,
        rtt=dial.rtt if reached else None,
        conflict=conflict(record, dial, observation.versions.get(peer_id)) if probed else None,
        multiaddrs=observation.addresses.get(peer_id, ()),
        **record.fields(),
    )


def _contributors(models: tuple[ModelReport, ...]) -> dict[str, int]:
    blocks: Counter[str] = Counter()
    for model in models:
        for server in model.servers:
            if model.official and server.show_public_name and server.public_name:
                blocks[server.public_name] += server.span.length
    return dict(blocks.most_common())


def _issues(observation: Observation) -> tuple[ReachabilityIssue, ...]:
    issues = {
        peer.peer_id: ReachabilityIssue(peer.peer_id, peer.error or "", "This is a bootstrap peer of the swarm.")
        for peer in observation.bootstrap_peers
        if peer.verdict is Verdict.UNREACHABLE
    }
    for peer_id, dial in observation.dials.items():
        if dial.verdict is Verdict.UNREACHABLE and dial.cause is not None:
            # Where there is a cause there is an explanation.
            issues[peer_id] = ReachabilityIssue(peer_id, str(explanation(dial)), advice(dial.cause))
    return tuple(issues[peer_id] for peer_id in sorted(issues))
