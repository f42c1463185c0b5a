"""`GET /api/v1/is_reachable/{peer_id}`: what the vantage points found of one peer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.advice.causes import advice, explanation, hints
from shared.advice.given import difference, how_it_ended
from shared.inference import ServerInference  # noqa: TC001 - msgspec reads the annotations
from shared.public.document import Document
from shared.reachability import Cause, Stage, decide
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.given import GivenDial
    from shared.reachability import Answer, DialOutcome


class Evidence(Document, kw_only=True):
    """What one vantage point found."""

    peer_id: str
    vantage: str
    verdict: Verdict
    stage: Stage
    cause: Cause | None
    """Null where the peer answered. More may be added: read one that you do not know as `other`."""
    advice: str | None
    """What the peer's operator can do."""
    addresses: tuple[str, ...]
    """Multiaddrs that were used, tried or known, without the peer id."""
    reached_at: str | None
    """Remote multiaddr of the connection that worked."""
    relayed: bool | None
    """Whether the way that worked led over a relay; null where none worked."""
    relay: str | None
    """Peer id of the relay that the way led over, or that failed."""
    rtt_ms: float | None
    """Milliseconds from the start of the connection to its first answer."""
    protocol_ok: bool | None
    """Whether the peer serves Petals blocks; null where it was not asked or did not answer."""
    checked_at: float


# Positional fields stand before the base's keyword-only ones: so what is asked for comes first.
class _Decision(Evidence):
    ok: bool
    success: bool
    """Always equal to `ok`: what Petals servers read."""
    message: str | None
    """Why not; null where the peer was reached."""
    your_ip: str
    """The caller's address, as trusted proxies tell it."""
    hints: tuple[str, ...]
    """What the peer's operator can mend, where what is announced differs from where the caller asks from."""


class GivenEvidence(Document):
    """How the dial of one address ended that the caller gave (`?address=`)."""

    address: str
    """The multiaddr without the peer id."""
    dialled: bool
    """Whether a connection was tried: this monitor dials public addresses of a few forms only."""
    verdict: Verdict
    """`reachable` where the peer proved its id there; `unknown` where nobody could, or may, dial it."""
    message: str
    """How it ended, in words."""
    stage: Stage
    cause: Cause | None
    """Null where the peer answered; `wrong_peer` where another one did."""
    relayed: bool | None
    rtt_ms: float | None
    vantage: str | None
    """The vantage point that dialled it; null where none did."""
    checked_at: float | None


class ReachabilityDocument(_Decision, kw_only=True):
    """The decisive evidence and, in `vantages`, all of it. `ok` and `success` are always equal."""

    disagreement: bool
    """Whether one vantage point reached the peer and another did not."""
    vantages: tuple[Evidence, ...]
    inference: ServerInference | None
    """What two tokens through its blocks proved (`?inference=1`); null where that was not asked for, or where the
    newest snapshot knows no online server by this id. It changes neither `ok` nor `success`."""
    given: tuple[GivenEvidence, ...]
    """The addresses that the caller gave (`?address=`), dialled as they are. They change neither `ok` nor `success`,
    which tell what clients of the swarm find."""
    difference: str | None
    """Where these and the addresses that the swarm knows differ, in words; null where they do not."""


def reachability_document(
    answers: Sequence[Answer],
    *,
    your_ip: str,
    inference: ServerInference | None = None,
    given: Sequence[GivenDial] = (),
) -> ReachabilityDocument:
    """Return what is said of a peer by the vantage points' answers, of which there is at least one."""
    decisive = decide(answers)
    reachable = decisive.outcome.verdict is Verdict.REACHABLE
    return ReachabilityDocument(
        ok=reachable,
        success=reachable,
        message=None if reachable else _message(decisive),
        your_ip=your_ip,
        hints=tuple(hints(decisive.outcome, your_ip)),
        **_evidence(decisive),
        disagreement=len({answer.outcome.verdict for answer in answers} - {Verdict.UNKNOWN}) > 1,
        vantages=tuple(Evidence(**_evidence(answer)) for answer in answers),
        inference=inference,
        given=tuple(map(given_evidence, given)),
        difference=difference(given, decisive.outcome) or None,
    )


def given_evidence(dial: GivenDial) -> GivenEvidence:
    """Return what is said of one address that the caller gave."""
    outcome = dial.outcome
    return GivenEvidence(
        address=dial.address,
        dialled=dial.dialled,
        verdict=outcome.verdict,
        message=how_it_ended(dial),
        stage=outcome.stage,
        cause=outcome.cause,
        relayed=outcome.relayed,
        rtt_ms=_rtt_ms(outcome),
        vantage=dial.vantage,
        checked_at=dial.checked_at,
    )


def _message(answer: Answer) -> str:
    words = explanation(answer.outcome) or "The peer was not reached."
    return f"{words} {advice(answer.outcome.cause)}" if answer.outcome.cause else words


def _evidence(answer: Answer) -> dict[str, Any]:
    outcome = answer.outcome
    return {
        "peer_id": answer.peer_id,
        "vantage": answer.vantage,
        "verdict": outcome.verdict,
        "stage": outcome.stage,
        "cause": outcome.cause,
        "advice": advice(outcome.cause) if outcome.cause else None,
        "addresses": outcome.addresses,
        "reached_at": outcome.reached_at,
        "relayed": outcome.relayed,
        "relay": outcome.relay,
        "rtt_ms": _rtt_ms(outcome),
        "protocol_ok": outcome.protocol_ok,
        "checked_at": answer.checked_at,
    }


def _rtt_ms(outcome: DialOutcome) -> float | None:
    return None if outcome.rtt is None else round(outcome.rtt * 1000, 2)
