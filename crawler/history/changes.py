"""This module finds what changed about servers from crawl to crawl: pure steps over a state kept in Redis.

A server is watched from the first crawl whose probe reached it. A change for the worse opens when two crawls in a row
find it, dated to the first of them; it ends with the first crawl whose probe reaches the server. A crawl that could not
probe a server changes nothing. A change that happens again soon continues the old one. Inference checks make changes
likewise: two in a row without right numbers open one, the next with right numbers ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from crawler.history.commands import change_command
from shared import changes, words
from shared.advice.causes import message
from shared.advice.inference import OUTCOME_WORDS
from shared.changes import MAX_EVIDENCE, Change, ChangeKind
from shared.inference import InferenceOutcome
from shared.judgement.usability import DOES_NOT_COMPUTE
from shared.reachability import Cause
from shared.snapshot import PeerState, UnixSeconds
from shared.store import keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from crawler.history.commands import Command
    from shared.inference import ServerInference
    from shared.snapshot import ModelReport, ServerReport, Snapshot

CRAWLS_TO_OPEN = 2
FLAPPING_WINDOW = 3600.0
"""Seconds after its end within which a change that happens again goes on."""
SETTLED_WINDOW = 6 * 3600.0
"""The same for changes of blocks and of version."""
MAX_LENGTH = 86400.0
"""Seconds after its start from which a change that happens again is another one."""
MAX_WATCHED = 5_000
FORGOTTEN_AFTER = 7 * 86400.0
"""Seconds after which a server that stays down is not watched any more."""
GONE = "gone"
NOT_COMPUTING = "not computing"

_EVIDENCE = {
    PeerState.OFFLINE: "it announced that it stops",
    PeerState.JOINING: "it announced that it loads blocks again",
    GONE: "it is not announced any more",
}


class Suspect(msgspec.Struct, frozen=True, array_like=True):
    """What the last crawls found, which makes a change if the next one finds the server down too."""

    start: UnixSeconds
    state: str
    evidence: str
    crawls: int = 1


class Watched(msgspec.Struct, frozen=True, array_like=True):
    """What is stored about a server of a model between crawls."""

    peer_id: str
    dht_prefix: str
    model: str
    start: int
    end: int
    version: str | None = None
    contributor: str | None = None
    suspect: Suspect | None = None
    down: Change | None = None
    """The last time that it was down, or the one that lasts."""
    moved: Change | None = None
    updated: Change | None = None
    suspect_check: Suspect | None = None
    """The same as `suspect` of the latest inference check."""
    not_computing: Change | None = None

    @property
    def open(self) -> Change | None:
        return _open(self.down)


def _open(change: Change | None) -> Change | None:
    return change if change is not None and change.end is None else None


def decode_watched(data: bytes) -> Watched:
    """Return a stored state. Whatever this raises, `stored.read` refuses the entry."""
    watched = msgspec.msgpack.decode(data, type=Watched)
    for change in (watched.down, watched.moved, watched.updated, watched.not_computing):
        if change is not None:
            changes.checked(change)
    return watched


def field(peer_id: str, dht_prefix: str) -> str:
    """Return the name under which a server of a model is stored; a peer id has no space."""
    return f"{peer_id} {dht_prefix}"


def server_changes(
    watched: Mapping[str, Watched], snapshot: Snapshot, at: float, *, after_gap: bool = False
) -> list[Command]:
    """Return the commands that record what changed, given the stored states by `field`.

    `after_gap`: nobody looked for long before this crawl, so what an earlier one suspected counts no more.
    """
    found = {field(server.peer_id, model.dht_prefix): (model, server) for model, server in _servers(snapshot)}
    commands: list[Command] = []
    room = MAX_WATCHED - len(watched)
    for name, (model, server) in found.items():
        before = watched.get(name)
        if before is None:
            if not server.reached or room <= 0:
                continue
            room -= 1
            after, made = _begin(model, server, at, first=not watched)
        else:
            after, made = _step(_unsuspected(before) if after_gap else before, model, server, at)
        commands += _writes(name, before, after, made)
    present = {model.dht_prefix for model in snapshot.models}
    for name in watched.keys() - found.keys():
        before = watched[name]
        if before.open is not None and at - before.open.since > FORGOTTEN_AFTER:
            commands.append(("HDEL", keys.WATCHED_SERVERS, name))
        elif not snapshot.unanswered_keys and (before.dht_prefix in present or not models_left_out(snapshot)):
            known = _unsuspected(before) if after_gap else before
            commands += _writes(name, before, *_down(known, GONE, _EVIDENCE[GONE], at))
    return commands


def models_left_out(snapshot: Snapshot) -> int:
    """Return how many announced models there was no room to read: one that is missing may be among them."""
    return snapshot.refused.by_reason.get("too_many_models", 0)


def _unsuspected(watched: Watched) -> Watched:
    return watched if watched.suspect is None else msgspec.structs.replace(watched, suspect=None)


def _writes(name: str, before: Watched | None, after: Watched, made: list[Change]) -> list[Command]:
    """Return the commands that record changes, and a server's state where it is another one than before."""
    commands = [change_command(change) for change in made]
    if after != before:
        commands.append(("HSET", keys.WATCHED_SERVERS, name, msgspec.msgpack.encode(after)))
    return commands


