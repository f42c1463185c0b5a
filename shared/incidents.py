"""This module defines an incident: when a model was broken, and which blocks lost which servers."""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from shared import words
from shared.peer_id import named_peer
from shared.snapshot import MAX_BLOCKS, check_times

_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


class Outcome(StrEnum):
    """How an incident ended."""

    RECOVERED = "recovered"
    WITHDRAWN = "withdrawn"
    """No server announced the model for a week."""


class Fate(StrEnum):
    """What became of a server that held blocks while the model was healthy."""

    OFFLINE = "offline"
    """It announced that it left."""
    UNREACHABLE = "unreachable"
    JOINING = "joining"
    """It is loading blocks again."""
    MOVED = "moved"
    """It serves other blocks of the model."""
    GONE = "gone"
    """It is not announced any more: it stopped without an announcement, or lost the swarm."""


class LostServer(msgspec.Struct, frozen=True):
    """A server and the blocks `start <= block < end` that it held when the model was last healthy."""

    peer_id: str
    start: int
    end: int
    fate: Fate


class LostBlocks(msgspec.Struct, frozen=True):
    """Blocks `start <= block < end` that no server holds any more, and those that held them."""

    start: int
    end: int
    servers: tuple[LostServer, ...] = ()
    more_servers: int = 0
    """Servers left out of `servers`."""


class Incident(msgspec.Struct, frozen=True):
    """Times are Unix seconds."""

    id: str
    dht_prefix: str
    name: str
    official: bool
    start: float
    """When the first of the crawls ended that found the model broken."""
    num_blocks: int
    covered_blocks: int
    """The fewest so far."""
    last_healthy: float | None = None
    """When a crawl last found the model healthy, where one did."""
    end: float | None = None
    """When the first of the crawls ended that found it healthy again; None while it lasts."""
    outcome: Outcome | None = None
    cause: tuple[LostBlocks, ...] = ()
    more_blocks: int = 0
    """Stretches of blocks left out of `cause`."""
    unusable: str | None = None
    """Why no token came out, where each block had a server; None where blocks had none."""

    @property
    def updated(self) -> float:
        return self.start if self.end is None else self.end


MAX_UNUSABLE_CHARS = 300
"""Of `Incident.unusable`."""
MAX_NAMED = 6
"""Servers of a stretch of blocks that `summary` names."""
FATES = {
    Fate.OFFLINE: "went offline",
    Fate.UNREACHABLE: "could not be reached",
    Fate.JOINING: "began to load blocks again",
    Fate.MOVED: "moved to other blocks",
    Fate.GONE: "was not announced any more",
}
"""What became of a server, after its name."""


def summary(incident: Incident) -> str:
    """Return the cause in words, without any markup."""
    if incident.unusable is not None:
        why = words.clean(incident.unusable).strip()
        return "Its servers answer, but do not compute: no token comes out" + (f" ({why})." if why else ".")
    if incident.last_healthy is None:
        return "It was broken when it was first seen: some of its blocks had no server."
    sentences = [loss(lost) for lost in incident.cause]
    if incident.more_blocks:
        sentences.append(f"And {words.count(incident.more_blocks, 'more stretch', 'more stretches')} of blocks.")
    return " ".join(sentences) or "Its blocks lost their servers."


def loss(lost: LostBlocks, most: int = MAX_NAMED) -> str:
    """Say which servers held the blocks, and what became of them; at most so many are named."""
    blocks = words.sentence(words.blocks([(lost.start, lost.end)])).removesuffix(".")
    if not lost.servers:
        return f"{blocks} had no server."
    named = [
        f"{named_peer(words.clean(server.peer_id))} ({words.blocks([(server.start, server.end)])}) {FATES[server.fate]}"
        for server in lost.servers[:most]
    ]
    if left_out := len(lost.servers) - len(named) + lost.more_servers:
        named.append(f"{left_out:,} more")
    return f"{blocks} lost all servers: {', '.join(named)}."


def encode(incident: Incident) -> bytes:
    return msgspec.msgpack.encode(incident)


def decode(data: bytes) -> Incident:
    """Return a stored incident. Whatever this raises, `stored.read` refuses the entry."""
    return checked(msgspec.msgpack.decode(data, type=Incident))


def checked(incident: Incident) -> Incident:
    """Return the incident unchanged. Raises `ValueError` where an id, a time or a number of blocks is out of range."""
    if _ID.fullmatch(incident.id) is None:
        raise ValueError(f"not an incident: id {incident.id[:80]!r}")
    check_times(incident.start, incident.last_healthy, incident.end)
    blocks = (incident.num_blocks, incident.covered_blocks, incident.more_blocks)
    if not all(0 <= count <= MAX_BLOCKS for count in blocks):
        raise ValueError("not an incident: blocks are out of range")
    if len(incident.unusable or "") > MAX_UNUSABLE_CHARS:
        raise ValueError("not an incident: its reason is too long")
    return incident
