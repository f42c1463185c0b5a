"""What inference checks proved, word by word: it stands on pages, in the API and in the terminal."""

import msgspec
import pytest

from shared.advice.advice import Tone
from shared.advice.inference import (
    MAX_REASON,
    Proved,
    agreement_words,
    failure_words,
    model_proof,
    record_words,
    seconds,
    server_proof,
)
from shared.inference import (
    Agreement,
    AgreementOutcome,
    Hop,
    InferenceOutcome,
    ServerInference,
    Usability,
    UsabilityState,
)
from shared.store.inference_history import Proof
from tests.fakes import model, peer_id, server

NOW = 1_800_000_000.0
AT = NOW - 90
SPEED = "0.4 s per token over 2 servers"
COMPUTED = ServerInference(InferenceOutcome.COMPUTED, (0, 4), AT, 0.5, 0.2)


def name(number):
    return f"…{peer_id(number)[-6:]}"


def proved(state=UsabilityState.USABLE, reason=None, *, relayed=(), **more):
    """A model of two halves, and the chain through both."""
    servers = (server(1, 0, 4, inference=COMPUTED), server(2, 4, 8))
    path = tuple(
        Hop(one.peer_id, one.span.start, one.span.end, relayed=number in relayed, seconds_per_step=0.2)
        for number, one in enumerate(servers, 1)
    )
    found = Usability(state, AT, reason, path, 0.9, 0.4)
    return model(**{"blocks": 8, "usability": found, "servers": servers, **more})


BEFORE = Proved(Tone.WARN, f"Usable when it was last tried: {SPEED}", "", AT)
LEFT = Proved(BEFORE.tone, BEFORE.title, "A server of that path has left since then.", AT)
NOT_PROVED = Proved(Tone.IDLE, "Not proved", "No inference check has gone through all of its blocks.")
NOBODY = "Not known whether it is usable: nobody could look"


@pytest.mark.parametrize(
    ("of", "now", "stale"),
    [
        (proved(), Proved(Tone.GOOD, f"Usable now: {SPEED}", "", AT), BEFORE),
        (proved(servers=(server(1, 0, 4),)), LEFT, BEFORE),
        (
            proved(UsabilityState.DEGRADED, "x is slow"),
            Proved(Tone.WARN, f"Usable now, but degraded: {SPEED}", "", AT),
            BEFORE,
        ),
        (
            proved(UsabilityState.DEGRADED, relayed=(1, 2)),
            Proved(
                Tone.WARN,
                f"Usable now, but degraded: {SPEED}",
                f"Through a relay: {name(1)} and {name(2)}.",
                AT,
            ),
            BEFORE,
        ),
        (proved(UsabilityState.DEGRADED, servers=(server(1, 0, 4),)), LEFT, BEFORE),
        (
            proved(UsabilityState.UNUSABLE, "x: not_finite"),
            Proved(Tone.BAD, "Unusable now: no token comes out", "X: not_finite.", AT),
            Proved(Tone.BAD, "Unusable when it was last tried: no token comes out", "X: not_finite.", AT),
        ),
        (
            proved(UsabilityState.UNKNOWN, "nobody could look"),
            Proved(Tone.IDLE, NOBODY, "Nobody could look.", AT),
            Proved(Tone.IDLE, NOBODY, "Nobody could look.", AT),
        ),
        (proved(UsabilityState.UNKNOWN), Proved(Tone.IDLE, NOBODY, "", AT), Proved(Tone.IDLE, NOBODY, "", AT)),
        (proved(usability=None), NOT_PROVED, NOT_PROVED),
    ],
)
def test_what_a_chain_proved_is_said_of_a_model(of, now, stale):
    """A chain over a server that has left since then, or before the latest crawls failed, proves nothing about now."""
    assert model_proof(of) == now
    assert model_proof(of, stale=True) == stale


def test_many_relays_and_long_reasons_are_cut():
    path = tuple(Hop(peer_id(number), number, number + 1, relayed=True) for number in range(5))
    servers = tuple(server(number, number, number + 1) for number in range(5))
    found = Usability(UsabilityState.DEGRADED, AT, None, path)
    proof = model_proof(model(blocks=5, servers=servers, usability=found))
    assert proof.title == "Usable now, but degraded: over 5 servers"
    assert proof.reason == f"Through a relay: {name(0)}, {name(1)}, {name(2)} and 2 more servers."
    assert len(model_proof(proved(UsabilityState.UNUSABLE, "x" * 900)).reason) == MAX_REASON
    assert len(server_proof(msgspec.structs.replace(COMPUTED, detail="x" * 900)).reason) == MAX_REASON