def _servers(snapshot: Snapshot) -> Iterator[tuple[ModelReport, ServerReport]]:
    for model in snapshot.models:
        for server in model.servers:
            yield model, server


def _begin(model: ModelReport, server: ServerReport, at: float, *, first: bool) -> tuple[Watched, list[Change]]:
    """Return the state of a server that is watched from now on, and the change that it is new."""
    after = _described(
        Watched(server.peer_id, model.dht_prefix, model.name, server.span.start, server.span.end), model, server
    )
    if first:  # the first crawl of a monitor: every server would be new
        return after, []
    evidence = f"it serves blocks {_blocks(after)} of {words.cut(model.name, 60)}"
    change = _change(ChangeKind.NEW, after, evidence, at)
    return after, [msgspec.structs.replace(change, end=at)]


def _step(before: Watched, model: ModelReport, server: ServerReport, at: float) -> tuple[Watched, list[Change]]:
    """Return the state after this crawl, given that before it, and what changed."""
    if not server.reached:
        if server.state is PeerState.ONLINE:  # nobody could probe it
            return before, []
        return _down(before, server.state.value, _why(server), at)
    made: list[Change] = []
    after = msgspec.structs.replace(_described(before, model, server), suspect=None)
    if (down := before.open) is not None:
        down = _ended(down, at)
        made.append(down)
        after = msgspec.structs.replace(after, down=down)
    if (before.start, before.end) != (after.start, after.end):
        evidence = f"from blocks {_blocks(before)} to {_blocks(after)}"
        moved = _again(ChangeKind.MOVED, before.moved, after, evidence, at)
        made.append(moved)
        after = msgspec.structs.replace(after, moved=moved)
    if before.version is not None and after.version is not None and before.version != after.version:
        evidence = f"from {words.cut(before.version, 40)} to {words.cut(after.version, 40)}"
        updated = _again(ChangeKind.UPDATED, before.updated, after, evidence, at)
        made.append(updated)
        after = msgspec.structs.replace(after, updated=updated)
    after, computing = _computes(after, server.inference, at)
    return after, made + computing


def _computes(before: Watched, found: ServerInference | None, at: float) -> tuple[Watched, list[Change]]:
    """Take the latest inference check of a server that is reached. One that nobody could make changes nothing."""
    lasting = _open(before.not_computing)
    if found is not None and found.outcome is InferenceOutcome.COMPUTED:
        ended = None if lasting is None else _ended(lasting, at)
        after = msgspec.structs.replace(before, suspect_check=None, not_computing=ended or before.not_computing)
        return after, [] if ended is None else [ended]
    if found is None or found.outcome not in DOES_NOT_COMPUTE or lasting is not None:
        return before, []
    first = before.suspect_check
    if first is None or found.checked_at <= first.start:
        evidence = words.cut(
            f"it {OUTCOME_WORDS[found.outcome]}" + (f": {found.detail}" if found.detail else ""), MAX_EVIDENCE
        )
        return msgspec.structs.replace(
            before, suspect_check=first or Suspect(found.checked_at, NOT_COMPUTING, evidence)
        ), []
    change = _opened(ChangeKind.NOT_COMPUTING, before.not_computing, before, first, at)
    return msgspec.structs.replace(before, suspect_check=None, not_computing=change), [change]


