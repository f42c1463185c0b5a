"""How servers answer decides whether a model gives tokens: a failure is not "nobody could look", nor the reverse."""

import asyncio
from array import array
from contextlib import asynccontextmanager

import msgspec
import pytest

from shared.inference import InferenceOutcome, ServerInference, UsabilityState
from shared.p2p import chain, inference
from shared.p2p.chain import Chain
from shared.p2p.hivemind import P2PDaemonError
from shared.p2p.inference import InferenceError
from shared.snapshot import PeerState, Verdict
from tests.fakes import model, peer_id, server
from tests.shared.inference_streams import HIDDEN, Servers, compute, numbers, raised

pytestmark = pytest.mark.fast

INPUTS = (array("f", [1.0] * HIDDEN), array("f", [2.0] * HIDDEN))
NOW = 1000.0


def reached(number, start, end, **more):
    return server(number, start, end, verdict=Verdict.REACHABLE, **{"inference_rps": 100.0, "relayed": False} | more)


async def run(servers, daemon=None, connection=None, inputs=INPUTS, **more):
    """Return the result of a chain through a model of 8 blocks, and the daemon."""
    daemon = daemon or Servers()

    @asynccontextmanager
    async def connected(_server):
        yield

    made = Chain(daemon, connection or connected, model(servers=servers), now=lambda: NOW, **more)
    return await made.run(inputs), daemon


def fails_at(step, answer):
    return lambda request, at: answer if at == step else compute(request, at)


def outcomes(result):
    return {peer: found.outcome for peer, found in result.findings.items()}


ONE, TWO, SPARE = peer_id(1), peer_id(2), peer_id(3)
PAIRS = (reached(1, 0, 4), reached(2, 4, 8), reached(3, 0, 4, inference_rps=10.0), reached(4, 4, 8, inference_rps=10.0))


async def test_tokens_go_through_all_blocks_in_order():
    """Each server is given what the one before it answered; sessions are ended; only the path was asked."""
    result, daemon = await run(PAIRS)
    assert (result.usability.state, result.usability.reason) == (UsabilityState.USABLE, None)
    assert result.usability.checked_at == NOW
    assert [(hop.peer_id, hop.start, hop.end, hop.relayed) for hop in result.usability.path] == [
        (ONE, 0, 4, False), (TWO, 4, 8, False),
    ]  # fmt: skip
    assert all(hop.seconds_per_step > 0 for hop in result.usability.path)
    assert result.usability.seconds_first_token > 0 < result.usability.seconds_per_token
    assert [list(link.outputs[1]) for link in result.links] == [[6.0] * HIDDEN, [10.0] * HIDDEN]
    assert [(peer, uid, first) for peer, uid, first, _ in daemon.requests] == [
        (ONE, "demo-model.0 demo-model.1 demo-model.2 demo-model.3", 1.0),
        (TWO, "demo-model.4 demo-model.5 demo-model.6 demo-model.7", 5.0),
        (ONE, "demo-model.0 demo-model.1 demo-model.2 demo-model.3", 2.0),
        (TWO, "demo-model.4 demo-model.5 demo-model.6 demo-model.7", 6.0),
    ]
    assert outcomes(result) == {ONE: InferenceOutcome.COMPUTED, TWO: InferenceOutcome.COMPUTED}
    found = result.findings[TWO]
    assert (found.blocks, found.checked_at) == ((4, 8), NOW)
    assert found.seconds_first_step > 0 < found.seconds_per_step
    assert sorted(daemon.ended) == sorted((ONE, TWO))


def clock(monkeypatch, *seconds):
    """Have a server take so many seconds for each token, and one second go by around each."""
    ticks = [tick for taken in seconds for tick in (1.0, 1.5, 1.5 + taken, 1.5 + taken, 2.0 + taken)]
    monkeypatch.setattr(chain.time, "perf_counter", iter(ticks).__next__)


