"""This module runs one libp2p daemon (p2pd) and speaks to it: connections, streams, pings. Its quirks live here.

A daemon of ours listens nowhere. Starting one touches no network, so it works where no bootstrap peer answers.
hivemind offers no calls to connect, disconnect or list with addresses as bytes, and its own leave a connection to the
daemon open for each caller that gives up; so requests are written here, with hivemind's messages.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self
from uuid import uuid4

import base58

from shared.p2p.hivemind import (
    DHTID,
    P2P,
    ControlFailure,
    P2PDaemonError,
    P2PHandlerError,
    PeerID,
    dht_pb2,
    p2pd_pb2,
    raise_if_failed,
    runtime_pb2,
)
from shared.p2p.kad_messages import MAX_ID_BYTES, packed_id, read_message
from shared.p2p.lateness import Lateness
from shared.p2p.multiaddr import DNSADDR, components, is_circuit, varint
from shared.tasks import awaited

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Iterable

    from google.protobuf.message import Message

    from shared.address_text import IPAddress

SWARM_DIALS_AT_ONCE = 4096
"""Dials that p2pd keeps in flight. Its default, 160, makes live peers wait behind silent ones until they seem
dead: with 1,000 silent peers in flight a live one then timed out, with this it answers in 5 ms."""
START_TIMEOUT = 15.0
"""Seconds. It takes about 0.2."""
PING_TIMEOUT = 2.0
PING_PROTOCOL, PING_BYTES = "/ipfs/ping/1.0.0", 32
"""Spec: https://github.com/libp2p/specs/blob/master/ping/ping.md: the bytes come back as they went."""
NO_RELAY_SERVICE = Path(__file__).with_name("p2pd.json")
"""p2pd's configuration that, with `use_relay=False`, keeps it from relaying for others: a service that no option ends,
and whose table of networks takes 28 MB and 0.3 s of a core per daemon. Dialling through relays does not need it."""
MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""p2pd's own limit for an answer to a call."""
MAX_NEAREST = 128
"""Nodes that an answer of hivemind's DHT may name for one key; an honest one names twenty."""
MAX_RESULTS = 128
"""Keys that it may answer; a crawl requests sixteen at once. In its bytes there is room for two million empty results,
which took half a minute to look at."""
MAX_INFO_BYTES = 64 * 1024
"""The same for `rpc_info`, whose genuine answers take less than 1 KiB: strangers choose how much is held."""


class NodeError(Exception):
    """The node's own daemon failed; nothing is said about any peer."""


class P2PDaemon(P2P):  # type: ignore[misc]  # hivemind has no types
    """hivemind's wrapper of p2pd, which can also run without libp2p's own DHT, and calls peers over relays."""

    DHT_MODE_MAPPING: ClassVar[dict[str, dict[str, int | str]]] = {
        mode: {**options, "f": str(NO_RELAY_SERVICE)} for mode, options in {**P2P.DHT_MODE_MAPPING, "none": {}}.items()
    }

    async def _call_unary_protobuf_handler(
        self, peer_id: PeerID, name: str, request: Message, answer_type: type[Message]
    ) -> Message:
        """Make a call on a stream of its own. p2pd would wait for ever to make one over a relay, unless it relays."""
        call = p2pd_pb2.CallUnaryRequest(peer=peer_id.to_bytes(), proto=name, data=request.SerializeToString())
        reader, writer = await _open_stream(self, peer_id.to_bytes(), name)
        try:
            writer.write(_framed(p2pd_pb2.PersistentConnectionRequest(callId=uuid4().bytes, callUnary=call)))
            is_info = answer_type is runtime_pb2.ExpertInfo
            answer = await read_message(reader, MAX_INFO_BYTES if is_info else MAX_ANSWER_BYTES)
        except EOFError as error:
            raise P2PDaemonError("stream reset") from error
        except ValueError as error:
            raise P2PHandlerError(str(error)) from error
        finally:
            writer.close()
        result = p2pd_pb2.PersistentConnectionRequest.FromString(answer).unaryResponse
        if not result.HasField("response"):
            raise P2PHandlerError(result.error.decode(errors="ignore"))
        return _checked(answer_type.FromString(result.response))


