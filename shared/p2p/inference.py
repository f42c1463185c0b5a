"""This module runs one short session of real inference on a Petals server, and returns how it ended.

It speaks petals' `rpc_inference` on a stream of its own instead of through hivemind's stub: hivemind reads a message
of any length that a server claims. Here each message has a longest length, each step a deadline, and what comes after
the last expected answer is not read. A session is ended as petals' client ends one, so that its cache is free at once.

Wire format: petals `TransformerConnectionHandler.rpc_inference`; framing: hivemind `P2P.send_protobuf`: one byte that
tells a message from an error, eight bytes of length, the protobuf message.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from array import array
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import msgspec
from google.protobuf.message import DecodeError

from shared.inference import MAX_DETAIL_CHARS, InferenceOutcome, ServerInference
from shared.p2p import tensors
from shared.p2p.dial_errors import classify, clean
from shared.p2p.hivemind import MSGPackSerializer, P2PDaemonError, P2PHandlerError, p2pd_pb2, runtime_pb2
from shared.p2p.petals import PeerID, TransformerConnectionHandler, block_key
from shared.reachability import Cause

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator, Callable, Sequence

    from shared.p2p.daemon import Daemon

PROTOCOL = "TransformerConnectionHandler.rpc_inference"
SESSION_PREFIX = "petals-health-monitor-"
"""What the ids of this monitor's sessions begin with."""
TOKENS = 2
"""Steps of a session, one token each: the second one reads the cache that the first one wrote."""
STEP_TIMEOUT = 15.0
"""Seconds for one step. Petals' client waits for 180; a server that needs 15 for one token is of no use to it."""
SCHEMA_TIMEOUT = 5.0
END_TIMEOUT = 1.0
"""Seconds that a server gets to close the session's stream itself."""
MAX_HIDDEN_SIZE = 32_768
"""The largest public model has 16,384."""
MAX_SCHEMA_BYTES = 16 * 1024
"""A genuine answer takes 773."""
ANSWER_OVERHEAD = 1024
"""Bytes of an answer beside the numbers: a genuine one takes 30."""
MAX_ERROR_BYTES = 64 * 1024
INPUT_SCALE = 0.05
"""Standard deviation of the random input: that of a model's embeddings, by order of magnitude."""

_MESSAGE, _ERROR = 0, 1
_END_OF_STREAM = bytes((_ERROR,)) + bytes(8)
_BUSY = ("Could not allocate", "AllocationFailed", "cache is full", "Cannot allocate KV cache", "out of memory")
_REFUSED = ("does not serve", "not found", "User did not provide any uids")