async def test_seconds_of_the_first_and_of_the_last_token_are_kept_apart(monkeypatch):
    """The first one opens the session; users wait for the later ones."""
    clock(monkeypatch, 4.0, 2.0, 0.25)
    result, _ = await run((reached(1, 0, 8), reached(2, 0, 8, inference_rps=1.0)), inputs=[*INPUTS, INPUTS[0]])
    assert (result.usability.seconds_first_token, result.usability.seconds_per_token) == (5.0, 1.25)
    assert (result.findings[ONE].seconds_first_step, result.findings[ONE].seconds_per_step) == (4.0, 0.25)
    assert result.usability.path[0].seconds_per_step == 0.25


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [((4.0, 2.0, 1.0), None), ((0.0, 0.0, 1.25), f"…{peer_id(1)[-6:]} takes 1.2 s per token")],
)
async def test_a_hop_that_takes_more_than_a_second_for_its_last_token_is_slow(monkeypatch, seconds, reason):
    clock(monkeypatch, *seconds)
    result, _ = await run((reached(1, 0, 8), reached(2, 0, 8, inference_rps=1.0)), inputs=[*INPUTS, INPUTS[0]])
    assert result.usability.reason == reason


async def test_what_makes_a_model_degraded(monkeypatch):
    """A relay, a slow hop, a server that alone holds some blocks: each is named."""
    result, _ = await run((reached(1, 0, 8, relayed=True), reached(2, 0, 8, inference_rps=1.0)))
    assert result.usability.state is UsabilityState.DEGRADED
    assert result.usability.reason == f"…{ONE[-6:]} is reached through a relay"
    assert result.usability.path[0].relayed
    result, _ = await run((reached(1, 0, 8), reached(2, 0, 7)))
    assert result.usability.reason == f"…{ONE[-6:]} alone holds some of blocks 0–7"
    monkeypatch.setattr(chain, "SLOW_STEP", 0.0)
    result, _ = await run(PAIRS)
    assert result.usability.reason == f"…{ONE[-6:]} takes 0.0 s per token; …{TWO[-6:]} takes 0.0 s per token"


@pytest.mark.parametrize(
    ("script", "outcome", "detail", "state"),
    [
        (raised("Could not allocate"), InferenceOutcome.BUSY, "Could not allocate", UsabilityState.UNUSABLE),
        (raised("block 7 not found"), InferenceOutcome.REFUSED, "block 7 not found", UsabilityState.UNUSABLE),
        (raised("a bug"), InferenceOutcome.FAILED, "a bug", UsabilityState.UNUSABLE),
        (raised(""), InferenceOutcome.FAILED, "it raised an error without words", UsabilityState.UNUSABLE),
        (b"", InferenceOutcome.FAILED, "it closed the session without an answer to step 1", UsabilityState.UNUSABLE),
        (numbers([float("nan"), 1, 2, 3]), InferenceOutcome.NOT_FINITE, "1 of 4 values of step 1 are not finite",
         UsabilityState.UNUSABLE),
        (numbers([1.0]), InferenceOutcome.WRONG_SHAPE, "shape [1, 1, 1], expected [1, 1, 4]", UsabilityState.UNUSABLE),
        (OSError("gone"), InferenceOutcome.UNKNOWN, "p2pd: OSError('gone')", UsabilityState.UNKNOWN),
        (EOFError(), InferenceOutcome.UNKNOWN, "p2pd: EOFError()", UsabilityState.UNKNOWN),
        (P2PDaemonError("stream reset"), InferenceOutcome.UNKNOWN, "stream reset", UsabilityState.UNKNOWN),
        (P2PDaemonError("protocols not supported"), InferenceOutcome.REFUSED, "it serves no inference",
         UsabilityState.UNUSABLE),
    ],
)  # fmt: skip
async def test_how_a_server_fails_decides_what_is_said_of_its_model(script, outcome, detail, state):
    """Where our own side failed, nobody could look: neither the server nor the model is blamed."""
    daemon = Servers(**{ONE: script if isinstance(script, Exception) else lambda *_: script})
    result, _ = await run((reached(1, 0, 8),), daemon)
    assert result.findings == {ONE: ServerInference(outcome, (0, 8), NOW, detail=detail)}
    assert result.usability.state is state
    assert result.usability.reason == f"blocks 0–7 at …{ONE[-6:]}: {outcome} ({detail})"
    assert (result.usability.path, result.links) == ((), [])
    answered = outcome is InferenceOutcome.NOT_FINITE  # else it waits for no request that could tell it the end
    assert daemon.ended == [ONE] * answered