def _checked(answer: Message) -> Message:
    """Return an answer. Raises `P2PHandlerError` for one of hivemind's DHT with ids that would hold hivemind up.

    It turns each peer id into base58 as it reads it, in time by the square of its length. It raises out of a ping for a
    node id that is too long.
    """
    if isinstance(answer, dht_pb2.PingResponse | dht_pb2.FindResponse):
        found = answer.results if isinstance(answer, dht_pb2.FindResponse) else ()
        if len(found) > MAX_RESULTS:
            raise P2PHandlerError("an answer about too many keys")
        node_ids = [(answer.peer.node_id,), *(one.nearest_node_ids for one in found)]
        peer_ids = [one.nearest_peer_ids for one in found]
        if (
            max(map(len, (*node_ids, *peer_ids))) > MAX_NEAREST
            or any(len(one) > DHTID.HASH_NBYTES for one in chain.from_iterable(node_ids))
            or any(len(one) > MAX_ID_BYTES for one in chain.from_iterable(peer_ids))
        ):
            raise P2PHandlerError("an answer with too many or too long ids")
    return answer


async def _open_stream(p2p: P2P, peer: bytes, protocol: str) -> tuple[StreamReader, StreamWriter]:
    request = p2pd_pb2.Request(
        type=p2pd_pb2.Request.STREAM_OPEN,
        streamOpen=p2pd_pb2.StreamOpenRequest(peer=peer, proto=[protocol]),
    )
    _, reader, writer = await _begin(p2p, request)
    return reader, writer


def _framed(message: Message) -> bytes:
    packed: bytes = message.SerializeToString()
    return varint(len(packed)) + packed


async def _begin(p2p: P2P, request: p2pd_pb2.Request) -> tuple[p2pd_pb2.Response, StreamReader, StreamWriter]:
    """Send a request to the daemon on a connection of its own; return the answer and the connection, still open."""
    reader, writer = await asyncio.open_unix_connection(_socket(p2p._daemon_listen_maddr))
    try:
        writer.write(_framed(request))
        response = p2pd_pb2.Response.FromString(await read_message(reader, MAX_ANSWER_BYTES))
        if isinstance(response.error.msg, bytes):  # where a peer's words in it are no text
            response.error.msg = response.error.msg.decode(errors="replace")
        raise_if_failed(response)
    except BaseException:
        writer.close()
        raise
    return response, reader, writer


@lru_cache(maxsize=64)
def _socket(address: Any) -> str:
    """Return the path of a daemon's socket; hivemind would parse it for each request."""
    path: str = address["unix"]
    return path


