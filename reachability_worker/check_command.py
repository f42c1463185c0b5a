"""This module is `python -m reachability_worker --check`: it probes one peer now, and prints stages and verdict.

Addresses in the text are dialled as they are, beside what the swarm knows; the exit code is the verdict on the latter.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from shared import words
from shared.advice.checks import check_advice
from shared.advice.given import difference, how_it_ended
from shared.advice.servers import Server
from shared.given import BadAddressError, GivenAddress, GivenDial
from shared.resolve import Directory
from shared.snapshot import Verdict
from shared.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reachability_worker.given_addresses import AddressProber
    from reachability_worker.nodes import Nodes
    from reachability_worker.prober import Prober
    from shared.advice.advice import Advice
    from shared.reachability import DialOutcome

START_TIMEOUT = 10.0
"""Seconds that the nodes get to join the swarm."""
EXIT_CODES = {Verdict.REACHABLE: 0, Verdict.UNREACHABLE: 1, Verdict.UNKNOWN: 2}
EXIT_NOT_UNDERSTOOD = 2
EXPECTED = (
    "Give one peer id, in any spelling, or an address or a log line that has it. "
    "The search of a monitor's page finds it by a part of it, a name or a model."
)


async def check(
    pasted: str,
    nodes: Nodes,
    prober: Prober,
    address_prober: AddressProber,
    timeout: float,  # noqa: ASYNC109 - of a probe
    *,
    as_json: bool,
) -> int:
    """Probe the peer that the pasted text names, for `timeout` seconds at most. Return the exit code."""
    resolution = Directory().resolve(pasted)
    if resolution.only is None:
        problem = "this names several peers" if resolution.found else "this names no peer"
        print(f"{words.cut(pasted, 80)!r}: {problem}. {EXPECTED}", file=sys.stderr)
        return EXIT_NOT_UNDERSTOOD
    peer_id = resolution.only.key
    given, dials = [], []
    for address in resolution.only.addresses:
        try:
            given.append(GivenAddress.read(address, peer_id))
        except BadAddressError as error:
            dials.append(GivenDial.refused(address, str(error)))
    async with Tasks() as tasks:
        tasks.keep("prober", nodes.run)
        await nodes.until_fit(START_TIMEOUT)
        deadline = time.monotonic() + timeout
        outcome, *outcomes = await asyncio.gather(
            prober.probe(peer_id, deadline), *(address_prober.probe_at(address, deadline) for address in given)
        )
    dials = [*(GivenDial(one.address, found) for one, found in zip(given, outcomes, strict=True)), *dials]
    advice = check_advice(Server(), outcome, given=dials)
    write = _as_json if as_json else describe
    print(write(peer_id, outcome, advice, dials))
    return EXIT_CODES[outcome.verdict]


def describe(peer_id: str, outcome: DialOutcome, advice: Advice, given: Sequence[GivenDial]) -> str:
    """Return the stages that the probe came to, what it found, how given addresses answered, and what to do."""
    lines = [f"{peer_id}: {outcome.verdict}"]
    lines += [f"  {stage + ':':<11}{words.milliseconds(seconds)}" for stage, seconds in outcome.durations.items()]
    lines.append(f"  {'stage:':<11}{outcome.stage}")
    found = (
        ("addresses", ", ".join(outcome.addresses)),
        ("path", {True: "through a relay", False: "direct", None: ""}[outcome.relayed]),
        ("connected", f"in {words.milliseconds(outcome.rtt)}" if outcome.rtt is not None else ""),
        ("serves", {True: "yes", False: "no Petals blocks (yet)", None: ""}[outcome.protocol_ok]),
        ("error", outcome.error or ""),
    )
    lines += [f"  {name + ':':<11}{words.clean(value)}" for name, value in found if value]
    if given:
        lines += ["", *map(how_it_ended, given), *filter(None, [difference(given, outcome)])]
    lines += ["", f"Verdict: it {advice.title}. {advice.reason}"]
    if advice.next_step:
        lines.append(f"Next: {advice.next_step}")
    return "\n".join(lines)


def _as_json(peer_id: str, outcome: DialOutcome, advice: Advice, given: Sequence[GivenDial]) -> str:
    document = {
        "peer_id": peer_id,
        "verdict": f"It {advice.title}.",
        "reason": advice.reason,
        "next_step": advice.next_step,
        "outcome": outcome,
        "given": [
            {"address": dial.address, "dialled": dial.dialled, "message": how_it_ended(dial), "outcome": dial.outcome}
            for dial in given
        ],
        "difference": difference(given, outcome) or None,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
