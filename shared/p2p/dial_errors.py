"""This module classifies p2pd's error texts of failed dials; nothing else reads them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from shared.reachability import NOBODY_COULD_LOOK, Cause, DialOutcome, Stage
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_ERROR_CHARS = 300
MAX_ADDRESSES = 16


class _Sign(NamedTuple):
    words: str
    stage: Stage
    cause: Cause


_OTHER_DIAL_SUCCEEDED = "concurrent active dial succeeded"
_OUR_CONNECTION_CLOSED = "session shutdown"
_NOT_CONNECTED = "failed to dial"

# The most specific first: the first sign that the error text holds decides.
_SIGNS = (
    _Sign(_OTHER_DIAL_SUCCEEDED, Stage.DIAL, Cause.NODE_UNFIT),
    _Sign("protocols not supported", Stage.PROTOCOL, Cause.PROTOCOL_MISSING),
    _Sign("protocol not supported", Stage.PROTOCOL, Cause.PROTOCOL_MISSING),
    _Sign("failed to find any peer in table", Stage.LOOKUP, Cause.NODE_UNFIT),
    _Sign("routing: not found", Stage.LOOKUP, Cause.NO_ADDRESS),
    _Sign("peer id mismatch", Stage.SECURITY, Cause.WRONG_PEER),
    _Sign("negotiate security protocol: context deadline", Stage.SECURITY, Cause.FROZEN),
    _Sign("negotiate security protocol: read tcp", Stage.SECURITY, Cause.RESET),
    _Sign("negotiate security protocol: EOF", Stage.SECURITY, Cause.RESET),
    _Sign("message did not have trailing newline", Stage.SECURITY, Cause.NOT_LIBP2P),
    _Sign("negotiate security protocol", Stage.SECURITY, Cause.NOT_LIBP2P),
    _Sign("negotiate stream multiplexer", Stage.SECURITY, Cause.FROZEN),
    _Sign("connection refused", Stage.DIAL, Cause.REFUSED),
    _Sign("connection reset", Stage.DIAL, Cause.RESET),
    _Sign("i/o timeout", Stage.DIAL, Cause.TIMEOUT),
    _Sign("context deadline exceeded", Stage.DIAL, Cause.TIMEOUT),
    _Sign("no route to host", Stage.DIAL, Cause.NO_HOST_ROUTE),
    _Sign("dial backoff", Stage.DIAL, Cause.BACKOFF),
    _Sign("network is unreachable", Stage.DIAL, Cause.NO_LOCAL_ROUTE),
    _Sign("cannot assign requested address", Stage.DIAL, Cause.NO_LOCAL_ROUTE),
    _Sign("no good addresses", Stage.DIAL, Cause.NOT_DIALABLE),
    _Sign("no addresses", Stage.DIAL, Cause.NOT_DIALABLE),
    _Sign("dial to self attempted", Stage.DIAL, Cause.NOT_DIALABLE),
)

# Statuses of a relay that refuses: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md#status-codes
_CIRCUIT_SIGNS = (
    _Sign(_OTHER_DIAL_SUCCEEDED, Stage.DIAL, Cause.NODE_UNFIT),
    _Sign(_OUR_CONNECTION_CLOSED, Stage.DIAL, Cause.NODE_UNFIT),
    _Sign("dial backoff", Stage.DIAL, Cause.BACKOFF),
    _Sign("NO_RESERVATION", Stage.DIAL, Cause.NO_RELAY_RESERVATION),
    _Sign("RESOURCE_LIMIT_EXCEEDED", Stage.DIAL, Cause.RELAY_FULL),
    _Sign("RESERVATION_REFUSED", Stage.DIAL, Cause.RELAY_REFUSED),
    _Sign("PERMISSION_DENIED", Stage.DIAL, Cause.RELAY_REFUSED),
    _Sign("CONNECTION_FAILED", Stage.DIAL, Cause.SILENT_BEHIND_RELAY),
    _Sign("protocols not supported", Stage.DIAL, Cause.RELAY_REFUSED),
    _Sign("error opening hop stream", Stage.DIAL, Cause.RELAY_AWAY),
    _Sign("peer id mismatch", Stage.SECURITY, Cause.WRONG_PEER),
    _Sign("deadline exceeded", Stage.DIAL, Cause.SILENT_BEHIND_RELAY),
)

MAX_WORDS = 16 * 1024
"""Characters of an error text that are read: p2pd's own are shorter, a peer's may be megabytes."""
# Each part that repeats has an end, so that no text makes the search quadratic: peers choose what stands in an error.
_REASON = re.compile(r"^ {0,8}\* \[(?P<address>[^\]\s]{1,256})\](?P<reason>.*)", re.MULTILINE)
_PREAMBLE = re.compile(r"failed to dial:? |all dials failed\s{0,8}|(12D3KooW|Qm)\w{1,64}: ")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")


def was_cut_short(words: str) -> bool:
    """Whether the dial should be made again: another one of the same peer succeeded, or our way to a relay ended."""
    return _OTHER_DIAL_SUCCEEDED in words or _OUR_CONNECTION_CLOSED in words


def classify(*failures: str) -> DialOutcome:
    """Return the outcome of one probe's failed dials, given their error texts in any order.

    An unknown text is `Cause.OTHER`, a failure like others. An address of which all texts have "dial backoff" was not
    dialled in this probe: then the outcome is `Cause.BACKOFF`, whatever the other addresses, which anyone may have made
    up, came to.
    """
    words = "\n".join(dict.fromkeys(failures))[:MAX_WORDS]
    dialled: dict[str, bool] = {}
    for address, reason in _REASON.findall(words):
        dialled[address] = dialled.get(address) or "dial backoff" not in reason
    outcome = _signified(_SIGNS, words) if all(dialled.values()) else _outcome(Stage.DIAL, Cause.BACKOFF, words)
    return msgspec.structs.replace(
        outcome,
        addresses=tuple(dialled)[:MAX_ADDRESSES],
        protocol_ok=False if outcome.cause is Cause.PROTOCOL_MISSING else None,
    )


def classify_circuit(words: str, relay: str, *, relay_away: bool) -> DialOutcome:
    """Return the outcome of a failed circuit, given its error text; `relay_away`: the relay itself was not reached."""
    if relay_away:
        outcome = classify(words)
        if outcome.cause is not Cause.BACKOFF and outcome.cause not in NOBODY_COULD_LOOK:
            outcome = _outcome(Stage.DIAL, Cause.RELAY_AWAY, words)
    else:
        outcome = _signified(_CIRCUIT_SIGNS, words)
    return msgspec.structs.replace(outcome, relay=relay)


class Failure(NamedTuple):
    """Why one dial of a peer failed."""

    words: str
    """The daemon's error text."""
    relay: str | None = None
    """The relay that was used; None for a direct dial."""
    relay_away: bool = False
    """Whether the relay itself was not reached."""
    cause: Cause | None = None
    """The cause, where it is known without the error text."""


