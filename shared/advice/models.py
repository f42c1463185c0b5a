"""This module says whether a model can be used, why not, since when, whether servers are joining, and what to do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shared import incidents, words
from shared.advice.advice import Advice, Tone, past_title
from shared.advice.commands import initial_peers, run_server
from shared.judgement.coverage import coverage
from shared.judgement.usability import ModelUsability, is_usable, model_usability
from shared.peer_id import named_peer
from shared.snapshot import PeerState
from shared.spans import blocks_of, common, longest, merged, size, without

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.incidents import Incident, LostBlocks
    from shared.snapshot import ModelReport, ServerReport, Snapshot
    from shared.spans import Spans

MAX_NAMED = 3
"""Servers that are named in one sentence."""
MAX_LOST = 2
"""Stretches of blocks of which it is said who held them."""


@dataclass(frozen=True, slots=True)
class Past:
    """What history tells of a model's state. Times are Unix seconds; None is not known."""

    since: float | None = None
    """When the state that it has now was first seen."""
    last_healthy: float | None = None
    watched_since: float | None = None
    """The first crawl that the history knows: before it nothing is known."""
    lost: tuple[LostBlocks, ...] = ()
    """Which blocks lost which servers, when it broke."""

    @classmethod
    def of(cls, incident: Incident, *, watched_since: float | None = None) -> Past:
        """Return what the open incident of a broken model tells."""
        return cls(incident.start, incident.last_healthy, watched_since, incident.cause)


@dataclass(frozen=True, slots=True)
class ModelAdvice:
    """A model's verdict, and the blocks that it is about, as spans `(start, end)`."""

    usability: ModelUsability
    advice: Advice
    missing: tuple[tuple[int, int], ...] = ()
    """Those that no online, reachable server holds."""
    joining: tuple[tuple[int, int], ...] = ()
    """Those of the missing ones that servers are loading now."""
    single: tuple[tuple[int, int], ...] = ()
    """Those that one server alone holds."""

    @property
    def usable(self) -> bool:
        return self.usability in (ModelUsability.USABLE, ModelUsability.DEGRADED)


def model_advice(
    model: ModelReport, snapshot: Snapshot, now: float, *, past: Past | None = None, stale: bool = False
) -> ModelAdvice:
    """Judge a model of the snapshot. `stale` says that the snapshot is too old to be told in the present tense."""
    usability, covered = model_usability(model), coverage(model)
    missing, single = covered.gaps(), covered.spans(1, 1)
    joining = joining_over(model, missing)
    num_blocks = words.count(model.num_blocks, "block")
    match usability:
        case ModelUsability.USABLE:
            servers = words.count(covered.min_redundancy, "online server")
            found = Advice(Tone.GOOD, "can be used", f"Each of its {num_blocks} has at least {servers}.")
        case ModelUsability.DEGRADED:
            found = _degraded(model, snapshot, single)
        case ModelUsability.UNUSABLE:
            found = Advice(
                Tone.BAD,
                "cannot be used now: no token comes out",
                "Each of its blocks has an online server, but a computation through them failed.",
                "Restart the server at which it failed, or start another one for its blocks.",
            )
        case ModelUsability.BROKEN:
            found = _broken(model, snapshot, missing, joining, past.lost if past is not None else ())
        case ModelUsability.UNSERVED:
            found = Advice(
                Tone.IDLE,
                "has no servers",
                f"No server announces any of its {num_blocks}.",
                "Servers for all of its blocks bring it up; each chooses its blocks by itself.",
                run_server(model, peers=initial_peers(snapshot)),
            )
    if stale:
        found = Advice(
            Tone.IDLE if found.tone is Tone.IDLE else Tone.WARN,
            past_title(found.title, snapshot.taken_at, now),
            "The monitor has seen nothing newer: the model may be in another state now.",
            "Look again in a minute.",
            ours=True,
        )
    else:
        found = replace(found, since=_since(model, usability, past, now))
    return ModelAdvice(usability, found, tuple(missing), tuple(joining), tuple(single))


def nearest_usable(model: ModelReport, snapshot: Snapshot) -> ModelReport | None:
    """Return the usable model to offer instead of another: an official one before others, then the nearest in size."""
    usable = (other for other in snapshot.models if other.dht_prefix != model.dht_prefix and is_usable(other))

    def rank(other: ModelReport) -> tuple[bool, bool, int, str]:
        return other.limited, not other.official, abs(other.num_blocks - model.num_blocks), other.dht_prefix

    return min(usable, key=rank, default=None)


