"""This module is `python -m reachability_worker --check`: it probes one peer now, and prints stages and verdict."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import msgspec

from shared import words
from shared.advice.servers import Server, check_advice
from shared.resolve import resolve
from shared.snapshot import Verdict
from shared.tasks import Tasks

if TYPE_CHECKING:
    from reachability_worker.prober import Prober
    from shared.advice.advice import Advice
    from shared.reachability import DialOutcome

START_TIMEOUT = 10.0
"""Seconds that the nodes get to join the swarm."""
EXIT_CODES = {Verdict.REACHABLE: 0, Verdict.UNREACHABLE: 1, Verdict.UNKNOWN: 2}
EXIT_NOT_UNDERSTOOD = 2
EXPECTED = "Give one peer id, in any spelling, or an address or a log line that has it."


async def check(pasted: str, prober: Prober, timeout: float, *, as_json: bool) -> int:  # noqa: ASYNC109 - of a probe
    """Probe the peer that the pasted text names, for `timeout` seconds at most. Return the exit code."""
    resolution = resolve(pasted, None)
    if resolution.only is None:
        problem = "this names several peers" if resolution.found else "this names no peer"
        print(f"{words.cut(pasted, 80)!r}: {problem}. {EXPECTED}", file=sys.stderr)  # noqa: T201
        return EXIT_NOT_UNDERSTOOD
    peer_id = resolution.only.key
    async with Tasks() as tasks:
        tasks.keep("prober", prober.run)
        await prober.until_fit(START_TIMEOUT)
        outcome = await prober.probe(peer_id, time.monotonic() + timeout)
    advice = check_advice(Server(peer_id), outcome)
    print(_as_json(peer_id, outcome, advice) if as_json else describe(peer_id, outcome, advice))  # noqa: T201
    return EXIT_CODES[outcome.verdict]


def describe(peer_id: str, outcome: DialOutcome, advice: Advice) -> str:
    """Return the stages that the probe came to, what it found, the verdict, and what to do."""
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
    lines += ["", f"Verdict: it {advice.title}. {advice.reason}"]
    if advice.next_step:
        lines.append(f"Next: {advice.next_step}")
    return "\n".join(lines)


def _as_json(peer_id: str, outcome: DialOutcome, advice: Advice) -> str:
    document = {
        "peer_id": peer_id,
        "verdict": f"It {advice.title}.",
        "reason": advice.reason,
        "next_step": advice.next_step,
        "outcome": outcome,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
