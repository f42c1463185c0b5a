"""This module defines a reachability check and a worker's answer to it, and the words for each cause.

`Verdict.UNKNOWN` means that nobody could probe the peer; it is never shown as "unreachable".
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from shared.address_text import endpoint, is_public
from shared.inference import ServerInference  # noqa: TC001 - msgspec reads the annotation
from shared.snapshot import Seconds, UnixSeconds, Verdict, check_times

if TYPE_CHECKING:
    from collections.abc import Sequence

QUEUE_PREFIX = "reachability"
CHECK_FUNCTION = "reachability_worker.check_peer"
"""The only job that workers accept. It is a name, not an import path: nothing that Redis names is imported."""

ANSWER_WITHIN = 9.0
"""Seconds from request to answer. A Petals server waits 10, then starts unchecked."""
DIAL_TIMEOUT = 5.0
"""Seconds that one dial may take, where the request's deadline leaves as much."""
WORKER_LEASE = 3.0
"""Seconds for which a worker counts as alive after it last said so; it says so every second."""
MAX_QUEUED = 5_000
"""Checks that may wait for a worker; more are refused at once."""
REPLIES_KEPT = 20_000
"""Replies in the stream. A waiter that was cut off longer than these take asks again."""
RENEWAL = 2
"""Seconds for which a started check counts as being worked on; its worker renews that every second."""
MAX_ANSWER_BYTES = 256 * 1024
"""A peer may have many addresses; its error is cut."""
VANTAGE_PATTERN = r"^[a-z0-9][a-z0-9-]{0,31}$"


class Stage(StrEnum):
    """How far a check came."""

    QUEUE = "queue"
    LOOKUP = "lookup"
    DIAL = "dial"
    SECURITY = "security"
    PROTOCOL = "protocol"
    ANSWERED = "answered"


class Cause(StrEnum):
    """Why a check ended short of an answer."""

    NO_ADDRESS = "no_address"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    FROZEN = "frozen"
    BACKOFF = "backoff"
    NO_HOST_ROUTE = "no_host_route"
    RESET = "reset"
    WRONG_PEER = "wrong_peer"
    NOT_LIBP2P = "not_libp2p"
    NO_RELAY_RESERVATION = "no_relay_reservation"
    RELAY_AWAY = "relay_away"
    RELAY_REFUSED = "relay_refused"
    SILENT_BEHIND_RELAY = "silent_behind_relay"
    NOT_DIALABLE = "not_dialable"
    PROTOCOL_MISSING = "protocol_missing"
    HANDLER_FAILED = "handler_failed"
    OTHER = "other"
    # Nobody could probe it:
    LOOKUP_UNFINISHED = "lookup_unfinished"
    NO_LOCAL_ROUTE = "no_local_route"
    NAME_NOT_RESOLVED = "name_not_resolved"
    SAME_NETWORK = "same_network"
    RELAY_FULL = "relay_full"
    NODE_UNFIT = "node_unfit"
    NO_SLOT = "no_slot"
    EXPIRED = "expired"


NOBODY_COULD_LOOK = frozenset(
    {
        Cause.LOOKUP_UNFINISHED,
        Cause.NO_LOCAL_ROUTE,
        Cause.NAME_NOT_RESOLVED,
        Cause.SAME_NETWORK,
        Cause.RELAY_FULL,
        Cause.NODE_UNFIT,
        Cause.NO_SLOT,
        Cause.EXPIRED,
    }
)

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
        ("Check that the server runs, that its port is forwarded to it, and that no firewall rejects it ({flags})."),
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
        ("Restart the server, so that it looks for another relay, or forward a port and use {flags}."),
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


def message(cause: Cause) -> str:
    """One sentence that says what was observed."""
    return _WORDS[cause][0]


def advice(cause: Cause, flags: str = "--public_ip IP --port PORT") -> str:
    """What the peer's operator can do about it; `flags` are those of `run_server` with this server's own address."""
    return _WORDS[cause][1].replace("{flags}", flags)


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