async def test_a_spare_is_given_all_tokens_so_far():
    """The one that fails at the second token is found out; its numbers are no part of the path."""
    daemon = Servers(**{ONE: fails_at(2, raised("a bug"))})
    result, _ = await run(PAIRS, daemon)
    assert result.usability.state is UsabilityState.USABLE
    assert [hop.peer_id for hop in result.usability.path] == [SPARE, TWO]
    assert outcomes(result) == {
        ONE: InferenceOutcome.FAILED, SPARE: InferenceOutcome.COMPUTED, TWO: InferenceOutcome.COMPUTED,
    }  # fmt: skip
    assert [(peer, first) for peer, _, first, _ in daemon.requests] == [
        (ONE, 1.0), (TWO, 5.0), (ONE, 2.0), (SPARE, 1.0), (SPARE, 2.0), (TWO, 6.0),
    ]  # fmt: skip
    assert [list(values) for values in result.links[0].inputs] == [[1.0] * HIDDEN, [2.0] * HIDDEN]
    assert sorted(daemon.ended) == sorted((SPARE, TWO))  # the one that failed waits for no request


async def test_a_server_beyond_the_one_that_failed_keeps_what_it_was_given():
    """First the failed one's answer, then the spare's: others are given the same, to compare their answers."""
    daemon = Servers(**{ONE: lambda request, step: numbers([9.0] * HIDDEN) if step == 1 else raised("a bug")})
    result, _ = await run(PAIRS, daemon)
    assert [list(values) for values in result.links[1].inputs] == [[9.0] * HIDDEN, [6.0] * HIDDEN]
    assert [list(values) for values in result.links[1].outputs] == [[13.0] * HIDDEN, [10.0] * HIDDEN]


async def test_two_spares_take_the_place_of_one_server():
    """Each is given all tokens so far, as the one before it answered them."""
    daemon = Servers(**{ONE: fails_at(2, raised("a bug"))})
    result, _ = await run((reached(1, 0, 8), *PAIRS[1:3]), daemon)
    assert [(hop.peer_id, hop.start, hop.end) for hop in result.usability.path] == [(SPARE, 0, 4), (TWO, 4, 8)]
    assert [(peer, first) for peer, _, first, _ in daemon.requests][2:] == [
        (SPARE, 1.0), (SPARE, 2.0), (TWO, 5.0), (TWO, 6.0),
    ]  # fmt: skip


async def test_a_spare_takes_the_place_of_the_last_server():
    """The path before it stands."""
    daemon = Servers(**{TWO: fails_at(2, raised("a bug"))})
    result, _ = await run(PAIRS, daemon)
    assert [hop.peer_id for hop in result.usability.path] == [ONE, peer_id(4)]
    assert [(peer, first) for peer, _, first, _ in daemon.requests][2:] == [
        (ONE, 2.0), (TWO, 6.0), (peer_id(4), 5.0), (peer_id(4), 6.0),
    ]  # fmt: skip


async def test_who_cannot_be_connected_to_is_replaced_before_the_first_token():
    """Nobody could look at it, and it is asked nothing. Connecting is no part of a token's time."""
    daemon, tried = Servers(), []

    @asynccontextmanager
    async def connection(one):
        tried.append((one.peer_id, len(daemon.requests)))
        if one.peer_id == ONE:
            raise InferenceError(InferenceOutcome.UNKNOWN, "not connected")
        yield

    result, _ = await run(PAIRS, daemon, connection)
    assert tried == [(ONE, 0), (SPARE, 0), (TWO, 0)]
    assert outcomes(result)[ONE] is InferenceOutcome.UNKNOWN
    assert {peer for peer, *_ in daemon.requests} == {SPARE, TWO}
    result, daemon = await run(PAIRS[:2], connection=connection)
    assert (result.usability.state, daemon.requests) == (UsabilityState.UNKNOWN, [])


async def test_a_chain_that_breaks_shows_its_path_as_far_as_it_came():
    result, _ = await run(PAIRS[:2], Servers(**{TWO: lambda *_: raised("a bug")}))
    assert result.usability.state is UsabilityState.UNUSABLE
    assert [hop.peer_id for hop in result.usability.path] == [ONE]


@pytest.mark.parametrize(("left_out", "fails"), [(PAIRS[2], TWO), (PAIRS[3], ONE)])
async def test_only_servers_of_the_missing_blocks_are_the_reason(left_out, fails):
    """Not one that was left out, whose blocks end where the missing ones begin, or begin where they end."""
    instead = {left_out.peer_id: ServerInference(InferenceOutcome.BUSY, (0, 8), NOW)}
    daemon = Servers(**{fails: lambda *_: raised("a bug")})
    result, _ = await run((*PAIRS[:2], left_out), daemon, not_asked=instead)
    missing = "blocks 0–3" if fails == ONE else "blocks 4–7"
    assert result.usability.reason == f"{missing} at …{fails[-6:]}: failed (a bug)"


