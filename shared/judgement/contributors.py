"""This module counts what is served under each public name, which anyone can claim.

Only servers that a probe reached count, and only blocks of official models (in a private swarm of all models, because
its operator decides who joins). So invented models and records without a server add nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from shared.snapshot import Snapshot


class Serving(NamedTuple):
    """One server's blocks of one model."""

    peer_id: str
    dht_prefix: str
    blocks: int


def serving(snapshot: Snapshot) -> dict[str, list[Serving]]:
    """Return what counts for each public name now."""
    found: dict[str, list[Serving]] = {}
    for model in snapshot.models:
        if not (model.official or snapshot.private_swarm):
            continue
        for server in model.servers:
            if server.reached and server.show_public_name and server.public_name:
                share = Serving(server.peer_id, model.dht_prefix, server.span.length)
                found.setdefault(server.public_name, []).append(share)
    return found
