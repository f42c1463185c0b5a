"""This module says whether a model can be used, why not, since when, whether servers are joining, and what to do.

`Usability` is judged by coverage: whether each block has an online server that the monitor could reach. Where the
latest chain of inference gave no token, the model cannot be used all the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import TYPE_CHECKING

from shared import words
from shared.advice.advice import Advice, Tone
from shared.advice.commands import initial_peers, run_server
from shared.advice.servers import FATES
from shared.judgement.coverage import coverage
from shared.judgement.usability import gives_tokens
from shared.peer_id import named_peer
from shared.snapshot import PeerState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from shared.incidents import Incident, LostBlocks
    from shared.snapshot import ModelReport, ServerReport, Snapshot

Spans = list[tuple[int, int]]
"""Blocks `start <= block < end`, in order, that neither touch nor overlap."""
MAX_NAMED = 3
"""Servers that are named in one sentence."""
MAX_LOST = 2
"""Stretches of blocks of which it is said who held them."""


class Usability(StrEnum):
    """Whether a client finds servers for all blocks of a model in a row."""

    USABLE = "usable"
    DEGRADED = "degraded"
    """Usable, but some blocks depend on a single server."""
    BROKEN = "broken"
    UNUSABLE = "unusable"
    """Each block has an online server, but the latest chain of inference gave no token."""
    UNSERVED = "unserved"
    """No server announces any block."""


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
    def of(cls, incident: Incident | None, *, watched_since: float | None = None) -> Past:
        """Return what the open incident of a broken model tells."""
        if incident is None:
            return cls(watched_since=watched_since)
        return cls(incident.start, incident.last_healthy, watched_since, incident.cause)


@dataclass(frozen=True, slots=True)
class ModelAdvice:
    """A model's verdict, and the blocks that it is about."""

    usability: Usability
    advice: Advice
    missing: tuple[tuple[int, int], ...] = ()
    """Stretches of blocks `(start, end)` that no online, reachable server holds."""
    joining: tuple[tuple[int, int], ...] = ()
    """Stretches of those that servers are loading now."""
    single: tuple[tuple[int, int], ...] = ()
    """Stretches that one server alone holds."""

    @property
    def usable(self) -> bool:
        return self.usability in (Usability.USABLE, Usability.DEGRADED)


def usability(model: ModelReport) -> Usability:
    if not model.servers:
        return Usability.UNSERVED
    least = coverage(model).min_redundancy
    if least and gives_tokens(model) is False:
        return Usability.UNUSABLE
    return Usability.BROKEN if not least else Usability.DEGRADED if least == 1 else Usability.USABLE


def model_advice(
    model: ModelReport, snapshot: Snapshot, now: float, *, past: Past | None = None, stale: bool = False
) -> ModelAdvice:
    """Judge a model of the snapshot. `stale` says that the snapshot is too old to be told in the present tense."""
    kind = usability(model)
    covered = coverage(model)
    missing = covered.gaps()
    joining = joining_over(model, missing)
    single = [(run.start, run.end) for run in covered.runs() if run.redundancy == 1]
    since = _since(model, kind, past, now)
    match kind:
        case Usability.USABLE:
            blocks, servers = (
                words.count(model.num_blocks, "block"),
                words.count(covered.min_redundancy, "online server"),
            )
            found = Advice(Tone.GOOD, "can be used", f"Each of its {blocks} has at least {servers}.", since)
        case Usability.DEGRADED:
            found = _degraded(model, snapshot, single, since)
        case Usability.UNUSABLE:
            found = Advice(
                Tone.BAD,
                "cannot be used now: no token comes out",
                "Each of its blocks has an online server, but a computation through them failed.",
                since,
                next_step="The server that is named has to be restarted, or another one started for its blocks.",
            )
        case Usability.BROKEN:
            found = _broken(model, snapshot, past.lost if past is not None else (), since)
        case Usability.UNSERVED:
            found = _unserved(model, snapshot, since)
    if stale:
        found = _in_the_past(found, snapshot, now)
    return ModelAdvice(kind, found, tuple(missing), tuple(joining), tuple(words.merged(single)))


def nearest_usable(model: ModelReport, snapshot: Snapshot) -> ModelReport | None:
    """Return the usable model to offer instead of another: an official one before others, then the nearest in size."""
    usable = [
        other
        for other in snapshot.models
        if other.dht_prefix != model.dht_prefix and coverage(other).has_path and gives_tokens(other) is not False
    ]
    return min(
        usable,
        key=lambda other: (
            other.limited,
            not other.official,
            abs(other.num_blocks - model.num_blocks),
            other.dht_prefix,
        ),
        default=None,
    )


def common(some: Spans, others: Spans) -> Spans:
    """Return the blocks that are in both. Both are in order and do not overlap; so is the result."""
    both, place = [], 0
    for start, end in some:
        while place < len(others) and others[place][1] <= start:
            place += 1
        at = place
        while at < len(others) and others[at][0] < end:
            both.append((max(start, others[at][0]), min(end, others[at][1])))
            at += 1
    return both


def without(some: Spans, others: Spans) -> Spans:
    """Return the blocks of the first that are not in the second."""
    held = {block for start, end in common(some, others) for block in range(start, end)}
    return words.merged((block, block + 1) for start, end in some for block in range(start, end) if block not in held)


def _holding(model: ModelReport, blocks: Spans, state: PeerState) -> list[ServerReport]:
    """Return the servers of one state that announce some of the blocks."""
    wanted = bytearray(model.num_blocks)
    for start, end in blocks:
        wanted[start:end] = b"\1" * (end - start)
    before = [0, *accumulate(wanted)]  # how many of the wanted blocks come before each block
    return [
        server
        for server in model.servers
        if server.state is state and before[server.span.end] > before[server.span.start]
    ]