def allow_many_files() -> None:
    """Raise this process's limit of open files: a dial holds some, and many systems begin with 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def start_p2pd(dht_mode: str, identity: Path | None = None) -> P2P:
    """Start a daemon that does not listen; `dht_mode` is libp2p's own DHT: "client" or "none". Raises `NodeError`.

    `identity` is a file that keeps its peer id, and is made where there is none; without one the id is new.
    """
    os.environ.setdefault("LIBP2P_SWARM_FD_LIMIT", str(SWARM_DIALS_AT_ONCE))  # the daemon inherits it
    starting = awaited(
        P2PDaemon.create(
            dht_mode=dht_mode,
            no_listen=True,
            auto_nat=False,
            nat_port_map=False,
            use_relay=False,
            startup_timeout=START_TIMEOUT,
            identity_path=None if identity is None else str(identity),
        )
    )
    try:
        return await asyncio.shield(starting)
    except (P2PDaemonError, OSError) as error:
        raise NodeError(f"p2pd did not start: {error}") from error
    except asyncio.CancelledError:
        # hivemind, interrupted, would leave the daemon and a connection to it behind: however often this is cancelled.
        while not starting.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({starting})
        if starting.exception() is None:
            await Daemon(starting.result()).close()
        raise


class Daemon:
    """One p2pd of this process, and the requests to it. Use as an asynchronous context manager."""

    def __init__(self, p2p: P2P) -> None:
        self._p2p = p2p
        self.opened_at = time.monotonic()
        self.lateness = Lateness(self.identify)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def peer_id(self) -> str:
        return str(self._p2p.peer_id)

    @property
    def p2p(self) -> P2P:
        """For stubs."""
        return self._p2p

    @property
    def daemon_pid(self) -> int:
        return int(self._p2p._child.pid)

    @property
    def is_alive(self) -> bool:
        """Whether the daemon runs. A live daemon may still be cut off from the swarm."""
        return self._p2p._child.returncode is None

    async def close(self) -> None:
        """End the daemon, whatever state it is in, also where this is cancelled, and leave none of its files."""
        child = self._p2p._child
        try:
            with suppress(Exception):
                async with asyncio.timeout(2):
                    await self._p2p.shutdown()
        finally:
            self._remove_sockets()
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        control = self._p2p._client.control
        for task in (control._read_task, control._write_task):  # a dead daemon's pipes; nobody else asks
            with suppress(asyncio.CancelledError, asyncio.InvalidStateError):
                task.exception()

    def _remove_sockets(self) -> None:
        """Remove those of a daemon that died; hivemind removes the others."""
        for address in (self._p2p._daemon_listen_maddr, self._p2p._client_listen_maddr):
            Path(address["unix"]).unlink(missing_ok=True)

    async def connect(self, peer_id: str, addresses: Iterable[bytes] = ()) -> None:
        """Have the daemon hold a connection to the peer, at the given or formerly known addresses.

        Raises `ControlFailure` with the daemon's words, `OSError` where the daemon is gone. Cancel-safe,
        but the daemon goes on dialling for some seconds.
        """
        await self._ask_daemon(
            p2pd_pb2.Request(
                type=p2pd_pb2.Request.CONNECT,
                connect=p2pd_pb2.ConnectRequest(
                    peer=packed_id(peer_id),
                    addrs=list(addresses),
                ),
            )
        )

    async def disconnect(self, peer_id: str) -> None:
        """Close all connections to the peer, so that the next dial is a real one."""
        with suppress(ControlFailure):
            await self._ask_daemon(
                p2pd_pb2.Request(
                    type=p2pd_pb2.Request.DISCONNECT,
                    disconnect=p2pd_pb2.DisconnectRequest(peer=packed_id(peer_id)),
                )
            )

    async def identify(self) -> str:
        """Return the daemon's peer id, by the cheapest request to it."""
        response = await self._ask_daemon(p2pd_pb2.Request(type=p2pd_pb2.Request.IDENTIFY))
        return str(PeerID(response.identify.id))

    async def connections(self) -> dict[str, tuple[bytes, ...]]:
        """Return the remote addresses of all open connections, by peer id."""
        response = await self._ask_daemon(p2pd_pb2.Request(type=p2pd_pb2.Request.LIST_PEERS))
        result: dict[str, tuple[bytes, ...]] = {}
        for peer in response.peers:
            name = str(PeerID(peer.id))
            result[name] = (*result.get(name, ()), *peer.addrs)
        return result

    async def connections_to(self, peer_id: str) -> tuple[bytes, ...]:
        """Return the remote addresses of the open connections to one peer."""
        response = await self._ask_daemon(p2pd_pb2.Request(type=p2pd_pb2.Request.LIST_PEERS))
        packed = packed_id(peer_id)
        return tuple(address for peer in response.peers if peer.id == packed for address in peer.addrs)

    async def _ask_daemon(self, request: p2pd_pb2.Request) -> p2pd_pb2.Response:
        """One request on a connection of its own, which is closed also when the caller gives up.

        hivemind's own calls leave it open then, one for each dial that hung.
        """
        response, _, writer = await _begin(self._p2p, request)
        writer.close()
        return response

    async def open_stream(self, peer_id: str, protocol: str) -> tuple[StreamReader, StreamWriter]:
        """Open a stream to a peer, dialling it first if need be; the caller closes the writer. Raises as `connect`."""
        return await _open_stream(self._p2p, packed_id(peer_id), protocol)

    async def pings(self, peer_id: str, timeout: float = PING_TIMEOUT) -> bool:  # noqa: ASYNC109 - returns whether
        """Whether a connected peer answers libp2p's ping: an old connection may lead to nobody."""
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await self.open_stream(peer_id, PING_PROTOCOL)
                try:
                    writer.write(os.urandom(PING_BYTES))
                    await writer.drain()
                    return len(await reader.readexactly(PING_BYTES)) == PING_BYTES
                finally:
                    writer.close()
        except (TimeoutError, P2PDaemonError, OSError, EOFError):
            return False

    async def reaches(self, peer_id: str, addresses: Iterable[bytes]) -> bool:
        """Whether a new connection to a peer that is known to be there succeeds: tests this node, not the peer.

        The peer is dialled as somebody else, and proves that it is not. So no connection that others use is closed, to
        the peer or through it. At addresses that say who is there, nobody else can be dialled.
        """
        addresses = tuple(addresses)
        names_peer = any(is_circuit(one) or components(one)[0].code == DNSADDR for one in addresses)
        nobody = base58.b58encode(b"\x12\x20" + os.urandom(32)).decode()
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                if names_peer:
                    await self.disconnect(peer_id)
                await self.connect(peer_id if names_peer else nobody, addresses)
        except P2PDaemonError as error:
            return f"remote key matches {peer_id}" in str(error)
        except (TimeoutError, OSError, EOFError):
            return False
        return names_peer


def is_local(ip: IPAddress) -> bool:
    """Whether an address is this machine's own, so that no NAT stands between."""
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6  # noqa: PLR2004 - IPv4
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(ip), 0))
    except OSError:
        return False
    return True
