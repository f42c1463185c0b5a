"""The snapshot as the picture of the README, for terminals: a line a server, a character a block."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shared.judgement.swarm import swarm_state
from shared.peer_id import short_peer_id
from shared.snapshot import PeerState

if TYPE_CHECKING:
    from shared.snapshot import ModelReport, Snapshot

_CHARACTER = {PeerState.ONLINE: "#", PeerState.JOINING: "J", PeerState.UNREACHABLE: "?", PeerState.OFFLINE: "_"}
_ANSI = {PeerState.ONLINE: "32", PeerState.JOINING: "33", PeerState.UNREACHABLE: "31", PeerState.OFFLINE: "90"}

LEGEND = """\
Legend:

# - online
J - joining     (loading blocks)
? - unreachable (port forwarding/NAT/firewall issues, see below)
_ - offline     (just disconnected)
"""


def text_picture(snapshot: Snapshot, *, color: bool = False) -> str:
    """Draw the swarm. Only validated text goes in, so that no name can send control codes to a terminal."""
    parts = [f"Swarm state: {swarm_state(snapshot)}", ""]
    if not snapshot.models:
        parts += ["No model is announced in this swarm.", ""]
    for model in snapshot.models:
        parts += [*_model_lines(model, color=color), ""]
    parts += [LEGEND]
    if snapshot.reachability_issues:
        parts += ["Reachability issues:", ""]
        parts += [f"{issue.peer_id} | {issue.error}" for issue in snapshot.reachability_issues]
        parts += [""]
    if notes := _notes(snapshot):
        parts += [*notes, ""]
    updated = datetime.fromtimestamp(snapshot.taken_at, UTC)
    parts += [f"Last updated: {updated:%Y-%m-%d %H:%M:%S} UTC, every {snapshot.update_period:g} s"]
    return "\n".join(parts) + "\n"


def _notes(snapshot: Snapshot) -> list[str]:
    """What is to be known of the picture itself: where nobody could look, and what was not believed."""
    counted = (
        (snapshot.unanswered_keys, "keys of the swarm's hash table did not answer: there may be more servers"),
        (snapshot.undialled_servers, "servers were not dialled for lack of time: their own word stands"),
        (snapshot.num_conflicts, "servers say otherwise than the records under their names, which anyone can write"),
        (snapshot.refused.total, "records could not be used"),
    )
    return [f"Note: {count} {words}." for count, words in counted if count]


def _model_lines(model: ModelReport, *, color: bool) -> list[str]:
    lines = [f"{model.name} ({model.state}), {model.num_blocks} blocks"]
    labels = [f"{short_peer_id(server.peer_id)}, {server.throughput:.1f} RPS" for server in model.servers]
    width = max(map(len, labels), default=0)
    for label, server in zip(labels, model.servers, strict=True):
        served = _CHARACTER[server.state] * server.span.length
        if color:
            served = f"\x1b[{_ANSI[server.state]}m{served}\x1b[0m"
        left, right = " " * server.span.start, " " * (model.num_blocks - server.span.end)
        relayed = " (relayed)" if server.relayed else ""
        lines.append(f"{label:<{width}} |{left}{served}{right}|{relayed}")
    if not model.servers:
        lines.append("no servers")
    return lines