async def test_a_chain_is_given_up_after_so_many_failures():
    """One that takes all of a model's servers in turn would hold up the round."""
    servers = tuple(reached(number, 0, 8) for number in range(chain.MAX_FAILURES + 2))
    daemon = Servers(**{one.peer_id: lambda *_: raised("a bug") for one in servers})
    result, _ = await run(servers, daemon)
    assert len(result.findings) == len(daemon.requests) == chain.MAX_FAILURES + 1
    assert result.usability.state is UsabilityState.UNUSABLE
    assert result.usability.reason == "9 servers failed, the last one with: a bug"
    result, _ = await run(servers[: chain.MAX_FAILURES], daemon)
    assert result.usability.reason.count("failed (a bug)") == 3  # the last ones


async def test_a_chain_that_is_given_up_says_nothing_where_nobody_could_look():
    """Servers that refuse connections, which anyone can announce, make no model unusable."""

    @asynccontextmanager
    async def refused(_server):
        raise InferenceError(InferenceOutcome.UNKNOWN, "connection refused")
        yield

    result, _ = await run(tuple(reached(number, 0, 8) for number in range(chain.MAX_FAILURES + 2)), connection=refused)
    assert result.usability.state is UsabilityState.UNKNOWN


async def test_a_chain_that_takes_too_long_gives_no_token(monkeypatch):
    """What was computed until then is kept."""
    limits, timeout = [], asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda seconds: limits.append((seconds, timeout(seconds))) or limits[-1][1])
    result, _ = await run(PAIRS, Servers(**{TWO: lambda *_: limits[0][1].reschedule(0)}))
    assert limits[0][0] == chain.CHAIN_TIMEOUT
    assert (result.usability.state, result.usability.reason) == (UsabilityState.UNUSABLE, "no token within 120 s")
    assert result.usability.checked_at == NOW
    assert [hop.peer_id for hop in result.usability.path] == [ONE]
    assert outcomes(result) == {ONE: InferenceOutcome.COMPUTED}


async def test_a_silent_server_has_so_long_for_a_step(monkeypatch):
    monkeypatch.setattr(inference, "STEP_TIMEOUT", 0.02)
    result, _ = await run((reached(1, 0, 8),), Servers(**{ONE: lambda *_: None}))
    assert outcomes(result) == {ONE: InferenceOutcome.TIMEOUT}
    assert result.usability.reason.endswith("timeout (no answer to step 1 within 0.02 s)")


async def test_blocks_that_nobody_holds_are_not_the_monitors_doubt():
    """Unknown only where a server that nobody could dial, or could look at, would complete the path."""
    unseen = server(5, 4, 8, verdict=Verdict.UNKNOWN, inference_rps=1.0)
    for servers, state in (
        ((reached(1, 0, 4),), UsabilityState.UNUSABLE),
        ((reached(1, 0, 4), unseen), UsabilityState.UNKNOWN),
        ((reached(1, 0, 4), msgspec.structs.replace(unseen, state=PeerState.JOINING)), UsabilityState.UNUSABLE),
        ((reached(1, 0, 4), msgspec.structs.replace(unseen, span=reached(1, 5, 8).span)), UsabilityState.UNUSABLE),
    ):
        result, daemon = await run(servers)
        assert result.usability.state is state
        assert result.usability.reason == "no server that answers holds all of blocks 0–7"
        assert not daemon.requests


@pytest.mark.parametrize(
    ("outcome", "state"),
    [(InferenceOutcome.UNKNOWN, UsabilityState.UNKNOWN), (InferenceOutcome.BUSY, UsabilityState.UNUSABLE)],
)
async def test_who_is_not_asked_leaves_its_own_reason(outcome, state):
    """Opted out: not known. Without cache: no token. The finding is passed on as it is."""
    instead = ServerInference(outcome, (4, 8), NOW - 5)
    result, _ = await run(PAIRS[:2], not_asked={TWO: instead})
    assert result.findings == {TWO: instead}
    assert (result.usability.state, result.usability.reason) == (state, f"blocks 4–7 at …{TWO[-6:]}: {outcome}")


async def test_a_chain_that_is_cancelled_closes_its_sessions():
    """The end of a round waits for no server."""
    daemon = Servers(**{TWO: lambda *_: None})
    task = asyncio.create_task(run(PAIRS, daemon))
    while len(daemon.requests) < 2:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert daemon.ended == [ONE]