def joining_over(model: ModelReport, blocks: Spans) -> Spans:
    """Return which of the blocks servers are loading."""
    spans = ((server.span.start, server.span.end) for server in model.servers if server.state is PeerState.JOINING)
    return common(blocks, words.merged(spans))


def _degraded(model: ModelReport, snapshot: Snapshot, single: Spans, since: str) -> Advice:
    stretches = words.merged(single)
    one = sum(map(_length, stretches)) == 1
    every = stretches == [(0, model.num_blocks)]
    which = "each of its blocks" if every else words.blocks(stretches)
    have, breaks = ("has one server", "it stops") if one else ("have one server each", "one of them stops")
    if every and not one:
        have = "has one server"
    return Advice(
        Tone.WARN,
        "can be used, but is fragile",
        f"{words.sentence(f'{which} {have}')} The model breaks when {breaks}.",
        since,
        f"A second server for these blocks makes the model safe.{_only_a_part(stretches)}",
        run_server(model, blocks=max(stretches, key=_length), peers=initial_peers(snapshot)),
    )


def _broken(model: ModelReport, snapshot: Snapshot, all_lost: Sequence[LostBlocks], since: str) -> Advice:
    missing = coverage(model).gaps()
    have = "has" if sum(map(_length, missing)) == 1 else "have"
    reasons = [words.sentence(f"{words.blocks(missing)} {have} no online server")]
    reasons += [_lost(lost) for lost in all_lost[:MAX_LOST] if lost.servers or (lost.start, lost.end) not in missing]
    if unreachable := _holding(model, missing, PeerState.UNREACHABLE):
        announce = "announces" if len(unreachable) == 1 else "announce"
        reasons.append(f"{_named(unreachable)} {announce} some of them, but cannot be reached.")
    if snapshot.unanswered_keys:
        reasons.append("Some DHT keys did not answer the monitor: there may be servers that it has not seen.")
    servers = _holding(model, missing, PeerState.JOINING)
    joining = joining_over(model, missing)
    if joining:
        reasons.append(f"{_named(servers)} {'is' if len(servers) == 1 else 'are'} loading {words.blocks(joining)}.")
    left = without(missing, joining)
    if not left:
        title, next_step, command = (
            "cannot be used now, but servers are joining",
            "Wait: once they have loaded their blocks, the model can be used.",
            "",
        )
    else:
        title, next_step = "cannot be used now", f"It needs a server for {words.blocks(left)}.{_only_a_part(left)}"
        command = run_server(model, blocks=max(left, key=_length), peers=initial_peers(snapshot))
    return Advice(Tone.BAD, title, " ".join(reasons), since, next_step, command)


def _only_a_part(wanted: Spans) -> str:
    """Say that a command for the longest stretch leaves others."""
    return " The command serves the longest stretch of them." if len(wanted) > 1 else ""


def _unserved(model: ModelReport, snapshot: Snapshot, since: str) -> Advice:
    return Advice(
        Tone.IDLE,
        "has no servers",
        f"No server announces any of its {words.count(model.num_blocks, 'block')}.",
        since,
        "Servers for all of its blocks bring it up; each chooses its blocks by itself.",
        run_server(model, peers=initial_peers(snapshot)),
    )


def _since(model: ModelReport, kind: Usability, past: Past | None, now: float) -> str:
    """Return since when the model is in its state: from its history, else from `ModelReport.since`."""
    if past is None or kind is Usability.UNUSABLE:  # history counts blocks, not tokens
        return "" if model.since is None else f"It has been found so for {words.about(now - model.since)}."
    if kind in (Usability.USABLE, Usability.DEGRADED):
        return _usable_since(past, now)
    return _broken_since(past, now)


def _usable_since(past: Past, now: float) -> str:
    if past.since is None:
        return ""
    if past.watched_since is not None and past.since <= past.watched_since:
        return f"It has been usable as long as it has been watched: {words.about(now - past.watched_since)}."
    return f"It has been usable for {words.about(now - past.since)}."


def _broken_since(past: Past, now: float) -> str:
    if past.last_healthy is not None:
        return f"It was last usable {words.ago(past.last_healthy, now)}."
    if past.since is not None:
        return f"It has been so since it was first seen, {words.ago(past.since, now)}."
    return ""


def _in_the_past(found: Advice, snapshot: Snapshot, now: float) -> Advice:
    """Return the advice in the past tense, for a stale snapshot: with its age, and never as good news."""
    title = re.split("[,:]", found.title)[0]
    then = title.replace("can be", "could be").replace("cannot be", "could not be").replace("has no", "had no")
    title = f"{then.removesuffix(' now')} when it was last seen, {words.ago(snapshot.taken_at, now)}"
    reason = "The monitor has seen nothing newer: the model may be in another state now."
    tone = found.tone if found.tone is Tone.IDLE else Tone.WARN
    return Advice(tone, title, reason, next_step="Look again in a minute.", ours=True)


def _lost(lost: LostBlocks) -> str:
    blocks = words.sentence(words.blocks([(lost.start, lost.end)])).removesuffix(".")
    if not lost.servers:
        return f"{blocks} had no server before either."
    gone = [f"{named_peer(server.peer_id)}, which {FATES[server.fate]}" for server in lost.servers[:MAX_NAMED]]
    more = len(lost.servers) - len(gone) + lost.more_servers
    if more:
        gone.append(words.count(more, "more server"))
    return f"{blocks} {'was' if lost.end - lost.start == 1 else 'were'} held by {'; and by '.join(gone)}."


def _named(servers: Iterable[ServerReport]) -> str:
    return words.listed([named_peer(server.peer_id) for server in servers], MAX_NAMED, "server")


def _length(span: tuple[int, int]) -> int:
    return span[1] - span[0]