class DialOutcome(msgspec.Struct, frozen=True):
    """What one probe of one peer found."""

    verdict: Verdict
    stage: Stage
    cause: Cause | None = None
    error: str | None = None
    """The daemon's error text, cleaned and cut."""
    addresses: tuple[str, ...] = ()
    """Multiaddrs that were used, tried or known, without the peer id."""
    known: tuple[str, ...] = ()
    """Of a peer that was reached: all that the swarm knew by then, where `addresses` are those that were used."""
    reached_at: str | None = None
    """The remote address of the connection that worked, for those who ask; a circuit's where it led over a relay."""
    relayed: bool | None = None
    """Whether the way that worked led over a relay; None where none worked."""
    relay: str | None = None
    """Peer id of the relay that the way led over, or that failed."""
    rtt: Seconds | None = None
    """From the start of the connection to its first answer."""
    protocol_ok: bool | None = None
    """Whether the peer serves `rpc_info`; None where it was not asked or did not answer."""
    durations: dict[str, Seconds] = {}
    """By `Stage`, of the stages that the probe came to: lookup, dial (with security), protocol."""

    @classmethod
    def unknown(cls, cause: Cause, *, stage: Stage = Stage.QUEUE, error: str | None = None) -> DialOutcome:
        return cls(Verdict.UNKNOWN, stage, cause, error)

    @property
    def explanation(self) -> str | None:
        """A sentence for people and the daemon's words behind it; None where all went well."""
        if self.cause is None or self.verdict is Verdict.REACHABLE:
            return None
        return f"{message(self.cause)} ({self.error})" if self.error else message(self.cause)


class Answer(msgspec.Struct, frozen=True):
    """A worker's reply to one check."""

    peer_id: str
    vantage: str
    checked_at: UnixSeconds
    outcome: DialOutcome
    request_id: str = ""
    """Id of the request that the worker probed for; a verdict that is used again keeps its first one."""
    traceparent: str = ""
    """The probe's span, where probes are traced: requests that share it link to it."""
    inference: ServerInference | None = None
    """What a step of inference showed, where one was asked for and the peer was reached."""
    address: str = ""
    """The multiaddr that was dialled as somebody gave it, with the peer's id. `peer_id` is empty then, so that nobody
    takes this for an answer about the peer."""


def address_subject(address: str) -> str:
    """Return what a job is about that dials a given multiaddr: it shares no name with checks of the peer."""
    return f"at-{hashlib.sha256(address.encode()).hexdigest()[:32]}"


def job_subject(peer_id: str, *, inference: bool) -> str:
    """Return what a job is about: its id is this and a nonce, its verdict and its in-flight key are named so.

    So a verdict without an inference check never answers a request for one, and a server computes for one at a time.
    """
    return f"{peer_id}-inference" if inference else peer_id


def decide(answers: Sequence[Answer]) -> Answer:
    """Return the decisive answer: a peer is reachable if anyone reached it, else unreachable if anyone probed it."""
    decisive = list(Verdict)
    return min(answers, key=lambda answer: (decisive.index(answer.outcome.verdict), answer.vantage))


_answer_encoder = msgspec.json.Encoder()
_answer_decoder = msgspec.json.Decoder(Answer)


def encode_answer(answer: Answer) -> bytes:
    return _answer_encoder.encode(answer)


def decode_answer(data: bytes) -> Answer:
    """Return a worker's answer. Whatever this raises, `stored.read` refuses the entry."""
    if len(data) > MAX_ANSWER_BYTES:
        raise ValueError("not an answer: too large")
    answer = _answer_decoder.decode(data)
    if re.fullmatch(VANTAGE_PATTERN, answer.vantage) is None or bool(answer.peer_id) is bool(answer.address):
        raise ValueError("not an answer: no vantage point, or not one peer or address")
    if (found := answer.inference) is not None:
        check_times(found.checked_at, found.seconds_first_step, found.seconds_per_step)
    return answer


def queue_name(vantage: str) -> str:
    """Return the name of the RQ queue that the workers of one vantage point read."""
    return f"{QUEUE_PREFIX}-{vantage}"
