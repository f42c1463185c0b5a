"""This module says in words why a probe failed, and what the peer's operator can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.address_text import endpoint, is_public
from shared.reachability import Cause
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from shared.reachability import DialOutcome

_WORDS: dict[Cause, tuple[str, str]] = {
    Cause.NO_ADDRESS: (
        "No address of this peer is known to the swarm.",
        (
            "The peer is not connected to the swarm, or the id is wrong. Start the server, and check that its log "
            "says it has joined the swarm's initial peers."
        ),
    ),
    Cause.REFUSED: (
        "The connection was refused: nothing listens on the announced port.",
        "Check that the server runs, that its port is forwarded to it, and that no firewall rejects it ({flags}).",
    ),
    Cause.TIMEOUT: (
        "No answer to the connection attempt in time: a firewall may be dropping it.",
        (
            "Open the server's TCP port in the firewall and forward it in the router, then start the server with "
            "{flags}. Behind NAT, wait a few minutes until it finds a relay."
        ),
    ),
    Cause.FROZEN: (
        "The port accepts connections, but the peer behind it does not answer.",
        (
            "The process may be stopped, swapping or overloaded, or another program listens on the port. "
            "Restart the server if it does not recover."
        ),
    ),
    Cause.BACKOFF: (
        "The peer did not answer a moment ago, and the next attempt is not due yet.",
        "Ask again in about 20 seconds.",
    ),
    Cause.NO_HOST_ROUTE: (
        "The announced address is not routable.",
        "The announced IP address is wrong or unreachable from the Internet; start the server with {flags}.",
    ),
    Cause.RESET: (
        "The connection was cut while it was being set up.",
        "A firewall or a proxy between the Internet and the server may be cutting connections.",
    ),
    Cause.WRONG_PEER: (
        "Another peer answers on the announced address.",
        "The address or port belongs to another libp2p node: check the port forwarding and --announce_maddrs.",
    ),
    Cause.NOT_LIBP2P: (
        "Something that is not a libp2p node answers on the announced address.",
        "Another program listens on the announced port: check the port forwarding and --announce_maddrs.",
    ),
    Cause.NO_RELAY_RESERVATION: (
        "The peer announces a relay, but has no place on it now.",
        "Wait a few minutes until the server finds a relay again, or open a port and use {flags}.",
    ),
    Cause.RELAY_AWAY: (
        "The relay that the peer announces does not answer.",
        (
            "The server finds another relay by itself within some minutes, or after a restart. Better: forward a port "
            "and start the server with {flags}, so that it needs no relay."
        ),
    ),
    Cause.RELAY_REFUSED: (
        "The relay that the peer announces refuses to connect to it.",
        "Restart the server, so that it looks for another relay, or forward a port and use {flags}.",
    ),
    Cause.SILENT_BEHIND_RELAY: (
        "The peer's relay answers, but the peer behind it does not.",
        "The process may be stopped or overloaded, or has lost its network. Restart the server if it does not recover.",
    ),
    Cause.NOT_DIALABLE: (
        "The peer announces only addresses that cannot be dialled from here (private or unsupported ones).",
        "Announce a public address: start the server with {flags}.",
    ),
    Cause.PROTOCOL_MISSING: (
        "The peer answers, but serves no Petals blocks yet.",
        "Normal while a server loads its blocks; it is reachable.",
    ),
    Cause.HANDLER_FAILED: ("The peer answers, but its Petals handler failed.", "See the server's own log."),
    Cause.OTHER: ("The connection failed.", "See the error's text."),
    Cause.LOOKUP_UNFINISHED: (
        "The search for the peer's address did not end in time.",
        "Ask again in a minute: some nodes of the swarm answer slowly.",
    ),
    Cause.NO_LOCAL_ROUTE: (
        "This monitor has no route to the peer's kind of address (IPv6, for example).",
        "The peer may well be reachable for others.",
    ),
    Cause.NAME_NOT_RESOLVED: (
        "The host name in the peer's address does not resolve here.",
        "Check the name, or announce an IP address: start the server with {flags}.",
    ),
    Cause.SAME_NETWORK: (
        "The peer announces the address of the monitor's own router, which may not let the monitor in from inside.",
        "Ask from outside this network: another monitor, or a client elsewhere.",
    ),
    Cause.RELAY_FULL: (
        "The peer's relay has no room for another connection at this moment.",
        "Ask again in a minute; if it stays so, forward a port and use {flags}.",
    ),
    Cause.NODE_UNFIT: ("The monitor's own node is cut off from the swarm.", "Ask again in a minute."),
    Cause.NO_SLOT: ("The monitor is too busy to look in time.", "Ask again in a minute."),
    Cause.EXPIRED: ("The check expired before a worker could take it.", "Ask again in a minute."),
}
"""By cause: what was observed, and what the peer's operator can do about it."""
MENDED_BY_RESTART = {Cause.NO_ADDRESS, Cause.FROZEN, Cause.SILENT_BEHIND_RELAY, Cause.HANDLER_FAILED}
"""Causes that may go away when the server is restarted as it was; most others need a public address or a port."""
NOT_MENDED = {Cause.BACKOFF, Cause.PROTOCOL_MISSING, Cause.OTHER}
"""Causes that no command mends."""
NOT_OURS = {Cause.NAME_NOT_RESOLVED, Cause.RELAY_FULL, Cause.SAME_NETWORK, Cause.NO_LOCAL_ROUTE}
"""Causes for which nobody could look, and which are no fault of the monitor."""


def message(cause: Cause) -> str:
    """Return one sentence that says what was observed."""
    return _WORDS[cause][0]


def advice(cause: Cause, flags: str = "--public_ip IP --port PORT") -> str:
    """Return what the peer's operator can do; `flags` are those of `run_server` with this server's own address."""
    return _WORDS[cause][1].replace("{flags}", flags)


def explanation(outcome: DialOutcome) -> str | None:
    """Return the cause in words, with the daemon's own behind it; None where the peer was reached."""
    if outcome.cause is None or outcome.verdict is Verdict.REACHABLE:
        return None
    return f"{message(outcome.cause)} ({outcome.error})" if outcome.error else message(outcome.cause)


def hints(outcome: DialOutcome, your_ip: str) -> list[str]:
    """Return what an unreachable peer's operator can change, given the addresses it announces and the client's IP."""
    if outcome.verdict is not Verdict.UNREACHABLE or not is_public(your_ip):
        return []
    announced = {ip for address in outcome.addresses if (ip := endpoint(address).direct_ip) is not None}
    public = {ip for ip in announced if is_public(ip)}
    mend = f"start the server with --public_ip {your_ip} --port PORT, and forward that port to it"
    if announced and not public:
        relayed = any(endpoint(address).relayed for address in outcome.addresses)
        no_relay = "" if relayed else " Without a port, leave automatic relays on (do not pass --no_auto_relay)."
        return [f"All addresses that the server announces are private ones: {mend}.{no_relay}"]
    if public and your_ip not in public:
        return [f"The server announces {', '.join(sorted(public))}, but asks from {your_ip}: {mend}."]
    return []