SAYS = {
    InferenceOutcome.COMPUTED: (Tone.GOOD, "Computes: 0.2 s per token through blocks 0–3"),
    InferenceOutcome.BUSY: (Tone.WARN, "Is busy: it has no attention cache left"),
    InferenceOutcome.REFUSED: (Tone.BAD, "Refuses to compute these blocks"),
    InferenceOutcome.NOT_FINITE: (Tone.BAD, "Computes NaN or infinity"),
    InferenceOutcome.WRONG_SHAPE: (Tone.BAD, "Gives numbers of the wrong shape"),
    InferenceOutcome.FAILED: (Tone.BAD, "Fails when it is asked to compute"),
    InferenceOutcome.TIMEOUT: (Tone.BAD, "Does not answer a step of inference in time"),
    InferenceOutcome.UNKNOWN: (Tone.IDLE, "Not known whether it computes: nobody could look"),
}


@pytest.mark.parametrize("outcome", InferenceOutcome)
def test_what_a_check_proved_is_said_of_a_server(outcome):
    """In the server's own words where it had some, and with the adapter that the step was made with."""
    tone, title = SAYS[outcome]
    found = msgspec.structs.replace(COMPUTED, outcome=outcome, detail="in its own words")
    assert server_proof(found) == Proved(tone, title, "in its own words", AT)
    of_adapter = server_proof(msgspec.structs.replace(found, adapter="ada/lora" + "x" * 60, detail=None))
    adapter = f"the LoRA ada/lora{'x' * 51}…"
    refused = outcome is InferenceOutcome.REFUSED
    assert of_adapter == Proved(tone, f"Refuses {adapter}" if refused else f"{title}, with {adapter}", "", AT)


def test_what_is_said_of_a_server_that_was_not_asked():
    assert server_proof(None) == Proved(Tone.IDLE, "Not proved: it has not been asked to compute")
    assert server_proof(msgspec.structs.replace(COMPUTED, seconds_per_step=None)).title == "Computes"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0131, "13 ms"), (0.0999, "100 ms"), (0.1, "0.1 s"), (0.416, "0.42 s"), (9.4, "9.4 s"), (10, "10 s"),
     (1234.5, "1,234 s")],
)  # fmt: skip
def test_seconds_per_token(value, text):
    assert seconds(value) == text


def test_a_week_of_checks():
    """The share that gave numbers, and the mean time per token over the checks that did."""
    proofs = [Proof(1, 3, 3, "computed", 0.2), Proof(2, 5, 1, "timeout", 0.6), Proof(3, 2, 0, "busy", 0.0)]
    assert record_words(proofs, days=7) == "40 % of 10 checks in 7 days gave numbers, 0.3 s per token on average"
    assert record_words(proofs[2:], days=7) == "0 % of 2 checks in 7 days gave numbers"
    assert record_words([], days=7) == ""


@pytest.mark.parametrize(
    ("proof", "text"),
    [
        (
            Proof(1, 5, 1, "timeout"),
            "4 of 5 checks gave no numbers; lastly it does not answer a step of inference in time",
        ),
        (Proof(1, 1, 0, "not_finite"), "1 of 1 check gave no numbers; lastly it computes NaN or infinity"),
        (Proof(1, 5, 3, "computed"), "2 of 5 checks gave no numbers"),
        (Proof(1, 5, 3, "of a later version"), "2 of 5 checks gave no numbers"),
    ],
)
def test_an_hour_with_failed_checks(proof, text):
    assert failure_words(proof) == text


ONE, TWO = (peer_id(2),), (peer_id(2), peer_id(3))


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Agreement(AgreementOutcome.AGREES, TWO, (0, 4), 0.99996),
         f"agrees with {name(2)} and {name(3)} on blocks 0–3 (lowest cosine 1.0000)"),
        (Agreement(AgreementOutcome.AGREES, ONE), f"agrees with {name(2)}"),
        (Agreement(AgreementOutcome.AGREES, tuple(map(peer_id, range(2, 8)))),
         f"agrees with {name(2)}, {name(3)}, {name(4)} and 3 more servers"),
        (Agreement(AgreementOutcome.DISAGREES, ONE, (2, 3), 0.1),
         f"disagrees with {name(2)} on block 2 (lowest cosine 0.1000): it is not known which of them is right"),
        (Agreement(AgreementOutcome.DISAGREES, TWO, against_majority=True),
         f"disagrees with most servers that were given the same input, {name(2)} and {name(3)}"),
        (Agreement(AgreementOutcome.ALONE), "nobody else computed the same blocks"),
        (Agreement(), "not compared"),
    ],
)  # fmt: skip
def test_nobody_is_blamed_where_two_differ(found, text):
    """Most of three or more may be right; of two that differ, nobody knows which."""
    assert agreement_words(found) == text