def joining_over(model: ModelReport, blocks: Spans) -> Spans:
    """Return which of the blocks servers are loading."""
    spans = ((server.span.start, server.span.end) for server in model.servers if server.state is PeerState.JOINING)
    return common(blocks, merged(spans))


def _degraded(model: ModelReport, snapshot: Snapshot, single: Spans) -> Advice:
    if single == [(0, model.num_blocks)]:
        reason = "Each of its blocks has one server."
    else:
        reason = _about(single, "has one server", "have one server each")
    stops = words.plural(size(single), "it stops", "one of them stops")
    return Advice(
        Tone.WARN,
        "can be used, but is fragile",
        f"{reason} The model breaks when {stops}.",
        f"A second server for these blocks makes the model safe.{_only_a_part(single)}",
        _serve_longest(model, snapshot, single),
    )


def _broken(
    model: ModelReport, snapshot: Snapshot, missing: Spans, joining: Spans, lost: Sequence[LostBlocks]
) -> Advice:
    reasons = [_about(missing, "has no online server", "have no online server")]
    reasons += [incidents.loss(one, MAX_NAMED) for one in lost[:MAX_LOST] if one.servers]
    if unreachable := _holding(model, missing, PeerState.UNREACHABLE):
        announce = words.plural(len(unreachable), "announces", "announce")
        reasons.append(f"{_named(unreachable)} {announce} some of them, but cannot be reached.")
    if snapshot.unanswered_keys:
        reasons.append("Some DHT keys did not answer the monitor: there may be servers that it has not seen.")
    if joining:
        servers = _holding(model, missing, PeerState.JOINING)
        are = words.plural(len(servers), "is", "are")
        reasons.append(f"{_named(servers)} {are} loading {words.blocks(joining)}.")
    if left := without(missing, joining):
        title, next_step = "cannot be used now", f"It needs a server for {words.blocks(left)}.{_only_a_part(left)}"
        return Advice(Tone.BAD, title, " ".join(reasons), next_step, _serve_longest(model, snapshot, left))
    title = "cannot be used now, but servers are joining"
    next_step = "Wait: once they have loaded their blocks, the model can be used."
    return Advice(Tone.BAD, title, " ".join(reasons), next_step)


def _about(spans: Spans, singular: str, plural: str) -> str:
    """Make a sentence of these blocks and what they do."""
    return words.sentence(f"{words.blocks(spans)} {words.plural(size(spans), singular, plural)}")


def _serve_longest(model: ModelReport, snapshot: Snapshot, wanted: Spans) -> str:
    return run_server(model, blocks=longest(wanted), peers=initial_peers(snapshot))


def _only_a_part(wanted: Spans) -> str:
    """Say that a command for the longest span leaves others."""
    return " The command serves the longest stretch of them." if len(wanted) > 1 else ""


def _since(model: ModelReport, usability: ModelUsability, past: Past | None, now: float) -> str:
    """Return since when the model is in its state: from its history, else from `ModelReport.since`."""
    if past is None or usability is ModelUsability.UNUSABLE:  # history counts blocks, not tokens
        return "" if model.since is None else f"It has been found so for {words.about(now - model.since)}."
    if usability in (ModelUsability.USABLE, ModelUsability.DEGRADED):
        if past.since is None:
            return ""
        if past.watched_since is not None and past.since <= past.watched_since:
            return f"It has been usable as long as it has been watched: {words.about(now - past.watched_since)}."
        return f"It has been usable for {words.about(now - past.since)}."
    if past.last_healthy is not None:
        return f"It was last usable {words.ago(past.last_healthy, now)}."
    return "" if past.since is None else f"It has been so since it was first seen, {words.ago(past.since, now)}."


def _holding(model: ModelReport, blocks: Spans, state: PeerState) -> list[ServerReport]:
    """Return the servers of one state that announce some of the blocks."""
    wanted = blocks_of(blocks)
    return [
        server
        for server in model.servers
        if server.state is state and not wanted.isdisjoint(range(server.span.start, server.span.end))
    ]


def _named(servers: Sequence[ServerReport]) -> str:
    return words.listed([named_peer(server.peer_id) for server in servers], MAX_NAMED, "server")
