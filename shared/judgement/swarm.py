"""This module judges the swarm as a whole: its state, its bootstrap peers, and its servers, each counted once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

from shared.snapshot import ModelState, PeerState, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from shared.snapshot import BootstrapPeer, ModelReport, ServerReport, Snapshot

SwarmState = Literal["healthy", "partly healthy", "broken", "empty"]
BootstrapState = Literal["online", "unreachable", "unknown"]


def swarm_state(snapshot: Snapshot) -> SwarmState:
    """Return one word for the whole: of the official models that anyone serves, else of all that anyone serves."""
    judged = judged_models(snapshot)
    if not judged:
        return "empty"
    if nobody_can_join(snapshot.bootstrap_peers):
        return "broken"
    broken = sum(model.state is ModelState.BROKEN for model in judged)
    if not broken:
        return "healthy"
    return "broken" if broken == len(judged) else "partly healthy"


def judged_models(snapshot: Snapshot) -> list[ModelReport]:
    """Return the models that the swarm is judged by: the official ones that anyone serves, else all such."""
    served = [model for model in snapshot.models if model.servers]
    return [model for model in served if model.official] or served


def nobody_can_join(peers: Sequence[BootstrapPeer]) -> bool:
    """Whether every bootstrap peer was found unreachable. Without any, nothing is known against it."""
    return bool(peers) and all(peer.verdict is Verdict.UNREACHABLE for peer in peers)


def bootstrap_state(peer: BootstrapPeer) -> BootstrapState:
    """Return what is shown of a bootstrap peer; unknown where nobody could dial it."""
    match peer.verdict:
        case Verdict.REACHABLE:
            return "online"
        case Verdict.UNREACHABLE:
            return "unreachable"
        case Verdict.UNKNOWN:
            return "unknown"


def count_states(models: Iterable[ModelReport]) -> Counter[PeerState]:
    """Count the models' servers by state; one that serves two models counts twice."""
    return Counter(server.state for model in models for server in model.servers)


def distinct_servers(snapshot: Snapshot) -> list[ServerReport]:
    """Return one report for each server: where it serves two models, one in which it is online if there is one."""
    reports = [server for model in snapshot.models for server in model.servers]
    reports.sort(key=lambda server: server.state is PeerState.ONLINE)
    return list({server.peer_id: server for server in reports}.values())


def pings_to(model: ModelReport, peer_id: str) -> dict[str, float]:
    """Return the seconds that servers of the model announce to a peer, by the announcing server's peer id."""
    return {
        server.peer_id: server.next_pings[peer_id]
        for server in model.servers
        if server.next_pings is not None and peer_id in server.next_pings
    }


def uses_relay(server: ServerReport) -> bool | None:
    """Return whether clients reach the server through a relay: as the crawler found, else as it announces."""
    return server.using_relay if server.relayed is None else server.relayed