class InferenceError(Exception):
    """An inference check that got no numbers; `outcome` is how it ended."""

    def __init__(self, outcome: InferenceOutcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = clean(detail)[:MAX_DETAIL_CHARS]


class BlockSchema(NamedTuple):
    """What a server's `rpc_info` reports of one block."""

    hidden_size: int
    cache_tokens: int | None
    """Tokens of attention cache that are left, for all its blocks together, keys and values counted apart."""


def random_inputs(hidden_size: int) -> tuple[array[float], ...]:
    """Return one random hidden state for each token of a session, which no server knows before."""
    return tuple(array("f", (random.gauss(0, INPUT_SCALE) for _ in range(hidden_size))) for _ in range(TOKENS))


def read_schema(serialized_info: bytes) -> BlockSchema:
    """Return what `rpc_info` reported of a block. Raises `InferenceError`."""
    if len(serialized_info) > MAX_SCHEMA_BYTES:
        raise InferenceError(InferenceOutcome.FAILED, f"rpc_info took {len(serialized_info)} bytes")
    try:
        info = _unpack(serialized_info)
        (descriptor,) = _unpack(info["outputs_schema"].data)
        hidden_size = _unpack(_unpack(descriptor.data)["size"].data)[-1]
        tokens = info.get("cache_tokens_available")
    except (msgspec.MsgspecError, RecursionError, LookupError, AttributeError, TypeError, ValueError):
        raise InferenceError(InferenceOutcome.FAILED, "its rpc_info does not describe the block") from None
    if type(hidden_size) is not int or not 0 < hidden_size <= MAX_HIDDEN_SIZE:
        raise InferenceError(InferenceOutcome.WRONG_SHAPE, f"its rpc_info names the hidden size {hidden_size!r:.40}")
    return BlockSchema(hidden_size, tokens if type(tokens) is int and tokens >= 0 else None)


def _unpack(data: bytes) -> Any:
    """Decode msgpack; hivemind's tuples and descriptors stay bytes, so that no object is built from them."""
    return msgspec.msgpack.decode(data)


async def ask_schema(daemon: Daemon, peer_id: str, uid: str) -> BlockSchema:
    """Ask a connected server about one of its blocks. Raises `InferenceError`."""
    stub = TransformerConnectionHandler.get_stub(daemon.p2p, PeerID.from_base58(peer_id))
    try:
        async with asyncio.timeout(SCHEMA_TIMEOUT):
            answer = await stub.rpc_info(runtime_pb2.ExpertUID(uid=uid))
    except TimeoutError:
        detail = f"no answer to rpc_info within {SCHEMA_TIMEOUT:g} s"
        raise await _unanswered(daemon, peer_id, InferenceOutcome.TIMEOUT, detail) from None
    except P2PDaemonError as error:
        raise _not_opened(error) from error
    except P2PHandlerError as error:
        # petals looks the block up in a dictionary: the error of one that it does not hold is its name alone.
        words = str(error).rpartition(": ")[2]
        outcome = InferenceOutcome.REFUSED if uid in words else _outcome_of(words)
        raise InferenceError(outcome, f"does not serve {uid}" if uid in words else words) from error
    except DecodeError as error:
        raise InferenceError(InferenceOutcome.FAILED, "its answer to rpc_info is no message") from error
    except (OSError, EOFError) as error:
        raise InferenceError(InferenceOutcome.UNKNOWN, f"p2pd: {error!r}") from error
    return read_schema(answer.serialized_info)


async def _unanswered(daemon: Daemon, peer_id: str, outcome: InferenceOutcome, detail: str) -> InferenceError:
    """Return the error of a server that gave no answer.

    Where none comes to a ping either, our own network or daemon may be away: nothing is said about the server.
    """
    if await daemon.pings(peer_id):
        return InferenceError(outcome, detail)
    return InferenceError(InferenceOutcome.UNKNOWN, f"{detail}, nor to a ping")


class Session:
    """An open session with one server over consecutive blocks: `step` takes one token through them."""

    def __init__(
        self,
        reader: StreamReader,
        writer: StreamWriter,
        uid: str,
        hidden_size: int,
        metadata: dict[str, Any],
        *,
        daemon: Daemon,
        peer_id: str,
    ) -> None:
        self._daemon = daemon
        self._peer_id = peer_id
        self._reader = reader
        self._writer = writer
        self._uid = uid
        self._shape = (1, 1, hidden_size)
        self._metadata = metadata
        self._steps = 0
        self._answers = 0
        """The server waits for the next request, so that it can be told the end, where it answered each step."""

    async def step(self, values: array[float]) -> array[float]:
        """Return the hidden state after the last block. Raises `InferenceError`."""
        self._steps += 1
        try:
            async with asyncio.timeout(STEP_TIMEOUT):
                output = await self._step(values)
        except TimeoutError:
            detail = f"no answer to step {self._steps} within {STEP_TIMEOUT:g} s"
            raise await _unanswered(self._daemon, self._peer_id, InferenceOutcome.TIMEOUT, detail) from None
        except EOFError:
            detail = f"it closed the session without an answer to step {self._steps}"
            raise await _unanswered(self._daemon, self._peer_id, InferenceOutcome.FAILED, detail) from None
        except OSError as error:
            raise InferenceError(InferenceOutcome.UNKNOWN, f"p2pd: {error!r}") from error
        self._answers += 1
        if not all(map(math.isfinite, output)):
            wrong = sum(not math.isfinite(value) for value in output)
            raise InferenceError(
                InferenceOutcome.NOT_FINITE, f"{wrong} of {len(output)} values of step {self._steps} are not finite"
            )
        return output

    async def _step(self, values: array[float]) -> array[float]:
        metadata = {**self._metadata, "step_id": str(self._steps)}
        request = runtime_pb2.ExpertRequest(
            uid=self._uid,
            tensors=[tensors.pack(values, self._shape), tensors.empty(), tensors.empty("int64")],
            metadata=MSGPackSerializer.dumps(metadata),
        )
        await self._send(request.SerializeToString())
        marker, body = await _read_message(self._reader, 4 * self._shape[-1] + ANSWER_OVERHEAD)
        try:
            if marker == _ERROR:
                words = str(p2pd_pb2.RPCError.FromString(body).message)  # protobuf has bytes where they are no text
                raise InferenceError(_outcome_of(words), words or "it raised an error without words")
            answer = runtime_pb2.ExpertResponse.FromString(body)
        except DecodeError:
            raise InferenceError(InferenceOutcome.FAILED, "its answer is no message") from None
        if not answer.tensors:
            raise InferenceError(InferenceOutcome.WRONG_SHAPE, "its answer holds no tensor")
        try:
            return tensors.read(answer.tensors[0], self._shape)
        except tensors.WrongTensorError as error:
            raise InferenceError(InferenceOutcome.WRONG_SHAPE, str(error)) from None
        except tensors.UnreadTensorError as error:
            raise InferenceError(InferenceOutcome.UNKNOWN, str(error)) from None

    async def _send(self, message: bytes) -> None:
        self._writer.write(bytes((_MESSAGE,)) + len(message).to_bytes(8, "big") + message)
        await self._writer.drain()

    async def end(self) -> None:
        """Tell the server that no more steps come, as petals' client does, and let it close the stream."""
        if self._answers < self._steps:
            return
        with suppress(OSError):  # a TimeoutError is one
            async with asyncio.timeout(END_TIMEOUT):
                await self._send(b"")
                self._writer.write(_END_OF_STREAM)
                await self._writer.drain()
                await self._reader.read(1)  # its end; what a server sends beyond it is not read


@asynccontextmanager
async def open_session(
    daemon: Daemon,
    peer_id: str,
    dht_prefix: str,
    blocks: tuple[int, int],
    *,
    hidden_size: int,
    max_length: int = TOKENS,
    adapter: str | None = None,
) -> AsyncIterator[Session]:
    """Open a session over blocks `start <= block < end` of a connected server, and end it. Raises `InferenceError`.

    The session exists for the server from its first step on; `max_length` tokens of cache are asked for, at once or
    not at all.
    """
    try:
        async with asyncio.timeout(STEP_TIMEOUT):
            reader, writer = await daemon.open_stream(peer_id, PROTOCOL)
    except TimeoutError:
        detail = f"no session within {STEP_TIMEOUT:g} s"
        raise await _unanswered(daemon, peer_id, InferenceOutcome.TIMEOUT, detail) from None
    except P2PDaemonError as error:
        raise _not_opened(error) from error
    except (OSError, EOFError) as error:
        raise InferenceError(InferenceOutcome.UNKNOWN, f"p2pd: {error!r}") from error
    metadata: dict[str, Any] = {"max_length": max_length, "session_id": f"{SESSION_PREFIX}{uuid4()}"}
    if adapter is not None:
        metadata["active_adapter"] = adapter
    uids = block_uids(dht_prefix, blocks)
    session = Session(reader, writer, uids, hidden_size, metadata, daemon=daemon, peer_id=peer_id)
    try:
        yield session
    finally:
        # Closing the stream ends a session too, also in the middle of a step.
        try:
            await session.end()
        finally:
            writer.close()


def block_uids(dht_prefix: str, blocks: tuple[int, int]) -> str:
    return " ".join(block_key(dht_prefix, block) for block in range(*blocks))


async def check_server(
    daemon: Daemon,
    peer_id: str,
    dht_prefix: str,
    blocks: tuple[int, int],
    *,
    adapter: str | None = None,
    inputs: Callable[[int], Sequence[array[float]]] = random_inputs,
    now: Callable[[], float] = time.time,
) -> tuple[ServerInference, list[array[float]]]:
    """Ask a connected server about its first block, then take tokens through its blocks. Never raises for the server.

    `inputs` is given the hidden size. Returns the finding, and the answer to each token; no answers of a server that
    failed.
    """
    began = now()
    outputs: list[array[float]] = []
    seconds: list[float] = []
    try:
        schema = await ask_schema(daemon, peer_id, block_key(dht_prefix, blocks[0]))
        chosen = inputs(schema.hidden_size)
        started = time.perf_counter()
        async with open_session(
            daemon, peer_id, dht_prefix, blocks, hidden_size=schema.hidden_size, adapter=adapter
        ) as session:
            for values in chosen:
                outputs.append(await session.step(values))
                seconds.append(time.perf_counter() - started)
                started = time.perf_counter()
    except InferenceError as error:
        return ServerInference(error.outcome, blocks, began, detail=error.detail, adapter=adapter), []
    finding = ServerInference(
        InferenceOutcome.COMPUTED,
        blocks,
        began,
        seconds_first_step=seconds[0],
        seconds_per_step=seconds[-1],
        adapter=adapter,
    )
    return finding, outputs


async def _read_message(reader: StreamReader, longest: int) -> tuple[int, bytes]:
    """Return whether a message or an error came, and it. Raises `InferenceError`, `EOFError`."""
    marker = (await reader.readexactly(1))[0]
    length = int.from_bytes(await reader.readexactly(8), "big")
    if marker not in (_MESSAGE, _ERROR):
        raise InferenceError(InferenceOutcome.FAILED, "its answer is no message")
    outcome = InferenceOutcome.WRONG_SHAPE
    if marker == _ERROR:
        outcome, longest = InferenceOutcome.FAILED, MAX_ERROR_BYTES
    if length > longest:
        raise InferenceError(outcome, f"its answer has {length} bytes, expected at most {longest}")
    return marker, await reader.readexactly(length)


def _outcome_of(words: str) -> InferenceOutcome:
    """Return what a server's error means, by petals' own words."""
    if any(sign in words for sign in _BUSY):
        return InferenceOutcome.BUSY
    if any(sign in words for sign in _REFUSED):
        return InferenceOutcome.REFUSED
    return InferenceOutcome.FAILED


def _not_opened(error: P2PDaemonError) -> InferenceError:
    """A peer that lacks the protocol serves no inference; any other failure to open a stream is nobody's finding."""
    if classify(str(error)).cause is Cause.PROTOCOL_MISSING:
        return InferenceError(InferenceOutcome.REFUSED, "it serves no inference")
    return InferenceError(InferenceOutcome.UNKNOWN, str(error))
