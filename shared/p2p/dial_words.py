"""p2pd's words about a dial that failed, as data: they are classified here and nowhere else."""

from __future__ import annotations

import re
from typing import NamedTuple

from shared.reachability import NOBODY_COULD_LOOK, Cause, DialOutcome, Stage
from shared.snapshot import Verdict

MAX_ERROR_CHARS = 300
MAX_ADDRESSES = 16


class _Sign(NamedTuple):
    words: str
    stage: Stage
    cause: Cause


# In the order of what tells most: the first sign found in the daemon's words decides.
_SIGNS = (
    _Sign("protocols not supported", Stage.PROTOCOL, Cause.PROTOCOL_MISSING),
    _Sign("protocol not supported", Stage.PROTOCOL, Cause.PROTOCOL_MISSING),
    _Sign("failed to find any peer in table", Stage.LOOKUP, Cause.NODE_UNFIT),
    _Sign("routing: not found", Stage.LOOKUP, Cause.NO_ADDRESS),
    _Sign("peer id mismatch", Stage.SECURITY, Cause.WRONG_PEER),
    _Sign("NO_RESERVATION", Stage.DIAL, Cause.NO_RELAY_RESERVATION),
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

_BACKOFF = _Sign("dial backoff", Stage.DIAL, Cause.BACKOFF)
_REASON = re.compile(r"^\s*\* \[(?P<address>[^\]\s]{1,256})\](?P<reason>.*)", re.MULTILINE)
_PREAMBLE = re.compile(r"failed to dial:? |all dials failed\s*|(12D3KooW|Qm)\w+: ")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")


def classify(*failures: str) -> DialOutcome:
    """Turn the texts of a look's failed dials, in their order, into an outcome.

    Unknown words are `Cause.OTHER`: a failure all the same. An address of which the first text says "dial backoff" was
    not dialled in this look: then the outcome is that, whatever became of others, which may be somebody's lies.
    """
    words = "\n".join(dict.fromkeys(failures))
    first: dict[str, str] = {}
    for address, reason in _REASON.findall(words):
        first.setdefault(address, reason)
    if any("dial backoff" in reason for reason in first.values()):
        sign = _BACKOFF
    else:
        sign = next((sign for sign in _SIGNS if sign.words in words), _Sign("", Stage.DIAL, Cause.OTHER))
    if sign.cause is Cause.PROTOCOL_MISSING:
        verdict = Verdict.REACHABLE
    elif sign.cause in NOBODY_COULD_LOOK:
        verdict = Verdict.UNKNOWN
    else:
        verdict = Verdict.UNREACHABLE
    return DialOutcome(
        verdict,
        sign.stage,
        sign.cause,
        clean(words),
        addresses=tuple(first)[:MAX_ADDRESSES],
        protocol_ok=False if sign.cause is Cause.PROTOCOL_MISSING else None,
    )


def clean(words: str) -> str:
    """Return printable words without the daemon's preamble, cut."""
    text = _PREAMBLE.sub("", words.removeprefix("Connect failed. msg="))
    return _UNPRINTABLE.sub(" ", text)[:MAX_ERROR_CHARS].strip()
