"""Which error of a server's `rpc_info` becomes refused, failed, busy, timeout, and which is nobody's finding."""

import asyncio
from types import SimpleNamespace

import pytest

from shared.inference import MAX_DETAIL_CHARS, InferenceOutcome, ServerInference
from shared.p2p import inference, tensors
from shared.p2p.hivemind import P2PDaemonError, P2PHandlerError, runtime_pb2
from shared.p2p.inference import (
    ANSWER_OVERHEAD,
    MAX_ERROR_BYTES,
    MAX_HIDDEN_SIZE,
    MAX_SCHEMA_BYTES,
    SESSION_PREFIX,
    BlockSchema,
    InferenceError,
    ask_schema,
    check_server,
    open_session,
    random_inputs,
    read_schema,
)
from tests.fakes import peer_id
from tests.shared.inference_streams import ERROR, HIDDEN, Servers, answer_rpc_info, compute, framed, raised, schema

pytestmark = pytest.mark.fast

ONE = peer_id(1)


async def failure(awaitable):
    with pytest.raises(InferenceError) as caught:
        await awaitable
    return caught.value.outcome, caught.value.detail


HANDLER = "Failed to handle: "


@pytest.mark.parametrize(
    ("answer", "outcome", "detail"),
    [
        (P2PDaemonError("protocols not supported"), InferenceOutcome.REFUSED, "it serves no inference"),
        (P2PDaemonError("stream reset"), InferenceOutcome.UNKNOWN, "stream reset"),
        (P2PHandlerError(f"{HANDLER}'m.3'"), InferenceOutcome.REFUSED, "does not serve m.3"),
        (P2PHandlerError(f"m.3: {HANDLER}a bug"), InferenceOutcome.FAILED, "a bug"),
        (P2PHandlerError(f"{HANDLER}out of memory"), InferenceOutcome.BUSY, "out of memory"),
        (P2PHandlerError(f"{HANDLER}User did not provide any uids"), InferenceOutcome.REFUSED,
         "User did not provide any uids"),
        (inference.DecodeError("odd"), InferenceOutcome.FAILED, "its answer to rpc_info is no message"),
        (OSError("gone"), InferenceOutcome.UNKNOWN, "p2pd: OSError('gone')"),
        (EOFError(), InferenceOutcome.UNKNOWN, "p2pd: EOFError()"),
        (b"\xc1", InferenceOutcome.FAILED, "its rpc_info does not describe the block"),
        (b"\0" * (MAX_SCHEMA_BYTES + 1), InferenceOutcome.FAILED, f"rpc_info took {MAX_SCHEMA_BYTES + 1} bytes"),
        (schema((0,)), InferenceOutcome.WRONG_SHAPE, "its rpc_info names the hidden size 0"),
        (schema((MAX_HIDDEN_SIZE + 1,)), InferenceOutcome.WRONG_SHAPE, "its rpc_info names the hidden size 32769"),
        (schema(("x" * 99,)), InferenceOutcome.WRONG_SHAPE, f"its rpc_info names the hidden size '{'x' * 39}"),
    ],
    ids=map(str, range(14)),
)  # fmt: skip
async def test_every_error_of_rpc_info_has_its_outcome(monkeypatch, answer, outcome, detail):
    """Where our own daemon failed, nobody could look; a block that is not held is refused, whatever words name it."""
    answer_rpc_info(monkeypatch, lambda *_: answer)
    assert await failure(ask_schema(Servers(), ONE, "m.3")) == (outcome, detail)


async def test_a_schema_says_how_much_cache_is_left(monkeypatch):
    answer_rpc_info(monkeypatch, lambda *_: schema(cache_tokens_available=7))
    assert await ask_schema(Servers(), ONE, "m.3") == BlockSchema(HIDDEN, 7)


async def test_who_is_silent_has_so_long(monkeypatch):
    """For `rpc_info` and for opening a session."""

    class Silent(Servers):
        async def open_stream(self, *_):
            await asyncio.Event().wait()

    async def silent(_):
        await asyncio.Event().wait()

    monkeypatch.setattr(inference, "SCHEMA_TIMEOUT", 0.01)
    monkeypatch.setattr(inference, "STEP_TIMEOUT", 0.02)
    stub = SimpleNamespace(rpc_info=silent)
    monkeypatch.setattr(inference.TransformerConnectionHandler, "get_stub", lambda *_: stub)
    found = await failure(ask_schema(Servers(), ONE, "m.3"))
    assert found == (InferenceOutcome.TIMEOUT, "no answer to rpc_info within 0.01 s")
    answer_rpc_info(monkeypatch, lambda *_: schema())
    finding, outputs = await check_server(Silent(), ONE, "m", (0, 1))
    assert (finding.outcome, finding.detail, outputs) == (InferenceOutcome.TIMEOUT, "no session within 0.02 s", [])


