"""This module says how the last crawl found a server (or a bootstrap or unknown peer), and what its operator can do.

What a server announces is presented as its claim, and a peer that nobody could probe as a failure of the monitor.
`shared.advice.checks` says what a check found just now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shared import words
from shared.address_text import endpoint, is_public
from shared.advice.advice import Advice, Tone, past_title
from shared.advice.causes import NOT_MENDED, advice, message
from shared.advice.commands import DEFAULT_PORT, PublicAddress, initial_peers, public_address, run_server
from shared.incidents import FATES
from shared.judgement.usability import against_majority, does_not_compute
from shared.reachability import Cause
from shared.snapshot import PeerState, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.incidents import LostServer
    from shared.snapshot import BootstrapPeer, ModelReport, ServerReport, Snapshot
    from shared.store.server_history import ServerRecord

ASK_AGAIN = "Ask again in a minute."
CHECK_NOW = "Check it now, or look again in a minute."
WAIT = "Wait some minutes. If it stays so for half an hour, read in its log what it waits for."


@dataclass(frozen=True, slots=True)
class Server:
    """What is known of one peer when advice is given. All of it may be missing."""

    snapshot: Snapshot | None = None
    shares: tuple[tuple[ModelReport, ServerReport], ...] = ()
    """Its blocks in each model, as the last crawl saw them."""
    bootstrap: BootstrapPeer | None = None

    @classmethod
    def of(cls, peer_id: str, snapshot: Snapshot | None) -> Server:
        if snapshot is None:
            return cls()
        shares = tuple(
            (model, server) for model in snapshot.models for server in model.servers if server.peer_id == peer_id
        )
        bootstrap = next((peer for peer in snapshot.bootstrap_peers if peer.peer_id == peer_id), None)
        return cls(snapshot, shares, bootstrap)

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(address for _, server in self.shares for address in server.multiaddrs))

    def address_to_announce(self, your_ip: str = "", addresses: Sequence[str] = ()) -> PublicAddress | None:
        """Return that of whoever asks, where it is public, else the announced public one. `addresses` count first."""
        known = [*addresses, *self.addresses]
        announced = public_address(known)
        if not is_public(your_ip) or ":" in your_ip:  # --public_ip takes IPv4
            return announced
        return PublicAddress(your_ip, announced.port if announced else _any_port(known))

    def command(self, address: PublicAddress | None = None) -> str:
        """Return how to start this server again with the blocks it has; empty where it has none."""
        if not self.shares:
            return ""
        model, server = self.shares[0]
        return run_server(
            model,
            blocks=(server.span.start, server.span.end),
            address=address,
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
) -> Advice:
    """Say how the last crawl found a peer.

    `record` is its history, `lost` what an incident tells of its end; they serve where the snapshot does not know it.
    `stale` says that the snapshot is too old to be told in the present tense.
    """
    if server.shares:
        found = _announced(server)
    elif server.bootstrap is not None:
        found = _bootstrap(server.bootstrap)
    elif record is not None:
        return _vanished(record, now, lost)
    else:
        return never_announced(server.snapshot)
    if stale and server.snapshot is not None:
        title = past_title(found.title, server.snapshot.taken_at, now)
        reason = "The monitor has seen nothing newer, which says nothing about the server."
        return Advice(Tone.IDLE, title, reason, CHECK_NOW, ours=True)
    if record is None:
        return found
    online = any(report.state is PeerState.ONLINE for _, report in server.shares)
    return replace(found, since=_since(record, now, online=online))


def never_announced(snapshot: Snapshot | None) -> Advice:
    """Say that the swarm does not know an id."""
    return Advice(
        Tone.IDLE,
        "is not known here",
        f"No server of {swarm_name(snapshot)} has announced itself under this id: it is mistyped, or the server never "
        "started.",
        f"Compare the id with the one in the server's log, and start the server{with_peers(snapshot)}. "
        "It shows up here a minute or two after it has joined.",
    )


def swarm_name(snapshot: Snapshot | None) -> str:
    """Return what the swarm is called in a sentence."""
    return "this private swarm" if snapshot is not None and snapshot.private_swarm else "the swarm"


def with_peers(snapshot: Snapshot | None) -> str:
    """Return the option that joins a private swarm, for a sentence; empty for the public one."""
    peers = " ".join(initial_peers(snapshot))
    return f" with --initial_peers {peers}" if peers else ""


def _announced(server: Server) -> Advice:
    """Return advice for the worst of the server's states, since that one needs its operator."""
    shares = {share[1].state: share for share in reversed(server.shares)}  # the first of each state
    if PeerState.UNREACHABLE in shares:
        _, report = shares[PeerState.UNREACHABLE]
        failed = what_failed(report.cause, report.error)
        reason = f"It announces that it is online, but the monitor could not connect to it. {failed}".strip()
        return cannot_be_reached(server, _known(report.cause), reason, server.address_to_announce())
    if PeerState.ONLINE in shares:
        return _online([report for _, report in server.shares])
    if PeerState.JOINING in shares:
        model, report = shares[PeerState.JOINING]
        blocks = words.blocks([(report.span.start, report.span.end)])
        reason = f"It announces that it will serve {blocks} of {words.cut(model.name, 60)}; nobody can use them yet."
        return Advice(Tone.WARN, "is loading its blocks", reason, WAIT)
    return Advice(
        Tone.IDLE,
        "is offline",
        "It has announced that it goes offline; its announcement expires within minutes.",
        "Start it again, if that was not meant.",
        server.command(server.address_to_announce()),
    )


