"""This module says how a server (or a bootstrap or unknown peer) is, since when, and what its operator can do.

`server_advice` is about what the last crawl found, `check_advice` about what a check found just now. What a server
announces is presented as its claim, and a peer that nobody could probe as a failure of the monitor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from shared import words
from shared.address_text import endpoint, is_public
from shared.advice.advice import Advice, Tone
from shared.advice.commands import DEFAULT_PORT, Place, initial_peers, public_place, run_server
from shared.incidents import Fate
from shared.judgement.usability import against_majority, does_not_compute
from shared.reachability import NOBODY_COULD_LOOK, Cause, Stage, advice, message
from shared.snapshot import PeerState, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.given import GivenDial
    from shared.incidents import LostServer
    from shared.reachability import DialOutcome
    from shared.snapshot import BootstrapPeer, ModelReport, ServerReport, Snapshot
    from shared.store.server_history import ServerRecord

FATES = {
    Fate.OFFLINE: "announced that it goes offline",
    Fate.UNREACHABLE: "could not be reached any more",
    Fate.JOINING: "began to load blocks again",
    Fate.MOVED: "moved to other blocks",
    Fate.GONE: "was no longer announced",
}
"""What became of a server, after its name."""

ASK_AGAIN = "Ask again in a minute."
CHECK_NOW = "Check it now, or look again in a minute."
WAIT = "Wait some minutes. If it stays so for half an hour, read in its log what it waits for."
_NEEDS_PORT = {
    Cause.REFUSED, Cause.TIMEOUT, Cause.NO_HOST_ROUTE, Cause.NO_RELAY_RESERVATION, Cause.RELAY_AWAY,
    Cause.RELAY_REFUSED, Cause.NOT_DIALABLE, Cause.NAME_NOT_RESOLVED, Cause.RELAY_FULL, Cause.WRONG_PEER,
    Cause.NOT_LIBP2P, Cause.RESET,
}  # fmt: skip
"""Causes that go away with a public address and a port that is forwarded to the server."""
_NEEDS_START = {Cause.NO_ADDRESS, Cause.FROZEN, Cause.SILENT_BEHIND_RELAY, Cause.HANDLER_FAILED}
"""Causes that may go away when the server is restarted."""


@dataclass(frozen=True, slots=True)
class Server:
    """What is known of one peer when advice is given. All of it may be missing."""

    peer_id: str
    snapshot: Snapshot | None = None
    shares: tuple[tuple[ModelReport, ServerReport], ...] = ()
    """Its blocks in each model, as the last crawl saw them."""
    bootstrap: BootstrapPeer | None = None

    @classmethod
    def of(cls, peer_id: str, snapshot: Snapshot | None) -> Server:
        if snapshot is None:
            return cls(peer_id)
        shares = tuple(
            (model, server) for model in snapshot.models for server in model.servers if server.peer_id == peer_id
        )
        bootstrap = next((peer for peer in snapshot.bootstrap_peers if peer.peer_id == peer_id), None)
        return cls(peer_id, snapshot, shares, bootstrap)

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(address for _, server in self.shares for address in server.multiaddrs))

    def place(self, your_ip: str = "", addresses: Sequence[str] = ()) -> Place | None:
        """Return the address to announce: that of whoever asks, where it is public, else the announced public one."""
        announced = public_place([*addresses, *self.addresses])
        port = announced.port if announced else _any_port([*addresses, *self.addresses])
        if is_public(your_ip) and ":" not in your_ip:  # --public_ip takes IPv4
            return Place(your_ip, port)
        return announced

    def command(self, place: Place | None = None) -> str:
        """Return how to start this server again with the blocks it has; empty where it has none."""
        if not self.shares:
            return ""
        model, server = self.shares[0]
        blocks = (server.span.start, server.span.end)
        return run_server(
            model,
            blocks=blocks,
            place=place,
            peers=initial_peers(self.snapshot),
            adapters=server.adapters,
            quant_type=server.quant_type,
            torch_dtype=server.torch_dtype,
        )


def server_advice(
    server: Server,
    now: float,
    *,
    record: ServerRecord | None = None,
    lost: LostServer | None = None,
    stale: bool = False,
    your_ip: str = "",
) -> Advice:
    """Say how the last crawl found a peer.

    `record` is its history, `lost` what an incident tells of its end; they serve where the snapshot does not know it.
    `stale` says that the snapshot is too old to be told in the present tense.
    """
    if server.shares:
        found = _announced(server, your_ip)
    elif server.bootstrap is not None:
        found = _bootstrap(server.bootstrap)
    elif record is not None:
        return _vanished(record, now, lost, server)
    else:
        return never_announced(server.snapshot)
    if record is not None:
        online = any(report.state is PeerState.ONLINE for _, report in server.shares)
        found = replace(found, since=_since(record, now, online=online))
    return in_the_past(found, server.snapshot, now) if stale else found


_PAST = (("cannot", "could not"), ("is", "was"), ("announces that it is", "announced that it was"))


def in_the_past(found: Advice, snapshot: Snapshot | None, now: float) -> Advice:
    """Return the advice in the past tense, for a stale snapshot: neither good nor bad news, and the monitor's fault."""
    title, _, _ = found.title.partition(",")
    verb, then = next(pair for pair in _PAST if title.startswith(pair[0]))
    title = then + title.removeprefix(verb) + " when it was last seen"
    age = f", {words.ago(snapshot.taken_at, now)}" if snapshot is not None else ""
    reason = "The monitor has seen nothing newer, which says nothing about the server."
    return Advice(Tone.IDLE, title + age, reason, next_step=CHECK_NOW, ours=True)


