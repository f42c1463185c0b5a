"""A model's outage: from when to when, and which blocks lost which servers."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Outcome(StrEnum):
    """How an incident ended."""

    RECOVERED = "recovered"
    WITHDRAWN = "withdrawn"
    """No server announced the model any more, for a week: it was given up, or moved."""


class Fate(StrEnum):
    """What became of a server that held blocks while the model was healthy."""

    OFFLINE = "offline"
    """It said goodbye."""
    UNREACHABLE = "unreachable"
    JOINING = "joining"
    """It is loading blocks again."""
    MOVED = "moved"
    """It serves other blocks of the model."""
    GONE = "gone"
    """It is not announced any more: it stopped without a word, or lost the swarm."""


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
    """When a crawl last found the model healthy; None where none did."""
    end: float | None = None
    """When the first of the crawls ended that found it healthy again; None while it lasts."""
    outcome: Outcome | None = None
    cause: tuple[LostBlocks, ...] = ()
    more_blocks: int = 0
    """Stretches of blocks left out of `cause`."""

    @property
    def updated(self) -> float:
        return self.start if self.end is None else self.end


def encode(incident: Incident) -> bytes:
    return msgspec.msgpack.encode(incident)


def decode(data: bytes) -> Incident:
    """Raises `ValueError` for what is no incident."""
    return msgspec.msgpack.decode(data, type=Incident)
