"""This module says what a check found just now, and what the peer's operator can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared import words
from shared.advice.advice import Advice, Tone
from shared.advice.causes import MENDED_BY_RESTART, NOT_OURS, advice, message
from shared.advice.commands import public_address
from shared.advice.servers import (
    ASK_AGAIN,
    WAIT,
    Server,
    cannot_be_reached,
    never_announced,
    swarm_name,
    what_to_do,
    with_peers,
)
from shared.reachability import NOBODY_COULD_LOOK, Cause, Stage
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.given import GivenDial
    from shared.reachability import DialOutcome
    from shared.snapshot import Snapshot


def check_advice(server: Server, outcome: DialOutcome, *, your_ip: str = "", given: Sequence[GivenDial] = ()) -> Advice:
    """Say what a check found just now at the addresses that the swarm knows; `given` were dialled beside these."""
    cause = outcome.cause
    # A restart needs no other address than before.
    address = server.address_to_announce("" if cause in MENDED_BY_RESTART else your_ip, outcome.addresses)
    if outcome.verdict is Verdict.UNKNOWN or cause in NOBODY_COULD_LOOK:
        reason, next_step = "This says nothing about the server.", ASK_AGAIN
        if cause is not None:
            reason, next_step = f"{message(cause)} {reason}", what_to_do(cause, address)
        return Advice(Tone.IDLE, "could not be checked", reason, next_step, ours=cause not in NOT_OURS)
    if outcome.verdict is Verdict.REACHABLE:
        return _reached(server, outcome)
    answering = [dial.address for dial in given if dial.outcome.verdict is Verdict.REACHABLE]
    if cause is Cause.NO_ADDRESS and not server.shares and server.bootstrap is None:
        return _not_yet_announced(server.snapshot) if answering else never_announced(server.snapshot)
    address = public_address(answering) or address
    return cannot_be_reached(server, cause, message(cause or Cause.OTHER), address)


def _not_yet_announced(snapshot: Snapshot | None) -> Advice:
    """Say that a peer answers at an address that somebody gave, and that the swarm does not know it."""
    return Advice(
        Tone.WARN,
        f"is not known to {swarm_name(snapshot)} yet",
        "It answers at an address that you gave, but clients cannot find it there: it has not announced itself.",
        "If it is loading its blocks, wait: it shows up here a minute or two after it has joined. Otherwise compare "
        f"its log, and start it{with_peers(snapshot)}.",
    )


def _reached(server: Server, outcome: DialOutcome) -> Advice:
    connected = f"The monitor connected to it {words.way(outcome.relayed)}".rstrip() + "."
    if outcome.protocol_ok is not False:
        reason = f"{connected} Other peers can connect to it, as far as can be seen from here."
        return Advice(Tone.GOOD, "can be reached", reason)
    if server.bootstrap is not None and not server.shares:
        reason = f"{connected} It is a bootstrap peer: it lets others join, and serves no blocks."
        return Advice(Tone.GOOD, "can be reached", reason)
    if outcome.stage is Stage.PROTOCOL and outcome.cause is Cause.HANDLER_FAILED:
        return Advice(
            Tone.WARN,
            "can be reached, but does not answer for its blocks",
            f"{connected} {message(Cause.HANDLER_FAILED)}",
            advice(Cause.HANDLER_FAILED),
            server.command(server.address_to_announce()),
        )
    if server.shares:
        reason = f"{connected} It announces blocks, which it may still be loading."
        return Advice(Tone.WARN, "can be reached, but serves no blocks yet", reason, WAIT)
    if server.snapshot is None:
        reason = f"{connected} It is no Petals server, or has not loaded its blocks yet."
        return Advice(Tone.WARN, "can be reached, but serves no blocks", reason, WAIT)
    reason = f"{connected} It is no Petals server, or has not begun to load blocks."
    next_step = "If it is a Petals server, wait until its log says that it has announced its blocks."
    return Advice(Tone.WARN, "can be reached, but announces no blocks", reason, next_step)