def check_advice(server: Server, outcome: DialOutcome, *, your_ip: str = "", given: Sequence[GivenDial] = ()) -> Advice:
    """Say what a check found just now at the addresses that the swarm knows; `given` were dialled beside these."""
    cause = outcome.cause
    if outcome.verdict is Verdict.UNKNOWN or cause in NOBODY_COULD_LOOK:
        reason = (
            f"{message(cause)} This says nothing about the server." if cause else "This says nothing about the server."
        )
        mends = cause in (Cause.NAME_NOT_RESOLVED, Cause.RELAY_FULL, Cause.SAME_NETWORK, Cause.NO_LOCAL_ROUTE)
        return Advice(
            Tone.IDLE, "could not be checked", reason, next_step=_next(server, cause, your_ip, outcome), ours=not mends
        )
    if outcome.verdict is Verdict.REACHABLE:
        return _reached(server, outcome)
    answering = [dial.address for dial in given if dial.outcome.verdict is Verdict.REACHABLE]
    if cause is Cause.NO_ADDRESS and not server.shares and server.bootstrap is None:
        if answering:
            return _not_yet_announced(server.snapshot)
        return never_announced(server.snapshot)
    if (to_announce := public_place(answering)) is not None:
        your_ip = to_announce.ip
        outcome = msgspec.structs.replace(outcome, addresses=(*answering, *outcome.addresses))
    place = server.place(your_ip, outcome.addresses)
    command = server.command(place if cause in _NEEDS_PORT else None) if cause in _NEEDS_PORT | _NEEDS_START else ""
    reason = message(cause) if cause else "The connection failed."
    return Advice(
        Tone.BAD,
        "cannot be reached from here",
        reason,
        next_step=_next(server, cause, your_ip, outcome),
        command=command,
    )


def never_announced(snapshot: Snapshot | None) -> Advice:
    """Say that the swarm does not know an id."""
    return Advice(
        Tone.IDLE,
        "is not known here",
        f"No server of {_swarm(snapshot)} has announced itself under this id: it is mistyped, or the server never "
        "started.",
        next_step=f"Compare the id with the one in the server's log, and start the server{_with_peers(snapshot)}. "
        "It shows up here a minute or two after it has joined.",
    )


