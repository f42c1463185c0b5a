"""This module returns the Redis commands that record inference checks: each once, however many crawls show it.

A check that nobody could make leaves a gap, as a crawl that could not look does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crawler.history.pieces import Piece, read_pieces
from shared.inference import InferenceOutcome, UsabilityState
from shared.snapshot import ModelState
from shared.store import keys
from shared.store.inference_history import MODEL_HOURS, SERVER_HOURS, Proof, of_model, of_server, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Container

    from redis.asyncio import Redis

    from crawler.history.commands import Command
    from shared.snapshot import Snapshot
    from shared.store.rings import Ring


class ProofHistory:
    """Remembers which checks it has recorded, so that only new ones cost a read."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.recorded: dict[str, int] = {}
        """When the latest recorded check of a key began."""

    async def commands(
        self, snapshot: Snapshot, models: Container[str], servers: Container[str]
    ) -> tuple[list[Command], dict[str, int]]:
        """Return the commands for the models (DHT prefixes) and servers that have a history.

        And what `recorded` is once they have been run.
        """
        latest = _latest(snapshot, models, servers)
        fresh = {
            Piece(key, ring.offset(proof.hour), ring.width): (ring, proof)
            for key, (ring, proof) in latest.items()
            if proof.checked_at > self.recorded.get(key, -1)
        }
        found, commands = await read_pieces(self._redis, list(fresh))
        for piece, (ring, proof) in fresh.items():
            key, data = piece.key, found[piece]
            before = unpack(data)
            if before is not None and before.hour == proof.hour and before.checked_at >= proof.checked_at:
                continue  # another crawler, or an earlier run of this one, has recorded it
            if not data:  # allocate the whole ring at once: Redis gives a growing string twice the memory
                commands.append(("SETRANGE", key, ring.size - 1, b"\0"))
            record = proof if before is None else before.merge(proof)
            commands.append(("SETRANGE", key, piece.offset, pack(record)))
            commands.append(("EXPIRE", key, ring.life))
        return commands, {key: proof.checked_at for key, (_, proof) in latest.items()}


def _latest(snapshot: Snapshot, models: Container[str], servers: Container[str]) -> dict[str, tuple[Ring, Proof]]:
    """Return the newest check by key; of a server of several models, the newest of all."""
    latest: dict[str, tuple[Ring, Proof]] = {}
    for model in snapshot.models:
        usability = model.usability if model.state is ModelState.HEALTHY else None  # else there was no chain
        if usability and usability.state is not UsabilityState.UNKNOWN and model.dht_prefix in models:
            latest[keys.inference_of_model(model.dht_prefix)] = (MODEL_HOURS, of_model(usability))
        for server in model.servers:
            inference = server.inference
            if not inference or inference.outcome is InferenceOutcome.UNKNOWN or server.peer_id not in servers:
                continue
            key, proof = keys.inference_of_server(server.peer_id), of_server(inference)
            if key not in latest or latest[key][1].checked_at < proof.checked_at:
                latest[key] = (SERVER_HOURS, proof)
    return latest
