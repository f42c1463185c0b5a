"""This module defines a change of a server or model, as it is stored, with its evidence in words.

A change has a beginning and an end: a server that goes down and comes back is one change, and so is one that flaps.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from shared import words
from shared.incidents import Outcome
from shared.snapshot import check_times
from shared.words import utc_minute

if TYPE_CHECKING:
    from shared.incidents import Incident

MAX_CHANGES = 5_000
"""Changes that are kept, of all servers and models; the oldest are dropped first."""
LIFE_SECONDS = 31 * 86400
"""A change is dropped so long after it was last updated."""
MAX_EVIDENCE = 300
MAX_TEXT = 1_024
MAX_TIMES = 1_000_000
WITHDRAWN = "withdrawn"
"""The state of a model whose outage ended because nobody serves it any more: it does not work again."""


class ChangeKind(StrEnum):
    """What changed."""

    OUTAGE = "outage"
    """A model lost blocks: an incident."""
    DOWN = "down"
    """A server that a probe had reached was found unreachable, offline, loading again or gone."""
    NOT_COMPUTING = "not_computing"
    """A server that answers gave no right numbers in two inference checks in a row."""
    MOVED = "moved"
    """A server serves other blocks."""
    UPDATED = "updated"
    """A server announces another version."""
    NEW = "new"
    """A probe reached a server for the first time."""


class Severity(StrEnum):
    """How urgent a change is, the mildest first."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Times are Unix seconds."""

    id: str
    kind: ChangeKind
    dht_prefix: str
    model: str
    """The model's name."""
    peer_id: str | None = None
    """None where the model as a whole changed."""
    contributor: str | None = None
    """The public name that the server showed last: claimed, as anyone can announce any name."""
    start: float
    updated: float
    end: float | None = None
    """When it ended; None while it lasts."""
    state: str = ""
    """What the server was found to be: unreachable, offline, joining, gone, or not computing; of a model broken, and
    withdrawn where its outage ended without a server."""
    evidence: str = ""
    """Why, in words."""
    times: int = 1
    """How often it happened: more than one is flapping."""
    last_start: float | None = None
    """When it happened last, where that was more than once."""
    down_seconds: float = 0.0
    """How long all ended times took together."""

    @property
    def since(self) -> float:
        """When it happened last."""
        return self.start if self.last_start is None else self.last_start

    @property
    def lasts(self) -> bool:
        return self.end is None

    @property
    def path(self) -> str:
        """The page that shows it, below the monitor's address."""
        if self.kind is ChangeKind.OUTAGE:
            return f"/incidents#{self.id}"
        return f"/servers/{self.peer_id}"


class ChangeFilter(NamedTuple):
    """Which changes are wanted; None: any."""

    server: str | None = None
    model: str | None = None
    contributor: str | None = None

    def takes(self, change: Change) -> bool:
        return (
            self.server in (None, change.peer_id)
            and self.model in (None, change.dht_prefix)
            and self.contributor in (None, change.contributor)
        )


def severity(change: Change) -> Severity:
    """Return how urgent a change is while it lasts."""
    if change.kind is ChangeKind.OUTAGE:
        return Severity.CRITICAL
    return Severity.WARNING if change.kind in (ChangeKind.DOWN, ChangeKind.NOT_COMPUTING) else Severity.INFO


def change_id(kind: ChangeKind, peer_id: str, dht_prefix: str, start: float) -> str:
    """Return the id of a change: the same whichever crawler finds it."""
    return hashlib.sha256(f"{kind}\0{peer_id}\0{dht_prefix}\0{start!r}".encode(errors="replace")).hexdigest()[:24]


def of_incident(incident: Incident, summary: str, updated: float) -> Change:
    """Return an incident as a change. `summary` is its cause in words."""
    blocks = f"At the lowest, {incident.covered_blocks} of {words.count(incident.num_blocks, 'block')} had a server."
    return Change(
        id=incident.id,
        kind=ChangeKind.OUTAGE,
        dht_prefix=incident.dht_prefix,
        model=incident.name,
        start=incident.start,
        updated=updated,
        end=incident.end,
        state=WITHDRAWN if incident.outcome is Outcome.WITHDRAWN else "broken",
        evidence=words.cut(f"{summary} {blocks}", MAX_EVIDENCE),
    )


def title(change: Change) -> str:
    """Return one line: who, and what."""
    model = words.cut(change.model, 60) or words.cut(change.dht_prefix, 60) or "(nameless)"
    if change.kind is ChangeKind.OUTAGE:
        ended = "was withdrawn" if change.state == WITHDRAWN else "works again"
        return f"{model} is broken" if change.lasts else f"{model} {ended}"
    server = f"Server …{words.clean(change.peer_id or '')[-6:]}"
    match change.kind:
        case ChangeKind.MOVED:
            what = "moved to other blocks"
        case ChangeKind.UPDATED:
            what = "runs another version"
        case ChangeKind.NEW:
            what = "is new"
        case ChangeKind.NOT_COMPUTING:
            what = "answers, but does not compute" if change.lasts else "computes again"
        case _ if change.times > 1:
            what = "is flapping" if change.lasts else "was flapping"
        case _:
            what = f"is {words.clean(change.state)}" if change.lasts else "is back"
    return f"{server} {what}"


def sentence(change: Change) -> str:
    """Return what happened, since when, how often and why: "unreachable since 14:02: …; back after 12 min."."""
    evidence = words.clean(change.evidence).rstrip(".")
    why = f": {evidence}" if evidence else ""
    if change.kind is ChangeKind.NEW:
        return f"Reached for the first time at {utc_minute(change.start)}{why}."
    if change.kind in (ChangeKind.MOVED, ChangeKind.UPDATED):
        often = "At " if change.times == 1 else f"{change.times:,} times since {utc_minute(change.start)}, last at "
        return f"{often}{utc_minute(change.updated)}{why}."
    withdrawn = change.state == WITHDRAWN
    state = "Broken" if withdrawn else words.clean(change.state).capitalize()
    if change.times == 1:
        if change.end is None:
            return f"{state} since {utc_minute(change.start)}{why}."
        ended = "withdrawn, as nobody serves it," if withdrawn else "back"
        back = f"{ended} after {words.about(change.end - change.start)}"
        return f"{state} since {utc_minute(change.start)}{why}; {back}."
    what = "Down" if change.kind is ChangeKind.DOWN else state
    if change.end is None:
        last = utc_minute(change.since)
        return f"{what} {change.times:,} times since {utc_minute(change.start)}, now {state.lower()} since {last}{why}."
    return (
        f"{what} {change.times:,} times between {utc_minute(change.start)} and {utc_minute(change.end)}, "
        f"{words.about(change.down_seconds)} in all{why}; back since {utc_minute(change.end)}."
    )


def decode(data: bytes) -> Change:
    """Return a stored change. Whatever this raises, `stored.read` refuses the entry."""
    return checked(msgspec.msgpack.decode(data, type=Change))


def checked(change: Change) -> Change:
    """Return the change unchanged. Raises `ValueError` where a time, a number or a text is out of range."""
    check_times(change.start, change.updated, change.end, change.last_start, change.down_seconds)
    if not 0 < change.times <= MAX_TIMES:
        raise ValueError("not a change: times is out of range")
    texts = (change.id, change.dht_prefix, change.model, change.peer_id or "", change.contributor or "")
    if any(len(each) > MAX_TEXT for each in (*texts, change.evidence, change.state)) or not change.id:
        raise ValueError("not a change: a text is too long or empty")
    return change