@pytest.mark.parametrize("answer", [None, b""], ids=["silent", "ended"])
async def test_an_answer_that_our_own_side_may_have_lost_says_nothing_about_the_server(monkeypatch, answer):
    """The network, or p2pd with all of its streams, went away in the middle of a step: nor is a ping answered."""
    monkeypatch.setattr(inference, "STEP_TIMEOUT", 0.02)
    answer_rpc_info(monkeypatch, lambda *_: schema())
    daemon = Servers(**{ONE: lambda *_: answer})
    daemon.answers_pings = False
    finding, _ = await check_server(daemon, ONE, "m", (0, 1))
    assert finding.outcome is InferenceOutcome.UNKNOWN
    assert finding.detail.endswith("step 1 within 0.02 s, nor to a ping" if answer is None else "step 1, nor to a ping")


@pytest.mark.parametrize(
    ("info", "read"),
    [
        (schema((1,)), (1, None)),
        (schema((MAX_HIDDEN_SIZE,)), (MAX_HIDDEN_SIZE, None)),
        (schema(cache_tokens_available=0), (HIDDEN, 0)),
        (schema(cache_tokens_available=-1), (HIDDEN, None)),
        (schema(cache_tokens_available=True), (HIDDEN, None)),
        (schema(padding=b"\0" * (MAX_SCHEMA_BYTES - len(schema(padding=b"")) - 1)), (HIDDEN, None)),
    ],
    ids=map(str, range(6)),
)
def test_the_limits_of_a_schema(info, read):
    assert read_schema(info) == read


@pytest.mark.parametrize(
    ("outcome", "signs"),
    [
        (InferenceOutcome.BUSY, ("Could not allocate", "AllocationFailed", "cache is full",
                                 "Cannot allocate KV cache", "out of memory")),
        (InferenceOutcome.REFUSED, ("does not serve", "not found", "User did not provide any uids")),
        (InferenceOutcome.FAILED, ("another error",)),
    ],
)  # fmt: skip
async def test_a_servers_own_words_are_told_apart(monkeypatch, outcome, signs):
    """Petals' words for "no cache" and for "not my blocks"; any others are a failure."""
    answer_rpc_info(monkeypatch, lambda *_: schema())
    for sign in signs:
        finding, _ = await check_server(Servers(**{ONE: lambda *_: raised(f"x {sign} y")}), ONE, "m", (0, 1))  # noqa: B023
        assert finding.outcome is outcome


async def test_a_check_takes_tokens_through_the_blocks_of_a_server(monkeypatch):
    """With the adapter that it names; later steps belong to the first one's session, which is ended."""
    asked = []
    answer_rpc_info(monkeypatch, lambda *of: asked.append(of) or schema())
    ticks = iter([1.0, 4.0, 4.0, 5.0, 5.0, 5.5, 5.5])
    monkeypatch.setattr(inference.time, "perf_counter", lambda: next(ticks))
    daemon, given = Servers(), random_inputs(HIDDEN)
    finding, outputs = await check_server(
        daemon, ONE, "m", (3, 5), adapter="lab/lora", inputs=lambda _: [*given, given[0]], now=lambda: 9.0
    )
    assert asked == [(ONE, "m.3")]
    assert finding == ServerInference(
        InferenceOutcome.COMPUTED, (3, 5), 9.0, seconds_first_step=3.0, seconds_per_step=0.5, adapter="lab/lora"
    )
    for before, after in zip([*given, given[0]], outputs, strict=True):
        assert list(after) == pytest.approx([value + 2 for value in before])
    (_, uids, _, first), (_, _, _, second), _ = daemon.requests
    assert uids == "m.3 m.4"
    assert first == {
        "max_length": 2, "session_id": first["session_id"], "active_adapter": "lab/lora", "step_id": "1",
    }  # fmt: skip
    assert first["session_id"].startswith(SESSION_PREFIX)
    assert second == first | {"step_id": "2"}
    assert daemon.ended == [ONE]


def response(length):
    """The answer of a server that computes, padded to so many bytes."""
    tensor = tensors.pack(random_inputs(HIDDEN)[0], (1, 1, HIDDEN))
    bare = len(runtime_pb2.ExpertResponse(tensors=[tensor], metadata=b"\0" * 500).SerializeToString()) - 500
    message = runtime_pb2.ExpertResponse(tensors=[tensor], metadata=b"\0" * (length - bare)).SerializeToString()
    assert len(message) == length
    return framed(message)


LONGEST = 4 * HIDDEN + ANSWER_OVERHEAD
GONE = OSError("gone")


