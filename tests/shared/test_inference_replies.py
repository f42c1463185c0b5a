"""A server's answers to an inference check are hostile: bounded memory, bounded time, one clear outcome."""

import asyncio
import math
import struct
import tracemalloc
from array import array
from contextlib import suppress

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.inference import MAX_DETAIL_CHARS, InferenceOutcome
from shared.p2p import inference, tensors
from shared.p2p.hivemind import p2pd_pb2, runtime_pb2
from shared.p2p.inference import InferenceError, check_server, open_session, random_inputs, read_schema
from tests.shared.inference_streams import schema

HIDDEN = 64
INPUT = random_inputs(HIDDEN)[0]
GOOD = runtime_pb2.ExpertResponse(tensors=[tensors.pack(INPUT, (1, 1, HIDDEN))]).SerializeToString()


def framed(message, marker=0, length=None):
    return bytes((marker,)) + (len(message) if length is None else length).to_bytes(8, "big") + message


class FakeDaemon:
    """Opens streams to a real TCP server that answers with given bytes, whatever it is asked."""

    def __init__(self, port):
        self._port = port

    async def open_stream(self, peer_id, protocol):
        assert protocol == "TransformerConnectionHandler.rpc_inference"
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def pings(self, peer_id):
        return True


async def outcome_of(answer, *, close=True, pause=0.0):
    """Return how a step ends that is answered with these bytes, a byte at a time where there is a pause."""

    async def serve(reader, writer):
        try:
            await reader.readexactly(9)
            for place in range(0, len(answer), 1 if pause else len(answer) or 1):
                writer.write(answer[place : place + 1] if pause else answer)
                await writer.drain()
                await asyncio.sleep(pause)
            if not close:
                await reader.read()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        daemon = FakeDaemon(server.sockets[0].getsockname()[1])
        try:
            async with open_session(daemon, "QmPeer", "model", (0, 1), hidden_size=HIDDEN) as session:
                await session.step(INPUT)
        except InferenceError as error:
            return error.outcome if len(error.detail) <= MAX_DETAIL_CHARS else error.detail
        return InferenceOutcome.COMPUTED


def response(**fields):
    tensor = runtime_pb2.Tensor(**{"size": [1, 1, HIDDEN], "dtype": "float32", "buffer": INPUT.tobytes()} | fields)
    return framed(runtime_pb2.ExpertResponse(tensors=[tensor]).SerializeToString())


NAN = array("f", [math.nan] * HIDDEN).tobytes()


@pytest.mark.real_parts
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (framed(GOOD), InferenceOutcome.COMPUTED),
        (framed(GOOD) + b"more after the end" * 10_000, InferenceOutcome.COMPUTED),
        (b"", InferenceOutcome.FAILED),
        (framed(GOOD)[:-1], InferenceOutcome.FAILED),
        (framed(b"\xff" * 40), InferenceOutcome.FAILED),
        (framed(GOOD, marker=7), InferenceOutcome.FAILED),
        (framed(GOOD, length=2**63), InferenceOutcome.WRONG_SHAPE),
        (framed(b"", length=2**31), InferenceOutcome.WRONG_SHAPE),
        (framed(b"", marker=1, length=2**31), InferenceOutcome.FAILED),
        (framed(b"", marker=1), InferenceOutcome.FAILED),
        (framed(p2pd_pb2.RPCError(message="x" * 60_000).SerializeToString(), marker=1), InferenceOutcome.FAILED),
        (framed(runtime_pb2.ExpertResponse().SerializeToString()), InferenceOutcome.WRONG_SHAPE),
        (response(size=[2**31, 2**31, HIDDEN]), InferenceOutcome.WRONG_SHAPE),
        (response(size=[]), InferenceOutcome.WRONG_SHAPE),
        (response(size=[1] * 200), InferenceOutcome.WRONG_SHAPE),
        (response(buffer=b""), InferenceOutcome.WRONG_SHAPE),
        (response(buffer=b"\0" * 255), InferenceOutcome.WRONG_SHAPE),
        (response(buffer=NAN), InferenceOutcome.NOT_FINITE),
        (response(dtype="object"), InferenceOutcome.UNKNOWN),
        (response(dtype="float64"), InferenceOutcome.UNKNOWN),
        (response(dtype=""), InferenceOutcome.UNKNOWN),
        (response(compression=5), InferenceOutcome.UNKNOWN),
        (response(compression=99), InferenceOutcome.UNKNOWN),
        (response(compression=2), InferenceOutcome.WRONG_SHAPE),
    ],
    ids=map(str, range(24)),
)
async def test_every_kind_of_answer_has_its_outcome(answer, outcome):
    """Whatever it claims of sizes, types, lengths and counts."""
    assert await outcome_of(answer) is outcome


