"""This module prepares the page of a check: the verdict in words, what to do, and the stages with their evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.pages import text
from shared import words
from shared.advice.causes import message
from shared.advice.given import difference, how_it_ended
from shared.advice.inference import server_proof
from shared.advice.servers import Server, check_advice
from shared.reachability import Cause, DialOutcome, Stage, decide
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from api.pages.view import CheckView
    from shared.advice.advice import Advice
    from shared.advice.inference import Proved
    from shared.reachability import Answer

STAGES: tuple[tuple[Stage, str, str], ...] = (
    (Stage.QUEUE, "Queue", "a worker takes the check"),
    (Stage.LOOKUP, "Lookup", "the DHT tells its address"),
    (Stage.DIAL, "Dial", "a connection is opened"),
    (Stage.SECURITY, "Security", "it proves its peer id"),
    (Stage.PROTOCOL, "Protocol", "it speaks Petals"),
    (Stage.ANSWERED, "Answered", "it answers rpc_info"),
)
_ORDER = [stage for stage, _, _ in STAGES]


@dataclass(frozen=True, slots=True)
class Step:
    """`state` is done, failed, stopped (nobody could probe further) or ahead; `word` says it in words."""

    name: str
    meaning: str
    state: str
    word: str


@dataclass(frozen=True, slots=True)
class Report:
    """One vantage point's answer."""

    vantage: str
    verdict: str
    checked_at: float
    steps: tuple[Step, ...]
    evidence: tuple[tuple[str, str], ...]
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """The whole answer: the verdict over all vantage points in words, then each."""

    title: str
    advice: Advice
    where: str
    """How many places agree, where there are several."""
    reports: tuple[Report, ...]
    given: tuple[str, ...] = ()
    """A sentence on each address that was given."""
    difference: str = ""
    """Where these and the addresses that the swarm knows differ."""
    proof: Proved | None = None
    """What it computed, where that was asked for."""
    compute_href: str = ""
    """The address at which it computes; empty where nobody may ask for that."""


def make_result(peer_id: str, view: CheckView) -> Result:
    outcome = decide(view.answers).outcome if view.answers else DialOutcome.unknown(Cause.NODE_UNFIT)
    server = view.server or Server()
    advice = check_advice(server, outcome, your_ip=view.your_ip, given=view.given)
    places = len(view.answers)
    agreeing = sum(answer.outcome.verdict is view.verdict for answer in view.answers)
    where = f"{agreeing} of {places} places found the same." if places > 1 else ""
    reports = tuple(
        _report(answer, announces=bool(server.shares) or server.bootstrap is None) for answer in view.answers
    )
    proof = None if view.inference is None else server_proof(view.inference)
    may_compute = view.may_compute and view.verdict is Verdict.REACHABLE
    compute_href = f"{text.check_href(peer_id)}?inference=1" if may_compute else ""
    return Result(
        f"…{text.short_id(peer_id)} {advice.title}",
        advice,
        where,
        reports,
        tuple(map(how_it_ended, view.given)),
        difference(view.given, outcome),
        proof,
        compute_href,
    )


def _report(answer: Answer, *, announces: bool) -> Report:
    outcome = answer.outcome
    relay = f"…{text.short_id(outcome.relay)}" if outcome.relay else ""
    reached_at = text.cut(outcome.reached_at or "", 160)
    not_served = "not yet: it may be loading blocks" if announces else "no: a bootstrap peer need not"
    served = {True: "yes", False: not_served, None: ""}[outcome.protocol_ok]
    evidence = (
        ("Connected", words.way(outcome.relayed)),
        ("At", reached_at),
        ("Relay", relay),
        ("First answer after", words.milliseconds(outcome.rtt)),
        ("Serves Petals blocks", served),
        ("Cause", "" if outcome.cause is None else message(outcome.cause)),
        ("Error of libp2p", text.cut(outcome.error or "", text.MAX_ERROR)),
    )
    return Report(
        vantage=text.cut(answer.vantage, 40),
        verdict=outcome.verdict.value,
        checked_at=answer.checked_at,
        steps=tuple(_steps(outcome.stage, outcome.verdict, outcome.cause)),
        evidence=tuple((name, value) for name, value in evidence if value),
        addresses=tuple(text.cut(address, 160) for address in outcome.addresses[:20]),
    )


def _steps(reached: Stage, verdict: Verdict, cause: Cause | None) -> list[Step]:
    position = _ORDER.index(reached)
    steps = []
    for index, (stage, name, meaning) in enumerate(STAGES):
        if index < position or (verdict is Verdict.REACHABLE and stage is reached and cause is None):
            state, word = "done", "done"
        elif index > position:
            state, word = "ahead", "not reached"
        elif verdict is Verdict.UNREACHABLE:
            state, word = "failed", "failed here"
        elif verdict is Verdict.REACHABLE:
            # Connected, so reachable; that it serves nothing yet is no failure.
            state, word = "stopped", "not yet"
        else:
            state, word = "stopped", "stopped here"
        steps.append(Step(name, meaning, state, word))
    return steps
