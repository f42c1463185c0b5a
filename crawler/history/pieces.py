"""This module reads the pieces of the history's strings that a crawl changes, in one round trip."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from shared.store import keys, stored
from shared.store.rings import Resolution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis

    from crawler.history.commands import Command


class Piece(NamedTuple):
    """Some bytes of a Redis string."""

    key: str
    offset: int
    length: int


async def read_pieces(redis: Redis, pieces: Sequence[Piece]) -> tuple[dict[Piece, bytes], list[Command]]:
    """Return the bytes of each piece; none of a key of another type, and commands that delete such keys.

    Raises `redis.RedisError`.
    """
    reading = redis.pipeline(transaction=False)
    for piece in pieces:
        reading.getrange(piece.key, piece.offset, piece.offset + piece.length - 1)
    answers = dict(zip(pieces, await reading.execute(raise_on_error=False) if pieces else (), strict=True))
    found = {piece: stored.answered("history", answer, b"") for piece, answer in answers.items()}
    return found, [("DEL", piece.key) for piece, answer in answers.items() if isinstance(answer, Exception)]


def ring_pieces(dht_prefix: str, at: float) -> list[Piece]:
    """Return a model's records of the slots that a time falls into, by `Resolution`."""
    return [
        Piece(keys.history_of_model(resolution, dht_prefix), ring.offset(ring.slot(at)), ring.width)
        for resolution in Resolution
        for ring in [resolution.ring]
    ]