def _not_yet_announced(snapshot: Snapshot | None) -> Advice:
    """Say that a peer answers at an address that somebody gave, and that the swarm does not know it."""
    return Advice(
        Tone.WARN,
        f"is not known to {_swarm(snapshot)} yet",
        "It answers at an address that you gave, but clients cannot find it there: it has not announced itself.",
        next_step="If it is loading its blocks, wait: it shows up here a minute or two after it has joined. Otherwise "
        f"compare its log, and start it{_with_peers(snapshot)}.",
    )


def _swarm(snapshot: Snapshot | None) -> str:
    return "this private swarm" if snapshot is not None and snapshot.private_swarm else "the swarm"


def _with_peers(snapshot: Snapshot | None) -> str:
    peers = " ".join(initial_peers(snapshot))
    return f" with --initial_peers {peers}" if peers else ""


def _announced(server: Server, your_ip: str) -> Advice:
    """Return advice for the worst of the server's states, since that one needs its operator."""
    states = {report.state for _, report in server.shares}
    reports = [report for _, report in server.shares]
    if PeerState.UNREACHABLE in states:
        report = next(report for report in reports if report.state is PeerState.UNREACHABLE)
        return _unreachable(server, report, your_ip)
    if PeerState.ONLINE in states:
        return _online(reports)
    model, report = server.shares[0]
    blocks = words.blocks([(report.span.start, report.span.end)])
    if PeerState.JOINING in states:
        return Advice(
            Tone.WARN,
            "is loading its blocks",
            f"It announces that it will serve {blocks} of {words.cut(model.name, 60)}; nobody can use them yet.",
            next_step=WAIT,
        )
    return Advice(
        Tone.IDLE,
        "is offline",
        "It has announced that it goes offline; its announcement expires within minutes.",
        next_step="Start it again, if that was not meant.",
        command=server.command(server.place(your_ip)),
    )


def _online(reports: Sequence[ServerReport]) -> Advice:
    conflict = next((report.conflict for report in reports if report.conflict), None)
    if conflict is not None:
        return Advice(
            Tone.WARN,
            "is online, but differs from its record",
            f"{words.cut(conflict, 400)} Records carry no signature: anyone can write one in this server's name.",
            next_step="Where the server has just been started anew, the old record expires within minutes.",
        )
    if all(report.verdict is Verdict.UNKNOWN for report in reports):
        return Advice(
            Tone.IDLE,
            "announces that it is online",
            "The monitor has not been able to dial it, which says nothing about the server.",
            next_step=CHECK_NOW,
            ours=True,
        )
    relayed = next((report.relayed for report in reports if report.relayed is not None), None)
    reason = f"It announces that it is online, and the monitor connected to it {words.way(relayed)}".rstrip() + "."
    if any(map(does_not_compute, reports)):
        return Advice(
            Tone.WARN,
            "is online, but does not compute",
            f"{reason} The latest inference check got no right numbers from it.",
            next_step="Its own log says more; restart it. What the check found is below.",
        )
    if any(map(against_majority, reports)):
        return Advice(
            Tone.WARN,
            "is online, but its numbers differ",
            f"{reason} Most servers that were given the same input for the same blocks computed something else.",
            next_step="Check that it serves the right weights, revision and quantisation.",
        )
    return Advice(Tone.GOOD, "is online", reason)


def _unreachable(server: Server, report: ServerReport, your_ip: str) -> Advice:
    cause = next((cause for cause in Cause if cause == report.cause), None)
    place = server.place(your_ip)
    next_step = advice(cause, place.flags) if cause is not None and place is not None else advice(cause or Cause.OTHER)
    reason = "It announces that it is online, but the monitor could not connect to it."
    return Advice(
        Tone.BAD,
        "cannot be reached from here",
        f"{reason} {what_failed(report.cause, report.error)}".strip(),
        next_step=next_step,
        command=server.command(place) if cause is None or cause in _NEEDS_PORT | _NEEDS_START else "",
    )


def what_failed(cause: str | None, error: str | None) -> str:
    """Return what a probe found in one sentence: the cause's, or the error where its cause is not known here."""
    known = next((each for each in Cause if each == cause), None)
    return words.sentence(words.cut(error or "", 400)) if known is None else message(known)


