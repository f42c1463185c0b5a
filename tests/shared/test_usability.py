"""Whether a model can be used, by its coverage and its latest chain; whether a server computes; who is not asked to."""

import pytest

from shared.inference import (
    Agreement,
    AgreementOutcome,
    Hop,
    InferenceOutcome,
    ServerInference,
    Usability,
    UsabilityState,
)
from shared.judgement.usability import (
    OPT_OUT,
    ModelUsability,
    against_majority,
    does_not_compute,
    gives_tokens,
    is_usable,
    model_usability,
    not_asked,
    path_stands,
)
from shared.snapshot import PeerState
from tests.fakes import model, peer_id, server

NOW = 1_800_000_000.0
WHOLE, TWIN, HALF, REST = server(1, 0, 8), server(2, 0, 8), server(1, 0, 4), server(2, 4, 8)
THROUGH_BOTH = (Hop(peer_id(1), 0, 4), Hop(peer_id(2), 4, 8))


def chain(state, *path):
    return Usability(state, NOW, path=path)


NO_TOKEN = chain(UsabilityState.UNUSABLE)


@pytest.mark.parametrize(
    ("servers", "latest", "usability"),
    [
        ((), None, ModelUsability.UNSERVED),
        ((), NO_TOKEN, ModelUsability.UNSERVED),
        ((HALF,), None, ModelUsability.BROKEN),
        ((HALF,), NO_TOKEN, ModelUsability.BROKEN),
        ((HALF, server(2, 4, 8, PeerState.UNREACHABLE)), None, ModelUsability.BROKEN),
        ((HALF, REST), None, ModelUsability.DEGRADED),
        ((WHOLE, HALF, REST), None, ModelUsability.USABLE),
        ((WHOLE, TWIN, server(3, 0, 8)), None, ModelUsability.USABLE),
        ((WHOLE, TWIN), NO_TOKEN, ModelUsability.UNUSABLE),
        ((WHOLE, TWIN), chain(UsabilityState.UNKNOWN), ModelUsability.USABLE),
        ((WHOLE, TWIN), chain(UsabilityState.USABLE, Hop(peer_id(9), 0, 8)), ModelUsability.USABLE),
        ((WHOLE,), chain(UsabilityState.USABLE, Hop(peer_id(1), 0, 8)), ModelUsability.DEGRADED),
    ],
)
def test_a_model_is_usable_by_its_coverage_unless_its_chain_gave_no_token(servers, latest, usability):
    """A chain that is unknown, or over a server that has left, is nothing against the model."""
    found = model(servers=servers, usability=latest)
    assert model_usability(found) is usability
    assert is_usable(found) == (usability in (ModelUsability.USABLE, ModelUsability.DEGRADED))


@pytest.mark.parametrize(
    ("servers", "path", "stands"),
    [
        ((HALF, REST), THROUGH_BOTH, True),
        ((server(1, 0, 5), server(2, 3, 8)), THROUGH_BOTH, True),
        ((HALF, REST), (), True),
        ((HALF,), THROUGH_BOTH, False),
        ((HALF, server(2, 4, 8, PeerState.UNREACHABLE)), THROUGH_BOTH, False),
        ((server(1, 1, 4), REST), THROUGH_BOTH, False),
        ((HALF, server(2, 4, 7)), THROUGH_BOTH, False),
    ],
)
@pytest.mark.parametrize("state", UsabilityState)
def test_a_chain_proves_something_while_its_servers_are_online_with_its_blocks(servers, path, stands, state):
    """One that failed counts until the next, whoever has left since."""
    of = model(servers=servers, usability=chain(state, *path))
    assert path_stands(of) is stands
    proved = {UsabilityState.UNKNOWN: None, UsabilityState.UNUSABLE: False}
    assert gives_tokens(of) is proved.get(state, True if stands else None)


def test_a_model_that_no_chain_was_tried_on():
    assert path_stands(model(servers=(HALF,)))
    assert gives_tokens(model(servers=(HALF, REST))) is None


COMPUTES = {InferenceOutcome.COMPUTED, InferenceOutcome.BUSY, InferenceOutcome.UNKNOWN}


@pytest.mark.parametrize("outcome", InferenceOutcome)
def test_a_server_that_answers_without_right_numbers_does_not_compute(outcome):
    """One that is busy, or that nobody could ask, is not blamed; nor one that no client would ask."""
    found = ServerInference(outcome, (0, 4), NOW)
    silent = {state for state in PeerState if does_not_compute(server(1, 0, 4, state, inference=found))}
    assert silent == (set() if outcome in COMPUTES else {PeerState.ONLINE})
    assert not does_not_compute(HALF)


def test_a_refused_adapter_is_not_said_of_the_server():
    """It computes all the same without it."""
    computed = ServerInference(InferenceOutcome.COMPUTED, (0, 4), NOW)
    refused = ServerInference(InferenceOutcome.REFUSED, (0, 4), NOW, adapter="lab/lora")
    assert not does_not_compute(server(1, 0, 4, inference=computed, adapter_inference=refused))


@pytest.mark.parametrize("outcome", AgreementOutcome)
def test_only_who_differs_from_a_majority_is_against_it(outcome):
    """Where two differ, nobody is blamed."""
    servers = [
        server(1, 0, 4, inference=ServerInference(InferenceOutcome.COMPUTED, (0, 4), NOW, agreement=agreement))
        for agreement in (Agreement(outcome, against_majority=True), Agreement(outcome))
    ]
    assert [against_majority(one) for one in servers] == [outcome is AgreementOutcome.DISAGREES, False]
    assert not against_majority(HALF)


def test_who_is_not_asked_to_compute():
    """An operator who opted out, by the name of the server; a server that has no cache left for its own users."""
    few, enough = (server(1, 2, 6, cache_tokens_left=tokens * 2 * 4) for tokens in (15, 16))
    assert not_asked(few, NOW) == ServerInference(
        InferenceOutcome.BUSY, (2, 6), NOW, detail="not asked: it announces 15 tokens of attention cache per block"
    )
    assert not_asked(server(1, 2, 6, cache_tokens_left=0), NOW).outcome is InferenceOutcome.BUSY
    opted_out = server(1, 2, 6, public_name=f"mine {OPT_OUT}", cache_tokens_left=0)
    assert not_asked(opted_out, NOW) == ServerInference(
        InferenceOutcome.UNKNOWN, (2, 6), NOW, detail="not asked: its operator opted out"
    )
    for asked in (enough, server(1, 0, 4), server(1, 0, 4, public_name="mine")):
        assert not_asked(asked, NOW) is None