def _blocks(watched: Watched) -> str:
    return words.block_range(watched.start, watched.end)


def _described(watched: Watched, model: ModelReport, server: ServerReport) -> Watched:
    return msgspec.structs.replace(
        watched,
        model=model.name,
        start=server.span.start,
        end=server.span.end,
        version=server.version,
        contributor=server.public_name if server.show_public_name else None,
    )


def _why(server: ServerReport) -> str:
    if server.state is not PeerState.UNREACHABLE:
        return _EVIDENCE.get(server.state, "")
    if server.error:
        return words.cut(server.error, MAX_EVIDENCE)
    known = server.cause in Cause.__members__.values()
    return message(Cause(server.cause)) if server.cause and known else ""


def _down(before: Watched, state: str, evidence: str, at: float) -> tuple[Watched, list[Change]]:
    """Take a crawl that found the server down; `state` and `evidence` say how."""
    if before.open is not None:
        return before, []
    suspect = before.suspect or Suspect(at, state, evidence, 0)
    suspect = msgspec.structs.replace(suspect, crawls=suspect.crawls + 1)
    if suspect.crawls < CRAWLS_TO_OPEN:
        return msgspec.structs.replace(before, suspect=suspect), []
    down = _opened(ChangeKind.DOWN, before.down, before, suspect, at)
    after, made = msgspec.structs.replace(before, suspect=None, suspect_check=None, down=down), [down]
    if (lasting := _open(before.not_computing)) is not None:  # what does not answer is not asked to compute
        made.append(_ended(lasting, at))
        after = msgspec.structs.replace(after, not_computing=made[-1])
    return after, made


def _opened(kind: ChangeKind, old: Change | None, watched: Watched, suspect: Suspect, at: float) -> Change:
    """Return a change that lasts: the old one once more where it ended a short time ago."""
    start = min(suspect.start, at)
    if old is not None and old.end is not None and _goes_on(old, old.end, start, FLAPPING_WINDOW):
        return msgspec.structs.replace(
            old,
            updated=at,
            end=None,
            state=suspect.state,
            evidence=suspect.evidence,
            times=old.times + 1,
            last_start=start,
        )
    return msgspec.structs.replace(_change(kind, watched, suspect.evidence, start), updated=at, state=suspect.state)


def _ended(change: Change, at: float) -> Change:
    lasted = max(0.0, at - change.since)
    return msgspec.structs.replace(change, end=at, updated=at, down_seconds=change.down_seconds + lasted)


def _again(kind: ChangeKind, old: Change | None, watched: Watched, evidence: str, at: float) -> Change:
    """Return a change that has no length: the old one once more where that was a short time ago."""
    if old is not None and _goes_on(old, old.updated, at, SETTLED_WINDOW):
        return msgspec.structs.replace(old, updated=at, end=at, times=old.times + 1, evidence=evidence, last_start=at)
    return msgspec.structs.replace(_change(kind, watched, evidence, at), end=at)


def _goes_on(old: Change, ended: float, at: float, window: float) -> bool:
    return 0 <= at - ended <= window and at - old.start <= MAX_LENGTH and old.times < changes.MAX_TIMES


def _change(kind: ChangeKind, watched: Watched, evidence: str, start: float) -> Change:
    return Change(
        id=changes.change_id(kind, watched.peer_id, watched.dht_prefix, start),
        kind=kind,
        dht_prefix=watched.dht_prefix,
        model=watched.model,
        peer_id=watched.peer_id,
        contributor=watched.contributor,
        start=start,
        updated=start,
        evidence=evidence,
    )
