"""This module draws a snapshot as text, as in the README: a line per server, a character per block."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shared import words
from shared.judgement.freshness import FRESH, Freshness
from shared.judgement.swarm import swarm_state
from shared.judgement.usability import ModelUsability, does_not_compute, model_usability
from shared.peer_id import short_peer_id
from shared.snapshot import PeerState

if TYPE_CHECKING:
    from shared.snapshot import ModelReport, Snapshot

CHARACTERS = {PeerState.ONLINE: "#", PeerState.JOINING: "J", PeerState.UNREACHABLE: "?", PeerState.OFFLINE: "_"}
SILENT = "X"
"""The character of a server that is online and does not compute."""
_ANSI = {PeerState.ONLINE: "32", PeerState.JOINING: "33", PeerState.UNREACHABLE: "31", PeerState.OFFLINE: "90"}

LEGEND = """\
Legend:

# - online
X - online      (but does not compute)
J - joining     (loading blocks)
? - unreachable (port forwarding/NAT/firewall issues, see below)
_ - offline     (just disconnected)
"""


def text_picture(snapshot: Snapshot, freshness: Freshness = FRESH, *, color: bool = False) -> str:
    """Return the picture. Only validated text is written, so no name can send control codes to a terminal."""
    parts = [_first_line(snapshot, freshness), ""]
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


def _first_line(snapshot: Snapshot, freshness: Freshness) -> str:
    """Return the verdict; of a stale snapshot what it was, and how long ago."""
    state = swarm_state(snapshot)
    if not freshness.stale:
        return f"Swarm state: {state}"
    return f"Swarm state: was {state} when last seen, more than {words.duration(freshness.at_least)} ago"


def _notes(snapshot: Snapshot) -> list[str]:
    """Return notes on what the picture leaves open: healthy models without tokens, servers not probed, and so on."""
    keys, undialled = snapshot.unanswered_keys, snapshot.undialled_servers
    silent = [model for model in snapshot.models if model_usability(model) is ModelUsability.UNUSABLE]
    notes = [f"{model.name} gives no tokens: its servers answer, but do not compute" for model in silent]
    if keys:
        notes.append(f"{words.count(keys, 'DHT key')} did not answer: there may be servers that were not seen")
    if undialled:
        servers, were = words.count(undialled, "server"), words.plural(undialled, "was", "were")
        notes.append(f"{servers} {were} not dialled for lack of time: what is announced stands")
    if snapshot.num_conflicts:
        servers = words.count(snapshot.num_conflicts, "server")
        notes.append(f"what {servers} announced is not what dialling found; anyone can write a record")
    if snapshot.refused.total:
        notes.append(f"{words.count(snapshot.refused.total, 'record')} could not be used")
    return [f"Note: {note}." for note in notes]


def _model_lines(model: ModelReport, *, color: bool) -> list[str]:
    lines = [f"{model.name} ({model.state}), {words.count(model.num_blocks, 'block')}"]
    labels = [f"{short_peer_id(server.peer_id)}, {server.throughput:.1f} RPS" for server in model.servers]
    width = max(map(len, labels), default=0)
    for label, server in zip(labels, model.servers, strict=True):
        silent = does_not_compute(server)
        served = (SILENT if silent else CHARACTERS[server.state]) * server.span.length
        if color:
            color_code = _ANSI[PeerState.UNREACHABLE if silent else server.state]
            served = f"\x1b[{color_code}m{served}\x1b[0m"
        left, right = " " * server.span.start, " " * (model.num_blocks - server.span.end)
        relayed = " (relayed)" if server.relayed else ""
        lines.append(f"{label:<{width}} |{left}{served}{right}|{relayed}")
    if not model.servers:
        lines.append("no servers")
    return lines