def _online(reports: Sequence[ServerReport]) -> Advice:
    if conflict := next((report.conflict for report in reports if report.conflict), None):
        return Advice(
            Tone.WARN,
            "is online, but differs from its record",
            f"{words.cut(conflict, 400)} Records carry no signature: anyone can write one in this server's name.",
            "Where the server has just been started anew, the old record expires within minutes.",
        )
    if all(report.verdict is Verdict.UNKNOWN for report in reports):
        reason = "The monitor has not been able to dial it, which says nothing about the server."
        return Advice(Tone.IDLE, "announces that it is online", reason, CHECK_NOW, ours=True)
    relayed = next((report.relayed for report in reports if report.relayed is not None), None)
    reason = f"It announces that it is online, and the monitor connected to it {words.way(relayed)}".rstrip() + "."
    if any(map(does_not_compute, reports)):
        reason += " The latest inference check got no right numbers from it."
        next_step = "Its own log says more; restart it. What the check found is below."
        return Advice(Tone.WARN, "is online, but does not compute", reason, next_step)
    if any(map(against_majority, reports)):
        reason += " Most servers that were given the same input for the same blocks computed something else."
        next_step = "Check that it serves the right weights, revision and quantisation."
        return Advice(Tone.WARN, "is online, but its numbers differ", reason, next_step)
    return Advice(Tone.GOOD, "is online", reason)


def cannot_be_reached(server: Server, cause: Cause | None, reason: str, address: PublicAddress | None) -> Advice:
    """Say why a peer was not reached; `address` is the public one that it should announce, None where none is known."""
    command = "" if cause in NOT_MENDED else server.command(address)
    return Advice(Tone.BAD, "cannot be reached from here", reason, what_to_do(cause or Cause.OTHER, address), command)


def what_to_do(cause: Cause, address: PublicAddress | None) -> str:
    """Return what the operator can do, with the flags of that address."""
    return advice(cause) if address is None else advice(cause, address.flags)


def what_failed(cause: str | None, error: str | None) -> str:
    """Return what a probe found in one sentence: the cause's, or the error where its cause is not known here."""
    known = _known(cause)
    return words.sentence(words.cut(error or "", 400)) if known is None else message(known)


def _known(cause: str | None) -> Cause | None:
    """Return a cause of a snapshot; None where another version of the crawler named one that is not known here."""
    return next((each for each in Cause if each == cause), None)


def _bootstrap(peer: BootstrapPeer) -> Advice:
    what = "It lets clients and servers join the swarm, and announces no blocks itself."
    match peer.verdict:
        case Verdict.REACHABLE:
            return Advice(Tone.GOOD, "is a bootstrap peer", f"{what} The monitor connected to it.")
        case Verdict.UNKNOWN:
            reason = f"{what} The monitor has not been able to dial it."
            return Advice(Tone.IDLE, "is a bootstrap peer", reason, ASK_AGAIN, ours=True)
        case Verdict.UNREACHABLE:
            return Advice(
                Tone.BAD,
                "is a bootstrap peer that cannot be reached from here",
                f"{what} The monitor could not connect to it. {what_failed(None, peer.error)}".rstrip(),
                "Its operator starts it again, or opens its port. Others join through other bootstrap peers.",
            )


def _vanished(record: ServerRecord, now: float, lost: LostServer | None) -> Advice:
    announced, online = words.ago(record.last_seen, now), "never found online"
    if record.last_online:
        online = f"last online {words.ago(record.last_online, now)}"
    since = f"It was last announced {announced}, and {online}."
    if online == f"last online {announced}":
        since = f"It was last announced and online {announced}."
    held = f" It held {words.blocks([(lost.start, lost.end)])}, and {FATES[lost.fate]}." if lost is not None else ""
    reason = f"No record of it is left: it was stopped, or lost its connection.{held}"
    next_step = "If it still runs, its log says whether it is connected; start it again if it is not."
    return Advice(Tone.IDLE, "has left the swarm", reason, next_step, since=since)


def _since(record: ServerRecord, now: float, *, online: bool) -> str:
    if online:
        return f"It has been online for {words.about(now - record.online_since)}." if record.online_since else ""
    if not record.last_online:
        return f"No crawl has found it online since it was first seen, {words.ago(record.first_seen, now)}."
    return f"It was last online {words.ago(record.last_online, now)}."


def _any_port(addresses: Sequence[str]) -> int:
    """Return the TCP port of a direct address, private ones too: the server listens on it."""
    ports = (at.tcp_port for at in map(endpoint, addresses) if at.direct_ip is not None)
    return next((port for port in ports if port is not None), DEFAULT_PORT)