@pytest.mark.real_parts
async def test_a_byte_at_a_time_ends_at_the_deadline(monkeypatch):
    """A slow stream has no more time than a silent one."""
    monkeypatch.setattr(inference, "STEP_TIMEOUT", 0.3)
    assert await outcome_of(framed(GOOD), pause=0.05) is InferenceOutcome.TIMEOUT
    assert await outcome_of(b"", close=False) is InferenceOutcome.TIMEOUT


@pytest.mark.real_parts
async def test_memory_is_bounded_by_the_answer_that_was_asked_for():
    """Not by what is claimed, nor by what is sent."""
    flood = framed(b"\x12\x00" * 1_000_000) + b"\0" * 4_000_000
    tracemalloc.start()
    try:
        assert await outcome_of(flood) is InferenceOutcome.WRONG_SHAPE
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The flood itself is counted once more in its own sender's buffer.
    assert peak < len(flood) + 3_000_000


@pytest.mark.fast
@given(st.binary(max_size=400))
def test_no_bytes_at_all_raise_anything_else(data):
    """Schemas and answers: `InferenceError` or a result."""
    for read in (read_schema, lambda raw: asyncio.run(_step_on(raw))):
        with suppress(InferenceError):
            read(data)


async def _step_on(data):
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    session = inference.Session(reader, _Nowhere(), "m.0", HIDDEN, {}, daemon=FakeDaemon(1), peer_id="QmPeer")
    return await session.step(INPUT)


class _Nowhere:
    """A writer whose bytes nobody reads."""

    def write(self, data):
        pass

    async def drain(self):
        pass


@pytest.mark.fast
def test_a_schema_is_read_without_building_anything_of_a_strangers():
    """Extension types stay bytes; strings for numbers, deep nesting and absurd sizes are refused."""
    assert read_schema(schema((None, 1, 2048, 4096), cache_tokens_available=7)) == (4096, 7)
    assert read_schema(schema((None, 1, 2048, 4096), cache_tokens_available="7")) == (4096, None)
    nested = b"\x81\xaeoutputs_schema" + b"\x91" * 5000 + b"\x01"
    for bad in (
        schema(("4096",)), schema((2**40,)), schema((0,)), schema((True,)), schema((1.5,)), schema(()), schema(4096),
        nested, b"", b"\xc1", msgpack.packb({"outputs_schema": [1]}), msgpack.packb([1]), b"\x00" * 17_000,
    ):  # fmt: skip
        with pytest.raises(InferenceError):
            read_schema(bad)


@pytest.mark.fast
@given(st.lists(st.floats(width=16, allow_nan=False), min_size=1, max_size=50))
def test_every_dtype_is_read_as_it_was_written(values):
    """float32, float16 plain and compressed, bfloat16 in both forms that hivemind sends."""
    shape, count = (1, 1, len(values)), len(values)
    halves = struct.pack(f"<{count}e", *values)
    floats = struct.pack(f"<{count}f", *values)
    upper = b"".join(floats[place + 2 : place + 4] for place in range(0, len(floats), 4))
    truncated = struct.unpack(f"<{count}f", b"".join(b"\0\0" + upper[i : i + 2] for i in range(0, len(upper), 2)))

    def read(buffer, dtype, compression=0):
        tensor = runtime_pb2.Tensor(buffer=buffer, size=shape, dtype=dtype, compression=compression)
        return list(tensors.read(tensor, shape))

    assert read(floats, "float32") == values
    assert read(halves, "float16") == values
    assert read(halves, "float32", compression=2) == values
    assert read(floats, "bfloat16") == values
    assert read(upper, "bfloat16") == list(truncated)


@pytest.mark.fast
async def test_a_check_never_raises_for_what_a_server_does(monkeypatch):
    """A schema that is refused is an outcome, as an answer is."""

    async def refuses(*_):
        raise InferenceError(InferenceOutcome.REFUSED, "no such block")

    monkeypatch.setattr(inference, "ask_schema", refuses)
    finding, outputs = await check_server(FakeDaemon(1), "QmPeer", "model", (0, 1))
    assert (finding.outcome, finding.detail, outputs) == (InferenceOutcome.REFUSED, "no such block", [])
