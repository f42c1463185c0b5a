"""Judge an observation: a pure function from what was seen to the snapshot that is published."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from shared.reachability import Cause, advice, message
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

    from crawler.models import Model
    from crawler.observe.records import ServerRecord
    from crawler.observe.swarm import Observation, ObservedModel
    from shared.reachability import DialOutcome

MIN_BLOCKS_FOR_A_NAME = 10
"""A public name is an advertisement; it is earned by serving this many blocks of a model."""

_RANK = {PeerState.OFFLINE: 0, PeerState.JOINING: 1, PeerState.ONLINE: 2}


def build_snapshot(
    observation: Observation, *, started_at: float, ended_at: float, update_period: float, private_swarm: bool
) -> Snapshot:
    """Return the snapshot of one crawl. Times are Unix seconds, the period is seconds."""
    models = tuple(_model_report(observed, observation) for observed in observation.models)
    return Snapshot(
        schema=SCHEMA_VERSION,
        taken_at=ended_at,
        update_period=update_period,
        update_duration=max(0.0, ended_at - started_at),
        bootstrap_peers=observation.bootstrap_peers,
        models=models,
        reachability_issues=_issues(observation),
        top_contributors=_contributors(models),
        refused=observation.refused,
        unanswered_keys=observation.unanswered_keys,
        undialled_servers=observation.undialled,
        private_swarm=private_swarm,
        crawler_peer_id=observation.crawler_peer_id,
    )


def peer_state(announced: PeerState, dial: DialOutcome | None) -> PeerState:
    """Only a server that says it is online is judged by its dial, and only by one that could look."""
    if announced is PeerState.ONLINE and dial is not None and dial.verdict is Verdict.UNREACHABLE:
        return PeerState.UNREACHABLE
    return announced


def conflict(record: ServerRecord, dial: DialOutcome, version: str | None) -> str | None:
    """Say what a peer that was dialled tells otherwise than the record under its name, which anyone can write."""
    if dial.cause is Cause.PROTOCOL_MISSING:
        return "Its record says online, but the peer itself serves no Petals blocks (yet)."
    if version is not None and record.version is not None and version != record.version:
        return f"Its record says version {record.version}, but the peer itself says {version}."
    if dial.relayed is not None and record.using_relay is not None and dial.relayed != record.using_relay:
        announced, found = ("a relay", "directly") if record.using_relay else ("no relay", "through a relay")
        return f"Its record says that it uses {announced}, but it was reached {found}."
    return None


def best_span(announced: Mapping[int, ServerRecord], num_blocks: int) -> tuple[Span, ServerRecord]:
    """Merge one server's records (`{block: record}`, not empty) into its span and the record that it goes by.

    The best state wins; while a server moves, its old blocks say OFFLINE and its new ones JOINING or ONLINE.
    The same as petals' `compute_spans` with `min_state=OFFLINE`.
    """
    start = end = 0
    best: ServerRecord | None = None
    for block in sorted(announced):
        record = announced[block]
        if best is None or _RANK[best.state] < _RANK[record.state]:
            best, start, end = record, block, block + 1
            if record.start_block is not None and record.end_block is not None:
                start, end = max(record.start_block, 0), min(record.end_block, num_blocks)
        elif best.state is record.state:
            end = max(end, block + 1)
    assert best is not None, "a server is known by at least one record"  # noqa: S101
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
    if all(report.redundancy()):
        return msgspec.structs.replace(report, state=ModelState.HEALTHY)
    return report


def _server_report(
    peer_id: str, announced: Mapping[int, ServerRecord], model: Model, observation: Observation
) -> ServerReport:
    span, record = best_span(announced, model.num_blocks)
    dial = observation.dials.get(peer_id) if record.state is PeerState.ONLINE else None
    state = peer_state(record.state, dial)
    return ServerReport(
        peer_id=peer_id,
        state=state,
        announced=record.state,
        span=span,
        show_public_name=state is PeerState.ONLINE and span.length >= MIN_BLOCKS_FOR_A_NAME,
        throughput=record.throughput,
        verdict=dial.verdict if dial is not None else Verdict.UNKNOWN,
        error=dial.explanation if dial is not None else None,
        relayed=dial.relayed if dial is not None else None,
        relay=dial.relay if dial is not None else None,
        rtt=dial.rtt if dial is not None and dial.verdict is Verdict.REACHABLE else None,
        conflict=conflict(record, dial, observation.versions.get(peer_id)) if dial is not None else None,
        public_name=record.public_name,
        version=record.version,
        network_rps=record.network_rps,
        forward_rps=record.forward_rps,
        inference_rps=record.inference_rps,
        adapters=record.adapters,
        torch_dtype=record.torch_dtype,
        quant_type=record.quant_type,
        using_relay=record.using_relay,
        cache_tokens_left=record.cache_tokens_left,
        next_pings=record.next_pings,
        multiaddrs=observation.addresses.get(peer_id, ()),
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
            issues[peer_id] = ReachabilityIssue(peer_id, dial.explanation or message(dial.cause), advice(dial.cause))
    return tuple(issues[peer_id] for peer_id in sorted(issues))
