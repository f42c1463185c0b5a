"""This module tells who serves how much: what counts for a public name, which anyone can claim.

Only what a probe reached counts, and only blocks of official models (of all models in a private swarm, whose operator
decides who joins): a made-up name, a made-up model or a record without a server behind it adds nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from shared.snapshot import PeerState, Verdict

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
            reached = server.state is PeerState.ONLINE and server.verdict is Verdict.REACHABLE
            if reached and server.show_public_name and server.public_name:
                share = Serving(server.peer_id, model.dht_prefix, server.span.length)
                found.setdefault(server.public_name, []).append(share)
    return found
