"""Peers of the Internet in a box: real hivemind nodes, each with its p2pd on a host of its own.

Their Python halves talk to the daemons over Unix sockets, which no network namespace separates: so one process can hold
them all, which a small machine has room for.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.demo.simulated_inference import Computation, handler
from deploy.demo.simulated_server import Announcement, Model, SimulatedServer
from shared.p2p import petals
from shared.p2p.hivemind import (
    P2P,
    DHTNode,
    MSGPackSerializer,
    PeerID,
    p2pd_pb2,
    read_pbmsg_safe,
    runtime_pb2,
    write_pbmsg,
)
from tests.internet import box
from tests.internet.network import PORT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.internet.network import Host

CALL_TIMEOUT = 10.0
"""Seconds that a genuine client gives a server: twice Petals' `connect_timeout`."""
START_TIMEOUT = 60.0
P2P_CIRCUIT = b"\xa2\x02"
"""`/p2p-circuit` in a multiaddr's bytes."""


class BoxedP2P(P2P):
    """hivemind's `P2P`, with its sockets in a folder that ends with the box."""

    _UNIX_SOCKET_PREFIX = "/unix/run/hivemind-"


def daemon_of(host: Host, **daemon_options: Any) -> type[P2P]:
    """Return hivemind's `P2P` with the daemon on a host; `daemon_options` are p2pd's own."""

    class HostedP2P(BoxedP2P):
        @staticmethod
        def _make_process_args(*args: Any, **kwargs: Any) -> list[str]:
            return host.command(*P2P._make_process_args(*args, **kwargs, **daemon_options))

    return HostedP2P


def listen(port: int = PORT) -> list[str]:
    """Return where a Petals server listens with `--port`."""
    return [f"/ip4/0.0.0.0/tcp/{port}", f"/ip6/::/tcp/{port}"]


@dataclass
class Server:
    """One server (or bootstrap peer, or relay), and what it takes to start it again."""

    host: Host
    bootstrap: Sequence[str]
    identity: Path | None
    """A file that keeps its peer id when it starts again."""
    announces: tuple[Model, int] | None = None
    """The block that it serves; None: it serves nothing."""
    client_mode: bool = False
    """Whether its DHT node takes no requests, as a Petals server's does that found itself behind a NAT."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further options of `P2P.create`."""
    daemon_options: dict[str, Any] = field(default_factory=dict)
    herald: Server | None = None
    """Whose node writes the record, where its own reaches too few nodes."""
    peer_id: str = ""

    async def start(self, **changed: Any) -> None:
        """Start it; `changed` options are kept."""
        self.options |= changed
        options = {"host_maddrs": listen(), "dht_mode": "client" if self.client_mode else "server", **self.options}
        p2p = await daemon_of(self.host, **self.daemon_options).create(
            self.bootstrap or None,
            identity_path=None if self.identity is None else str(self.identity),
            check_if_identity_free=False,
            startup_timeout=START_TIMEOUT,
            **options,
        )
        node = await DHTNode.create(
            p2p=p2p, initial_peers=self.bootstrap or None, client_mode=self.client_mode, ensure_bootstrap_success=False
        )
        if self.announces is not None:
            model, block = self.announces
            await handler(model.dht_prefix, block, block + 1, Computation()).add_p2p_handlers(p2p)
        self._running = SimulatedServer(node, None)
        self.peer_id = self._running.peer_id

    @property
    def address(self) -> str:
        """Its public address with the peer id, for `INITIAL_PEERS`."""
        return f"/ip4/{self.host.ip4}/tcp/{PORT}/p2p/{self.peer_id}"

    @property
    def address6(self) -> str:
        """The same for those that have IPv6 only."""
        return f"/ip6/{self.host.ip6}/tcp/{PORT}/p2p/{self.peer_id}"

    async def announce(self, lifetime: float) -> None:
        """Write its record, through its own node, as every Petals server does, or through the `herald`'s."""
        if self.announces is not None:
            model, block = self.announces
            announcement = Announcement(model, block, block + 1, info={"using_relay": self.client_mode})
            node = (self.herald or self)._running.node
            await announce(node, self.peer_id, announcement, time.time() + lifetime)

    async def freeze(self) -> None:
        """Stop its daemon: the kernel goes on accepting connections for it."""
        await asyncio.to_thread(self._running.freeze)

    def thaw(self) -> None:
        """Let it go on."""
        self._running.thaw()

    async def stop(self) -> None:
        """End it, and leave the host."""
        await self._running.node.shutdown()
        await self._running.node.p2p.shutdown()


