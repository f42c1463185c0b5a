"""This module says in words how dials of given addresses ended, and where they differ from what the swarm knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared import words
from shared.advice.causes import message
from shared.reachability import Cause, DialOutcome
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.given import GivenDial

MAX_SHOWN = 160
"""Characters of an address in a sentence."""
_ADDRESS_MESSAGES = {
    Cause.REFUSED: "The connection was refused: nothing listens on that port.",
    Cause.NO_HOST_ROUTE: "The address is not routable.",
    Cause.NOT_LIBP2P: "Something that is not a libp2p node answers there.",
    Cause.NO_RELAY_RESERVATION: "The relay answers, but the peer has no place on it now.",
    Cause.RELAY_AWAY: "The relay does not answer.",
    Cause.RELAY_REFUSED: "The relay refuses to connect to it.",
    Cause.SAME_NETWORK: "It is the monitor's own router, which may not let the monitor in from inside.",
}
"""Replace those of `shared.advice.causes.message` that speak of the announced address."""


def how_it_ended(dial: GivenDial) -> str:
    """Return one sentence or two. An address that nobody could dial is never said not to answer."""
    address, outcome = words.cut(dial.address, MAX_SHOWN), dial.outcome
    if outcome.verdict is Verdict.REACHABLE:
        return f"{address} answers: the peer proved its id there{', through the relay' if outcome.relayed else ''}."
    if outcome.cause is Cause.NOT_DIALABLE:
        return f"{address} was not dialled: {outcome.error or 'this monitor dials no address of this kind'}."
    if outcome.cause is Cause.WRONG_PEER:
        return f"Another peer answers at {address}: the id that it proved is not the one that you gave."
    why = _ADDRESS_MESSAGES.get(outcome.cause) or message(outcome.cause) if outcome.cause else ""
    if outcome.verdict is Verdict.UNKNOWN:
        return f"Nobody could dial {address}, which says nothing about it. {why}".strip()
    return f"{address} does not answer. {why}".strip()


def difference(dials: Sequence[GivenDial], swarm: DialOutcome) -> str:
    """Say where the given addresses and those that the swarm knows differ; empty where they do not.

    `swarm` is what was found at the addresses that the swarm knows.
    """
    known = tuple(dict.fromkeys((*swarm.addresses, *swarm.known)))
    others = [dial for dial in dials if dial.address not in known]
    nowhere = swarm.cause is Cause.NO_ADDRESS
    if not others or not (known or nowhere):
        return ""
    verdict = next(one for one in Verdict if any(dial.outcome.verdict is one for dial in others))
    shown = [words.cut(dial.address, MAX_SHOWN) for dial in others if dial.outcome.verdict is verdict]
    given = "The address that you gave" if len(dials) == 1 else words.listed(shown, 3)
    given += {
        Verdict.REACHABLE: words.plural(len(shown), " answers", " answer"),
        Verdict.UNREACHABLE: words.plural(len(shown), " does not answer", " do not answer"),
        Verdict.UNKNOWN: words.plural(len(shown), " was not dialled", " were not dialled"),
    }[verdict]
    if nowhere:
        until = ": clients find the peer once it has joined the swarm" if verdict is Verdict.REACHABLE else ""
        return f"{given}; the swarm knows no address of the peer{until}."
    which = words.plural(len(known), "another", "others")
    if swarm.verdict is Verdict.UNREACHABLE:
        which += words.plural(len(known), ", which does not answer", ", which do not answer")
        which += " either" if verdict is Verdict.UNREACHABLE else ""
    elif swarm.verdict is Verdict.REACHABLE and verdict is Verdict.UNREACHABLE:
        which += ", and reaches the peer there"
    return f"{given}; the swarm knows {which}: {words.listed([words.cut(one, MAX_SHOWN) for one in known], 3)}."