@pytest.mark.parametrize(
    ("answer", "outcome", "detail"),
    [
        (GONE, InferenceOutcome.UNKNOWN, "p2pd: OSError('gone')"),
        (framed(b"\xff" * 40), InferenceOutcome.FAILED, "its answer is no message"),
        (framed(b"", marker=7), InferenceOutcome.FAILED, "its answer is no message"),
        (response(LONGEST + 1), InferenceOutcome.WRONG_SHAPE, "its answer has 1041 bytes, expected at most 1040"),
        (framed(b"", ERROR), InferenceOutcome.FAILED, "it raised an error without words"),
        (framed(b"\0" * (MAX_ERROR_BYTES + 1), ERROR), InferenceOutcome.FAILED,
         "its answer has 65537 bytes, expected at most 65536"),
        (framed(b"\0" * MAX_ERROR_BYTES, ERROR), InferenceOutcome.FAILED, "its answer is no message"),
        (raised("x" * 2000), InferenceOutcome.FAILED, "x" * MAX_DETAIL_CHARS),
        (raised("xyz").replace(b"xyz", b"x\xffz"), InferenceOutcome.FAILED, r"b'x\xffz'"),
        (framed(b""), InferenceOutcome.WRONG_SHAPE, "its answer holds no tensor"),
        (framed(runtime_pb2.ExpertResponse(
            tensors=[runtime_pb2.Tensor(size=[1, 1, HIDDEN], dtype="int8")]).SerializeToString()),
         InferenceOutcome.UNKNOWN, "dtype 'int8' is none of float32, float16, bfloat16"),
    ],
    ids=map(str, range(11)),
)  # fmt: skip
async def test_every_answer_without_numbers_has_its_outcome(answer, outcome, detail):
    """An answer that this monitor does not read, and a stream that breaks on our side, are nobody's finding."""

    def script(*_):
        if answer is GONE:
            raise GONE
        return answer

    async with open_session(Servers(**{ONE: script}), ONE, "m", (0, 1), hidden_size=HIDDEN) as session:
        assert await failure(session.step(random_inputs(HIDDEN)[0])) == (outcome, detail)


async def test_an_answer_may_be_as_long_as_its_numbers_and_a_kilobyte():
    daemon = Servers(**{ONE: lambda *_: response(LONGEST)})
    async with open_session(daemon, ONE, "m", (0, 1), hidden_size=HIDDEN) as session:
        assert len(await session.step(random_inputs(HIDDEN)[0])) == HIDDEN


async def test_the_end_of_a_session_holds_nobody_up(monkeypatch):
    """A server that keeps the stream open has a moment to close it; one that breaks it has computed, too."""
    monkeypatch.setattr(inference, "END_TIMEOUT", 0.01)

    def breaks(_reader):
        raise GONE

    for at_end in (lambda _reader: None, breaks):
        daemon = Servers()
        daemon.at_end = at_end
        async with open_session(daemon, ONE, "m", (0, 1), hidden_size=HIDDEN) as session:
            await session.step(random_inputs(HIDDEN)[0])
        assert daemon.ended == [ONE]


async def test_a_request_is_what_petals_reads():
    """The token, and two tensors that are not given: no prompts, no hypothesis ids."""
    requests = []
    daemon = Servers(**{ONE: lambda request, step: requests.append(request) or compute(request, step)})
    async with open_session(daemon, ONE, "m", (0, 2), hidden_size=HIDDEN) as session:
        await session.step(random_inputs(HIDDEN)[0])
    assert requests[0].uid == "m.0 m.1"
    assert [(list(tensor.size), tensor.dtype) for tensor in requests[0].tensors] == [
        ([1, 1, HIDDEN], "float32"), ([0], "float32"), ([0], "int64"),
    ]  # fmt: skip


async def test_a_check_without_an_adapter_names_none(monkeypatch):
    """A finding of a failure bears the blocks, the time, the words and the adapter that was asked for."""
    answer_rpc_info(monkeypatch, lambda *_: schema())
    daemon = Servers()
    await check_server(daemon, ONE, "m", (0, 1))
    assert "active_adapter" not in daemon.requests[0][3]
    daemon = Servers(**{ONE: lambda *_: raised("does not serve it")})
    finding, outputs = await check_server(daemon, ONE, "m", (0, 1), adapter="a", now=lambda: 9.0)
    assert outputs == []
    assert finding == ServerInference(
        InferenceOutcome.REFUSED, (0, 1), 9.0, detail="does not serve it", adapter="a"
    )  # fmt: skip


async def test_a_session_asks_for_as_much_cache_as_it_needs():
    daemon = Servers()
    async with open_session(daemon, ONE, "m", (0, 1), hidden_size=HIDDEN, max_length=7) as session:
        await session.step(random_inputs(HIDDEN)[0])
    assert daemon.requests[0][3]["max_length"] == 7


def test_inputs_are_new_each_time():
    """One for each token, of a model's order of magnitude."""
    one, other = random_inputs(1000), random_inputs(1000)
    assert one != other
    assert [len(values) for values in one] == [1000, 1000]
    assert one[0] != one[1]
    for values in one:
        assert 0.04 < (sum(value * value for value in values) / 1000) ** 0.5 < 0.06
        assert abs(sum(values) / 1000) < 0.01
