"""This module answers `rpc_inference` and `rpc_info` in memory, in the real wire format: servers for fast tests."""

from __future__ import annotations

import asyncio
from array import array
from types import SimpleNamespace

import msgpack

from shared.p2p import inference, tensors
from shared.p2p.hivemind import MSGPackSerializer, p2pd_pb2, runtime_pb2

HIDDEN = 4
MESSAGE, ERROR = 0, 1


def framed(message, marker=MESSAGE):
    return bytes((marker,)) + len(message).to_bytes(8, "big") + message


def numbers(values):
    packed = tensors.pack(array("f", values), (1, 1, len(values)))
    return framed(runtime_pb2.ExpertResponse(tensors=[packed]).SerializeToString())


def raised(words):
    """A Petals server's error."""
    return framed(p2pd_pb2.RPCError(message=words).SerializeToString(), ERROR)


def compute(request, _step):
    """Add 1 for each block: what comes out of a chain says how many blocks it went through."""
    values = tensors.read(request.tensors[0], list(request.tensors[0].size))
    return numbers([value + len(request.uid.split()) for value in values])


def schema(size=(None, 1, 2048, HIDDEN), **more):
    """A server's answer to `rpc_info`."""
    descriptor = msgpack.ExtType(0x51, MSGPackSerializer.dumps({"size": size, "dtype": "torch.float32"}))
    return MSGPackSerializer.dumps({"version": "2.2.0", "outputs_schema": (descriptor,)} | more)


class Servers:
    """Stands for a daemon that is connected to servers; each does as its script says, else it computes.

    A script is called with each request and the number of its step, and returns the bytes of an answer, None for none,
    or raises; an exception instead of a script is raised when a session is opened.
    """

    def __init__(self, **scripts):
        self.peer_id = "QmMonitor"
        self.p2p = object()
        self.scripts = scripts
        self.requests = []
        """(peer id, uids, first value, metadata) of each step."""
        self.ended = []
        """Peer ids of the sessions that the monitor ended, in order."""
        self.at_end = asyncio.StreamReader.feed_eof
        """What a server then does with its stream."""
        self.answers_pings = True
        """Whether servers do; where none does, the monitor's own daemon or network is away."""

    async def pings(self, _peer_id):
        return self.answers_pings

    async def open_stream(self, peer_id, protocol):
        assert protocol == inference.PROTOCOL
        script = self.scripts.get(peer_id, compute)
        if isinstance(script, BaseException):
            raise script
        reader = asyncio.StreamReader()
        return reader, _Writer(self, peer_id, reader, script)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass


class _Writer:
    def __init__(self, servers, peer_id, reader, script):
        self._servers, self._peer_id, self._reader, self._script = servers, peer_id, reader, script
        self._steps = 0

    def write(self, data):
        assert len(data) == 9 + int.from_bytes(data[1:9], "big")
        if data[0] == ERROR:
            self._servers.ended.append(self._peer_id)
            self._servers.at_end(self._reader)
        elif data[9:]:
            self._answer(runtime_pb2.ExpertRequest.FromString(data[9:]))

    def _answer(self, request):
        self._steps += 1
        first = tensors.read(request.tensors[0], list(request.tensors[0].size))[0]
        metadata = MSGPackSerializer.loads(request.metadata)
        self._servers.requests.append((self._peer_id, request.uid, first, metadata))
        answer = self._script(request, self._steps)
        if answer == b"":
            self._reader.feed_eof()
        elif answer is not None:
            self._reader.feed_data(answer)

    async def drain(self):
        pass

    def close(self):
        pass


def answer_rpc_info(monkeypatch, answer):
    """Have `ask_schema` find servers that answer `rpc_info` by `answer(peer_id, uid)`: bytes, or an exception."""

    def stub(p2p, peer_id):
        assert p2p is not None

        async def rpc_info(request):
            found = answer(str(peer_id), request.uid)
            if isinstance(found, BaseException):
                raise found
            return SimpleNamespace(serialized_info=found)

        return SimpleNamespace(rpc_info=rpc_info)

    monkeypatch.setattr(inference.TransformerConnectionHandler, "get_stub", stub)
