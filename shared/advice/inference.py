"""This module says in words what inference checks proved: whether a model gives tokens, and whether a server computes.

Durations are measured by this monitor, from its own network. `checked_at` is shown with them, as it may differ from the
crawl's time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared import words
from shared.advice.advice import Tone
from shared.inference import AgreementOutcome, InferenceOutcome, UsabilityState
from shared.judgement.usability import DOES_NOT_COMPUTE, path_stands
from shared.peer_id import named_peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.inference import Agreement, ServerInference, Usability
    from shared.snapshot import ModelReport
    from shared.store.inference_history import Proof

MAX_REASON = 400
OUTCOME_WORDS: dict[InferenceOutcome, str] = {
    InferenceOutcome.COMPUTED: "computes",
    InferenceOutcome.BUSY: "is busy: it has no attention cache left",
    InferenceOutcome.REFUSED: "refuses to compute these blocks",
    InferenceOutcome.NOT_FINITE: "computes NaN or infinity",
    InferenceOutcome.WRONG_SHAPE: "gives numbers of the wrong shape",
    InferenceOutcome.FAILED: "fails when it is asked to compute",
    InferenceOutcome.TIMEOUT: "does not answer a step of inference in time",
    InferenceOutcome.UNKNOWN: "not known whether it computes: nobody could look",
}
"""What follows the server's name."""


@dataclass(frozen=True, slots=True)
class Proved:
    """What was proved, and when (Unix seconds; None: never)."""

    tone: Tone
    title: str
    reason: str = ""
    checked_at: float | None = None


def seconds(value: float) -> str:
    """`0.4 s`, `13 ms`: with two significant digits."""
    if value < 0.1:  # noqa: PLR2004 - from here on milliseconds read better
        return words.milliseconds(value)
    return f"{value:.2g} s" if value < 10 else f"{value:,.0f} s"  # noqa: PLR2004 - `1.2e+01` reads badly


def model_proof(model: ModelReport, *, stale: bool = False) -> Proved:
    """Say whether a client gets tokens, how fast, and over how many servers; in the past tense if `stale`."""
    found = model.usability
    if found is None:
        return Proved(Tone.IDLE, "Not proved", "No inference check has gone through all of its blocks.")
    reason = words.sentence(words.cut(found.reason or "", MAX_REASON))
    match found.state:
        case UsabilityState.USABLE | UsabilityState.DEGRADED:
            if stale or not path_stands(model):
                then = "" if stale else "A server of that path has left since then."
                return Proved(Tone.WARN, f"Usable when it was last tried: {speed(found)}", then, found.checked_at)
            if found.state is UsabilityState.USABLE:
                return Proved(Tone.GOOD, f"Usable now: {speed(found)}", "", found.checked_at)
            # Which blocks a single server holds is said by the coverage, beside this.
            relayed = [named_peer(hop.peer_id) for hop in found.path if hop.relayed]
            through = f"Through a relay: {words.listed(relayed, 3, 'server')}." if relayed else ""
            return Proved(Tone.WARN, f"Usable now, but degraded: {speed(found)}", through, found.checked_at)
        case UsabilityState.UNUSABLE:
            when = "when it was last tried" if stale else "now"
            return Proved(Tone.BAD, f"Unusable {when}: no token comes out", reason, found.checked_at)
        case UsabilityState.UNKNOWN:
            return Proved(Tone.IDLE, "Not known whether it is usable: nobody could look", reason, found.checked_at)


def speed(found: Usability) -> str:
    """`0.4 s per token over 3 servers`."""
    over = f"over {words.count(len(found.path), 'server')}"
    return over if found.seconds_per_token is None else f"{seconds(found.seconds_per_token)} per token {over}"


def server_proof(found: ServerInference | None) -> Proved:
    """Say whether a server computes, and how fast, with the adapter that was used."""
    if found is None:
        return Proved(Tone.IDLE, "Not proved: it has not been asked to compute")
    title = words.sentence(OUTCOME_WORDS[found.outcome]).removesuffix(".")
    if found.outcome is InferenceOutcome.COMPUTED and found.seconds_per_step is not None:
        title += f": {seconds(found.seconds_per_step)} per token through {words.blocks([found.blocks])}"
    if found.adapter:
        adapter = f"the LoRA {words.cut(found.adapter, 60)}"
        title = f"Refuses {adapter}" if found.outcome is InferenceOutcome.REFUSED else f"{title}, with {adapter}"
    tones = {InferenceOutcome.COMPUTED: Tone.GOOD, InferenceOutcome.BUSY: Tone.WARN}
    tone = Tone.BAD if found.outcome in DOES_NOT_COMPUTE else tones.get(found.outcome, Tone.IDLE)
    return Proved(tone, title, words.cut(found.detail or "", MAX_REASON), found.checked_at)


def record_words(proofs: Sequence[Proof], *, days: int) -> str:
    """Say how a model or server did in the checks of some days; empty without any."""
    checks, computed = sum(one.checks for one in proofs), sum(one.computed for one in proofs)
    if not checks:
        return ""
    said = f"{words.percent(computed, checks)} of {words.count(checks, 'check')} in {days} days gave numbers"
    if computed:
        said += f", {seconds(sum(one.seconds * one.computed for one in proofs) / computed)} per token on average"
    return said


def failure_words(proof: Proof) -> str:
    """Say how the checks of an hour failed that did not all give numbers."""
    said = f"{proof.checks - proof.computed} of {words.count(proof.checks, 'check')} gave no numbers"
    lastly = next((said for outcome, said in OUTCOME_WORDS.items() if outcome == proof.outcome), "")
    return f"{said}; lastly it {lastly}" if lastly and proof.outcome != InferenceOutcome.COMPUTED else said


def agreement_words(found: Agreement) -> str:
    """Say how a server's results compare with those of others: evidence, not a verdict on the server."""
    peers = words.listed([named_peer(peer) for peer in found.peers], 3, "server")
    blocks = f" on {words.blocks([found.blocks])}" if found.blocks else ""
    cosine = "" if found.lowest_cosine is None else f" (lowest cosine {found.lowest_cosine:.4f})"
    match found.outcome:
        case AgreementOutcome.AGREES:
            return f"agrees with {peers}{blocks}{cosine}"
        case AgreementOutcome.DISAGREES if found.against_majority:
            return f"disagrees with most servers that were given the same input, {peers}{blocks}{cosine}"
        case AgreementOutcome.DISAGREES:
            return f"disagrees with {peers}{blocks}{cosine}: it is not known which of them is right"
        case AgreementOutcome.ALONE:
            return "nobody else computed the same blocks"
        case AgreementOutcome.UNKNOWN:
            return "not compared"