def _bootstrap(peer: BootstrapPeer) -> Advice:
    what = "It lets clients and servers join the swarm, and announces no blocks itself."
    if peer.verdict is Verdict.UNREACHABLE:
        error = f" {words.sentence(words.cut(peer.error, 400))}" if peer.error else ""
        return Advice(
            Tone.BAD,
            "is a bootstrap peer that cannot be reached from here",
            f"{what} The monitor could not connect to it.{error}",
            next_step="Its operator starts it again, or opens its port. Others join through other bootstrap peers.",
        )
    if peer.verdict is Verdict.UNKNOWN:
        return Advice(
            Tone.IDLE,
            "is a bootstrap peer",
            f"{what} The monitor has not been able to dial it.",
            next_step=ASK_AGAIN,
            ours=True,
        )
    return Advice(Tone.GOOD, "is a bootstrap peer", f"{what} The monitor connected to it.")


def _vanished(record: ServerRecord, now: float, lost: LostServer | None, server: Server) -> Advice:
    announced = words.ago(record.last_seen, now)
    online = f"last online {words.ago(record.last_online, now)}" if record.last_online else "never found online"
    where = f" It held {words.blocks([(lost.start, lost.end)])}, and {FATES[lost.fate]}." if lost is not None else ""
    return Advice(
        Tone.IDLE,
        "has left the swarm",
        f"No record of it is left: it was stopped, or lost its connection.{where}",
        since=f"It was last announced {announced}, and {online}."
        if online != f"last online {announced}"
        else f"It was last announced and online {announced}.",
        next_step="If it still runs, its log says whether it is connected; start it again if it is not.",
    )


def _since(record: ServerRecord, now: float, *, online: bool) -> str:
    if online:
        return f"It has been online for {words.about(now - record.online_since)}." if record.online_since else ""
    if not record.last_online:
        return f"No crawl has found it online since it was first seen, {words.ago(record.first_seen, now)}."
    return f"It was last online {words.ago(record.last_online, now)}."


def _reached(server: Server, outcome: DialOutcome) -> Advice:
    connected = f"The monitor connected to it {words.way(outcome.relayed)}".rstrip() + "."
    if outcome.protocol_ok is not False:
        return Advice(
            Tone.GOOD, "can be reached", f"{connected} Other peers can connect to it, as far as can be seen from here."
        )
    if server.bootstrap is not None and not server.shares:
        return Advice(
            Tone.GOOD,
            "can be reached",
            f"{connected} It is a bootstrap peer: it lets others join, and serves no blocks.",
        )
    if outcome.stage is Stage.PROTOCOL and outcome.cause is Cause.HANDLER_FAILED:
        return Advice(
            Tone.WARN,
            "can be reached, but does not answer for its blocks",
            f"{connected} {message(Cause.HANDLER_FAILED)}",
            next_step=advice(Cause.HANDLER_FAILED),
            command=server.command(),
        )
    if server.shares:
        return Advice(
            Tone.WARN,
            "can be reached, but serves no blocks yet",
            f"{connected} It announces blocks, which it may still be loading.",
            next_step=WAIT,
        )
    if server.snapshot is None:
        return Advice(
            Tone.WARN,
            "can be reached, but serves no blocks",
            f"{connected} It is no Petals server, or has not loaded its blocks yet.",
            next_step=WAIT,
        )
    return Advice(
        Tone.WARN,
        "can be reached, but announces no blocks",
        f"{connected} It is no Petals server, or has not begun to load blocks.",
        next_step="If it is a Petals server, wait until its log says that it has announced its blocks.",
    )


def _next(server: Server, cause: Cause | None, your_ip: str, outcome: DialOutcome) -> str:
    if cause is None:
        return ASK_AGAIN
    place = server.place(your_ip, outcome.addresses)
    return advice(cause) if place is None else advice(cause, place.flags)


def _any_port(addresses: Sequence[str]) -> int:
    """Return the TCP port of a direct address, private ones too: the server listens on it."""
    ports = (at.tcp_port for at in map(endpoint, addresses) if at.direct_ip is not None)
    return next((port for port in ports if port is not None), DEFAULT_PORT)