_DECISIVE = (Cause.NODE_UNFIT, Cause.BACKOFF, Cause.RELAY_FULL, Cause.NAME_NOT_RESOLVED)
"""Causes of dials that were not made, or that another dial ended; they decide before those of dials that failed."""


def outcome_of(failures: Sequence[Failure]) -> DialOutcome:
    """Return the outcome of a peer's failed dials, of which there is at least one.

    An address that could not be dialled may be the one that works, so it decides (but not where a route is missing, as
    to IPv6 addresses in many networks). Next comes a relay's failure: a peer that uses a relay expects no direct dials.
    """
    outcomes = [
        classify_circuit(one.words, one.relay, relay_away=one.relay_away) for one in failures if one.relay is not None
    ]
    outcomes += [_outcome(Stage.LOOKUP, one.cause, one.words) for one in failures if one.cause is not None]
    if direct := [one.words for one in failures if one.relay is None and one.cause is None]:
        outcomes.append(classify(*direct))

    first = min(outcomes, key=lambda one: (one.cause not in _DECISIVE, one.verdict is not Verdict.UNREACHABLE))
    words = "; ".join(dict.fromkeys(one.error for one in outcomes if one.error))
    return msgspec.structs.replace(first, error=words[:MAX_ERROR_CHARS] or None)


def _signified(signs: Sequence[_Sign], words: str) -> DialOutcome:
    """Return the outcome by the first of these signs that the error text holds.

    Of a peer that was not connected nobody knows which protocols it has: it has not proved who it is, and whoever
    listens at its address may refuse to encrypt in the same words.
    """
    for sign in signs:
        if sign.words in words and not (sign.stage is Stage.PROTOCOL and _NOT_CONNECTED in words):
            return _outcome(sign.stage, sign.cause, words)
    return _outcome(Stage.DIAL, Cause.OTHER, words)


def _outcome(stage: Stage, cause: Cause, words: str) -> DialOutcome:
    if cause is Cause.PROTOCOL_MISSING:
        verdict = Verdict.REACHABLE
    elif cause in NOBODY_COULD_LOOK:
        verdict = Verdict.UNKNOWN
    else:
        verdict = Verdict.UNREACHABLE
    return DialOutcome(verdict, stage, cause, clean(words))


def clean(words: str) -> str:
    """Return the error text: printable, without the daemon's preamble, cut to `MAX_ERROR_CHARS`."""
    text = _PREAMBLE.sub("", words[:MAX_WORDS].removeprefix("Connect failed. msg="))
    return _UNPRINTABLE.sub(" ", text)[:MAX_ERROR_CHARS].strip()