class ServerWithClock(Server):
    """A server with a clock of its own (libfaketime): then its Python half has to be a process of its own as well."""

    clock = 0.0

    async def start(self, **changed: Any) -> None:
        """Start `server_with_clock.py` on the host."""
        assert self.announces is not None
        model, block = self.announces
        settings = {"bootstrap": self.bootstrap, "model": asdict(model), "block": block}
        self._process = await asyncio.create_subprocess_exec(
            *self.host.command(sys.executable, "-m", "tests.internet.server_with_clock", json.dumps(settings)),
            env=os.environ | wrong_clock(self.clock),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self.peer_id = await self._line()

    async def announce(self, lifetime: float) -> None:
        """Have it write its record, with an end `lifetime` seconds away by its own clock."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{lifetime}\n".encode())
        await self._line()

    async def _line(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT):
            line = await self._process.stdout.readline()
        assert line, f"{self.host.name} ended"
        return line.decode().strip()


def wrong_clock(ahead: float) -> dict[str, str]:
    """Return the environment of a process whose clock is `ahead` seconds ahead; how time passes stays as it is."""
    return {"LD_PRELOAD": str(box.LIBFAKETIME), "FAKETIME": f"{ahead:+.0f}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


async def announce(node: DHTNode, peer_id: str, announcement: Announcement, expires: float) -> None:
    """Write a server's records through a node."""
    model = announcement.model
    index = petals.ModelInfo(num_blocks=model.num_blocks, repository=model.repository).to_dict()
    keys = [petals.block_key(model.dht_prefix, block) for block in range(announcement.start, announcement.end)]
    await asyncio.gather(
        node.store(petals.MODEL_INDEX_KEY, index, expires, subkey=model.dht_prefix),
        *(node.store(key, announcement.to_tuple(), expires, subkey=peer_id) for key in keys),
    )


@dataclass(frozen=True)
class Experience:
    """What a client lived through with one server."""

    reached: bool
    seconds: float
    error: str = ""
    relayed: bool = False
    tries: int = 1


class Client:
    """A hivemind client as Petals makes one: it joins as a client, and calls servers of which it knows the id only."""

    def __init__(self, p2p: P2P, dht: DHTNode) -> None:
        self._p2p = p2p
        self._dht = dht

    @classmethod
    async def start(cls, host: Host, bootstrap: Sequence[str]) -> Client:
        p2p = await daemon_of(host).create(list(bootstrap), dht_mode="client", startup_timeout=START_TIMEOUT)
        return cls(p2p, await DHTNode.create(p2p=p2p, initial_peers=list(bootstrap), client_mode=True))

    async def announced(self, model: Model) -> set[str]:
        """Return the ids of the servers whose records it finds in the DHT."""
        keys = [petals.block_key(model.dht_prefix, block) for block in range(model.num_blocks)]
        found = await self._dht.get_many(keys, sufficient_expiration_time=math.inf)
        return {str(peer_id) for record in found.values() if record is not None for peer_id in record.value}

    async def call(self, peer_id: str) -> Experience:
        """Call `rpc_info`: the first thing that a Petals client does with a server."""
        stub = petals.TransformerConnectionHandler.get_stub(self._p2p, PeerID.from_base58(peer_id))
        started = time.monotonic()
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                answer = await stub.rpc_info(runtime_pb2.ExpertUID())
            MSGPackSerializer.loads(answer.serialized_info)
        except TimeoutError:
            return Experience(False, time.monotonic() - started, f"no answer in {CALL_TIMEOUT:g} s")
        except Exception as error:  # noqa: BLE001 - whatever goes wrong for a client is its experience
            return Experience(False, time.monotonic() - started, " ".join(str(error).split()))
        seconds = time.monotonic() - started
        return Experience(True, seconds, relayed=await self._relayed(peer_id))

    async def _relayed(self, peer_id: str) -> bool:
        """Whether circuits are all that connects the client to a peer."""
        reader, writer = await self._p2p._client.control.daemon_connector.open_connection()
        await write_pbmsg(writer, p2pd_pb2.Request(type=p2pd_pb2.Request.LIST_PEERS))
        response = p2pd_pb2.Response()
        await read_pbmsg_safe(reader, response)
        writer.close()
        ways = [way for peer in response.peers if str(PeerID(peer.id)) == peer_id for way in peer.addrs]
        return bool(ways) and all(P2P_CIRCUIT in way for way in ways)

    async def stop(self) -> None:
        await self._p2p.shutdown()
