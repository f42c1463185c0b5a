"""This module defines a reachability check and a worker's answer to it.

`Verdict.UNKNOWN` means that nobody could probe the peer; it is never shown as "unreachable".
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

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
