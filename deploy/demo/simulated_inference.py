"""This module computes in a simulated server's place: blocks that are cheap, and all that can go wrong with real ones.

A block adds to the hidden state a shifted copy of itself, by the block's number and the "weights". So servers with
the same weights give the same numbers, those with others do not, and a chain gives what one server gives.
"""

from __future__ import annotations

import asyncio
import math
from array import array
from dataclasses import dataclass
from typing import Any, AsyncIterator, Literal  # noqa: UP035 - hivemind knows this one by its name

import msgpack

from shared.p2p import petals, tensors
from shared.p2p.hivemind import MSGPackSerializer, P2PContext, runtime_pb2

Fault = Literal["nan", "wrong_shape", "raises", "refuses", "busy", "slow", "silent", "no_tensor", "closes", "huge"]
RAISES = {
    "raises": "CUDA error: device-side assert triggered",
    "refuses": "Remote peer does not serve these blocks",
    "busy": "Could not allocate 65536 bytes immediately: out of memory",
}
"""What a server says, by fault."""
SECONDS = {"slow": 1.5, "silent": 3600.0}


@dataclass(frozen=True)
class Computation:
    """How a simulated server computes."""

    hidden_size: int = 64
    weights: int = 0
    fault: Fault | None = None
    from_step: int = 1
    """The step of a session from which the fault shows."""


def compute(values: array[float], blocks: list[int], weights: int) -> array[float]:
    """Return the hidden state after these blocks."""
    for block in blocks:
        shift = (1 + 7 * block + 13 * weights) % len(values)
        values = array(
            "f", (one + other / 2 for one, other in zip(values, values[shift:] + values[:shift], strict=True))
        )
    return values


def handler(dht_prefix: str, start: int, end: int, computation: Computation) -> petals.TransformerConnectionHandler:
    """Return what answers calls for blocks `start <= block < end`, and counts its sessions."""
    return handler_of({petals.block_key(dht_prefix, block): block for block in range(start, end)}, computation)


def handler_of(uids: dict[str, int], computation: Computation) -> petals.TransformerConnectionHandler:
    """Return what answers calls for these blocks, of any models: their numbers by their DHT keys."""

    # The name is the protocol's.
    class TransformerConnectionHandler(petals.TransformerConnectionHandler):
        open_sessions = 0
        most_sessions = 0
        sessions = 0

        async def rpc_info(self, request: runtime_pb2.ExpertUID, context: P2PContext) -> runtime_pb2.ExpertInfo:
            info: dict[str, Any] = {
                "version": "2.2.0.post1",
                "dht_client_mode": False,
                "cache_tokens_available": 4096,
            }
            if request.uid:
                if request.uid not in uids:
                    raise KeyError(request.uid)
                descriptor = {"size": (None, 1, 2048, computation.hidden_size), "dtype": "torch.float32"}
                info["outputs_schema"] = (msgpack.ExtType(0x51, MSGPackSerializer.dumps(descriptor)),)
            return runtime_pb2.ExpertInfo(serialized_info=MSGPackSerializer.dumps(info))

        async def rpc_inference(
            self, requests: AsyncIterator[runtime_pb2.ExpertRequest], context: P2PContext
        ) -> AsyncIterator[runtime_pb2.ExpertResponse]:
            self.sessions += 1
            self.open_sessions += 1
            self.most_sessions = max(self.most_sessions, self.open_sessions)
            try:
                step = 0
                async for request in requests:
                    if not request.tensors:
                        return
                    step += 1
                    values = tensors.read(request.tensors[0], (1, 1, computation.hidden_size))
                    output = compute(values, _blocks(request.uid, uids), computation.weights)
                    response = await _respond(computation, step, output)
                    if response is None:
                        return
                    yield response
            finally:
                self.open_sessions -= 1

    return TransformerConnectionHandler()


def _answer(output: array[float]) -> runtime_pb2.ExpertResponse:
    return runtime_pb2.ExpertResponse(tensors=[tensors.pack(output, (1, 1, len(output)))])


def _blocks(requested: str, uids: dict[str, int]) -> list[int]:
    for uid in requested.split(" "):
        if uid not in uids:
            raise RuntimeError(f"Remote peer does not serve {uid}")
    return [uids[uid] for uid in requested.split(" ")]


async def _respond(computation: Computation, step: int, output: array[float]) -> runtime_pb2.ExpertResponse | None:
    """Return what a server answers to a step; None where it closes the session."""
    fault = computation.fault
    if fault is None or step < computation.from_step:
        return _answer(output)
    if fault in RAISES:
        raise RuntimeError(RAISES[fault])
    if fault == "closes":
        return None
    if fault == "no_tensor":
        return runtime_pb2.ExpertResponse()
    if fault in SECONDS:
        await asyncio.sleep(SECONDS[fault])
    elif fault == "nan":
        output[len(output) // 2] = math.nan
    elif fault == "wrong_shape":
        output = output[:-1]
    elif fault == "huge":
        output *= 1024
    return _answer(output)
