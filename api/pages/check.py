"""A reachability check as steps, evidence and advice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.pages import text
from shared.reachability import Cause, Stage, advice, message
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from api.pages.view import CheckView
    from shared.reachability import Answer

STAGES: tuple[tuple[Stage, str, str], ...] = (
    (Stage.QUEUE, "Queue", "a worker takes the question"),
    (Stage.LOOKUP, "Look-up", "the swarm tells its address"),
    (Stage.DIAL, "Dial", "a connection is opened"),
    (Stage.SECURITY, "Security", "it proves its peer id"),
    (Stage.PROTOCOL, "Protocol", "it speaks Petals"),
    (Stage.ANSWERED, "Answered", "it answers rpc_info"),
)
_ORDER = [stage for stage, _, _ in STAGES]


@dataclass(frozen=True, slots=True)
class Step:
    """`state` is done, failed, stopped (nobody could look further) or ahead; `word` says it in words."""

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
    message: str
    advice: str
    evidence: tuple[tuple[str, str], ...]
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """The whole answer: the verdict over all vantage points, then each."""

    tone: str
    title: str
    text: str
    reports: tuple[Report, ...]


def make_result(peer_id: str, view: CheckView) -> Result:
    short = "…" + text.cut(peer_id[-6:])
    places = len(view.answers)
    agreeing = sum(answer.outcome.verdict is view.verdict for answer in view.answers)
    where = f" So it is seen from {agreeing} of {places} places." if places > 1 else ""
    reports = tuple(_report(answer, view.show_addresses) for answer in view.answers)
    match view.verdict:
        case Verdict.REACHABLE:
            loading = any(answer.outcome.protocol_ok is False for answer in view.answers)
            words = "Other peers can connect to it" + (", but it serves no blocks yet." if loading else ".")
            return Result("good", f"{short} is reachable", words + where, reports)
        case Verdict.UNREACHABLE:
            words = "Others in the swarm cannot connect to it either, as far as can be told from here."
            return Result("bad", f"{short} is not reachable", words + where, reports)
        case _:
            words = "This says nothing about the server: the monitor itself could not look. Ask again in a minute."
            return Result("idle", "Nobody could look", words, reports)


def _report(answer: Answer, show_addresses: bool) -> Report:
    outcome = answer.outcome
    relayed = {True: "through a relay", False: "directly", None: ""}[outcome.relayed]
    relay = f"…{text.cut(outcome.relay[-6:])}" if outcome.relay else ""
    reached_at = text.cut(outcome.reached_at or "", 160) if show_addresses else ""
    served = {True: "yes", False: "not yet: it may be loading blocks", None: ""}[outcome.protocol_ok]
    evidence = (
        ("Connected", relayed),
        ("At", reached_at),
        ("Relay", relay),
        ("First answer after", text.milliseconds(outcome.rtt)),
        ("Serves Petals blocks", served),
        ("Cause", "" if outcome.cause is None else outcome.cause.value.replace("_", " ")),
        ("In the daemon’s words", text.cut(outcome.error or "", text.MAX_ERROR)),
    )
    return Report(
        vantage=text.cut(answer.vantage, 40),
        verdict=outcome.verdict.value,
        checked_at=answer.checked_at,
        steps=tuple(_steps(outcome.stage, outcome.verdict, outcome.cause)),
        message="" if outcome.cause is None else message(outcome.cause),
        advice="" if outcome.cause is None else advice(outcome.cause),
        evidence=tuple((name, value) for name, value in evidence if value),
        addresses=tuple(text.cut(address, 160) for address in outcome.addresses[:20]) if show_addresses else (),
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
