"""A client node of the swarm: one libp2p daemon (p2pd) of our own, and hivemind's DHT client on it.

Opening a node touches no network, so it works where no bootstrap peer answers. `join` then dials each
bootstrap peer by its address and says how that went. hivemind's own start-up does both in one step, and
fails as a whole, without a reason, where no bootstrap peer answers.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hivemind.dht.node import DHTNode
from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.control import P2PDaemonError
from hivemind.p2p.p2p_daemon_bindings.utils import ControlFailure, raise_if_failed, read_pbmsg_safe, write_pbmsg
from hivemind.proto import dht_pb2, p2pd_pb2
from hivemind.utils.multiaddr import Multiaddr

from shared.p2p.addresses import DialPrivate, anywhere, is_public
from shared.p2p.kad import Search
from shared.p2p.kad_wire import PROTOCOL as KAD_PROTOCOL
from shared.p2p.kept_streams import KeptStreams
from shared.p2p.look_up import DHTReader
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence

    from shared.p2p.raw_values import SubkeyValues

SWARM_DIALS_AT_ONCE = 4096
"""Dials that p2pd keeps in flight. Its default, 160, makes live peers wait behind silent ones until they look
dead: with 1,000 silent peers in flight a live one then timed out, with this it answers in 5 ms."""

DAEMON_START_TIMEOUT = 15.0
DHT_ANSWER_TIMEOUT = 2.0
"""Seconds that one DHT node gets to answer. A search waits so long for each silent node that it meets."""
DHT_NODE_AVOIDED = 30.0
"""Seconds for which searches leave out a node that did not answer; doubled each time that it fails again."""
SEARCHERS = 8
"""DHT nodes that one search asks at once: a silent one holds up one of them, not the search."""
PING_TIMEOUT = 2.0


class NodeError(Exception):
    """The node's own daemon failed; nothing is said about any peer."""


class Daemon(P2P):  # type: ignore[misc]
    """hivemind's wrapper of p2pd, which can also run without libp2p's own DHT."""

    DHT_MODE_MAPPING: ClassVar[dict[str, dict[str, int]]] = {**P2P.DHT_MODE_MAPPING, "none": {}}


def allow_many_files() -> None:
    """Raise this process's limit of open files: a dial holds some, and many systems begin with 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _start_daemon(dht_mode: str) -> P2P:
    os.environ.setdefault("LIBP2P_SWARM_FD_LIMIT", str(SWARM_DIALS_AT_ONCE))  # the daemon inherits it
    try:
        return await Daemon.create(
            dht_mode=dht_mode, no_listen=True, auto_nat=False, nat_port_map=False, startup_timeout=DAEMON_START_TIMEOUT
        )
    except (P2PDaemonError, OSError) as error:
        raise NodeError(f"p2pd did not start: {error}") from error


class Dialler:
    """A daemon that knows nobody and dials only whom it is told to, by address.

    It runs no DHT: one would dial peers on its own account, which leaves "dial backoff" on peers that nobody
    here dialled, and would search for other addresses after each failure, for as long as a slow peer likes.
    """

    def __init__(self, p2p: P2P) -> None:
        self._p2p = p2p
        self.opened_at = time.monotonic()
        self.versions: dict[str, str] = {}
        """Petals versions by the peers' own word, of those that this daemon reached and asked."""

    @classmethod
    async def open(cls) -> Self:
        """Start a daemon; takes about 0.2 s. Raises `NodeError`."""
        return cls(await _start_daemon("none"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def peer_id(self) -> str:
        return str(self._p2p.peer_id)

    @property
    def p2p(self) -> P2P:
        """For `shared.p2p.dial` and stubs."""
        return self._p2p

    @property
    def daemon_pid(self) -> int:
        return int(self._p2p._child.pid)  # noqa: SLF001 - hivemind offers no other way

    @property
    def is_alive(self) -> bool:
        """Whether the daemon runs. A live daemon may still be cut off: see `hears`."""
        return self._p2p._child.returncode is None  # noqa: SLF001

    async def close(self) -> None:
        """End the daemon, whatever state it is in."""
        child = self._p2p._child  # noqa: SLF001
        with suppress(Exception):
            async with asyncio.timeout(2):
                await self._p2p.shutdown()
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()
        control = self._p2p._client.control  # noqa: SLF001
        for task in (control._read_task, control._write_task):  # noqa: SLF001 - a dead daemon's pipes; nobody else asks
            with suppress(asyncio.CancelledError, asyncio.InvalidStateError):
                task.exception()

    async def connect(self, peer_id: str, addresses: Iterable[str] = ()) -> None:
        """Have the daemon hold a connection to the peer, at the given or formerly known addresses.

        Raises `ControlFailure` with the daemon's words, `OSError` where the daemon is gone. Cancel-safe,
        but the daemon goes on dialling for some seconds.
        """
        await self._ask_daemon(
            p2pd_pb2.Request(
                type=p2pd_pb2.Request.CONNECT,
                connect=p2pd_pb2.ConnectRequest(
                    peer=PeerID.from_base58(peer_id).to_bytes(),
                    addrs=[Multiaddr(address).to_bytes() for address in addresses],
                ),
            )
        )

    async def disconnect(self, peer_id: str) -> None:
        """Close all connections to the peer, so that the next dial is a real one."""
        with suppress(ControlFailure):
            await self._ask_daemon(
                p2pd_pb2.Request(
                    type=p2pd_pb2.Request.DISCONNECT,
                    disconnect=p2pd_pb2.DisconnectRequest(peer=PeerID.from_base58(peer_id).to_bytes()),
                )
            )

    async def identify(self) -> str:
        """Ask the daemon who it is: the least that it can be asked."""
        response = await self._ask_daemon(p2pd_pb2.Request(type=p2pd_pb2.Request.IDENTIFY))
        return str(PeerID(response.identify.id))

    async def connections(self) -> dict[str, tuple[str, ...]]:
        """Return the remote multiaddrs of all open connections, by peer id."""
        response = await self._ask_daemon(p2pd_pb2.Request(type=p2pd_pb2.Request.LIST_PEERS))
        result: dict[str, tuple[str, ...]] = {}
        for peer in response.peers:
            name = str(PeerID(peer.id))
            result[name] = (*result.get(name, ()), *(str(Multiaddr(address)) for address in peer.addrs))
        return result

    async def _ask_daemon(self, request: p2pd_pb2.Request) -> p2pd_pb2.Response:
        """One request on a connection of its own, which is closed also when the caller gives up.

        hivemind's own calls leave it open then, one for each dial that hung.
        """
        response, _, writer = await self._begin(request)
        writer.close()
        return response

    async def open_stream(self, peer_id: str, protocol: str) -> tuple[StreamReader, StreamWriter]:
        """Open a stream to a peer, dialling it first if need be; the caller closes the writer. Raises as `connect`."""
        request = p2pd_pb2.Request(
            type=p2pd_pb2.Request.STREAM_OPEN,
            streamOpen=p2pd_pb2.StreamOpenRequest(peer=PeerID.from_base58(peer_id).to_bytes(), proto=[protocol]),
        )
        _, reader, writer = await self._begin(request)
        return reader, writer

    async def _begin(self, request: p2pd_pb2.Request) -> tuple[p2pd_pb2.Response, StreamReader, StreamWriter]:
        reader, writer = await self._p2p._client.control.daemon_connector.open_connection()  # noqa: SLF001
        try:
            await write_pbmsg(writer, request)
            response = p2pd_pb2.Response()
            await read_pbmsg_safe(reader, response)
            raise_if_failed(response)
        except BaseException:
            writer.close()
            raise
        return response, reader, writer

    async def reaches(self, peer_id: str, addresses: Iterable[str]) -> bool:
        """Whether a new connection to a peer that is known to be there succeeds: tests this node, not the peer."""
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                await self.disconnect(peer_id)
                await self.connect(peer_id, addresses)
                return True
        except (TimeoutError, P2PDaemonError, OSError, EOFError):
            return False


class SwarmNode(Dialler):
    """A client-mode node of the swarm: it also reads the DHT. It stores nothing there and does not listen."""

    def __init__(self, p2p: P2P, dht: DHTNode, dial_private: DialPrivate = DialPrivate.AUTO) -> None:
        super().__init__(p2p)
        self._dht = dht
        self._dial_private = dial_private
        self.refused_subkeys: Counter[str] = Counter()
        """Dictionary entries refused while answers were unpacked, by reason; the caller may clear it."""
        self._reader = DHTReader(dht, self.refused_subkeys)
        self._bootstrap_peers: dict[str, Sequence[str]] = {}
        self._joined: tuple[str, ...] = ()
        self._may_dial: Callable[[str], bool] = is_public
        self.kad_streams = KeptStreams(self, KAD_PROTOCOL)

    @classmethod
    async def open(cls, dial_private: DialPrivate = DialPrivate.AUTO) -> Self:
        """Start a daemon and a DHT client on it; `join` comes next. Raises `NodeError`."""
        p2p = await _start_daemon("client")
        try:
            dht = await DHTNode.create(
                p2p=p2p,
                client_mode=True,
                wait_timeout=DHT_ANSWER_TIMEOUT,
                blacklist_time=DHT_NODE_AVOIDED,
                cache_locally=False,
                cache_nearest=0,
                cache_on_store=False,
                reuse_get_requests=False,
            )
        except BaseException:
            await Dialler(p2p).close()
            raise
        return cls(p2p, dht, dial_private)

    async def close(self) -> None:
        """End the DHT client and the daemon."""
        self.kad_streams.close()
        with suppress(Exception):
            await self._dht.shutdown()
        await super().close()

    def search(self, peer_id: str) -> Search:
        """Return a search for a peer's addresses, which begins with the bootstrap peers that answered `join`.

        Of the bootstrap peers themselves it is known, and where there is but one, nobody else could tell.
        """
        if peer_id in self._bootstrap_peers:
            return Search.told(self, peer_id, self._bootstrap_peers[peer_id])
        return Search(self, peer_id, self._joined, self._may_dial)

    async def join(self, bootstrap_peers: Mapping[str, Sequence[str]], timeout: float) -> dict[str, str | None]:  # noqa: ASYNC109 - one for each peer
        """Connect to each bootstrap peer (`{peer_id: addresses}`) and begin look-ups from those that answer.

        Return why each one failed, None for the good ones. May be called again at any time: a node whose
        bootstrap peers were away finds the swarm again by it.
        """
        self._bootstrap_peers = dict(bootstrap_peers)
        self._may_dial = anywhere if self._dial_private.allows(bootstrap_peers) else is_public
        errors = await asyncio.gather(
            *(self._join_one(peer_id, addresses, timeout) for peer_id, addresses in bootstrap_peers.items())
        )
        result = dict(zip(bootstrap_peers, errors, strict=True))
        self._joined = tuple(peer_id for peer_id, error in result.items() if error is None)
        return result

    async def _join_one(self, peer_id: str, addresses: Sequence[str], timeout: float) -> str | None:  # noqa: ASYNC109
        try:
            async with asyncio.timeout(timeout):
                await self.connect(peer_id, addresses)
                # The connection may be an old one to a peer that is gone by now: only an answer counts.
                answered = await self._dht.protocol.call_ping(PeerID.from_base58(peer_id))
        except TimeoutError:
            return f"no answer within {timeout:g} s"
        except (P2PDaemonError, OSError, EOFError) as error:
            return str(error)
        if answered is None:
            await self.disconnect(peer_id)
            return "connected, but it does not answer as a hivemind DHT node"
        self._dht.blacklist.register_success(PeerID.from_base58(peer_id))
        await asyncio.sleep(0)  # call_ping enters the peer into the routing table in a task of its own
        return None

    async def hears(self) -> bool:
        """Whether a bootstrap peer still answers: tells "the swarm is gone" from "our node is deaf or cut off"."""
        if not self.is_alive or not self._joined:
            return False
        return await any_true(self._answers(peer_id) for peer_id in self._joined)

    async def _answers(self, peer_id: str) -> bool:
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                return await self._dht.protocol.call_ping(PeerID.from_base58(peer_id)) is not None
        except TimeoutError:
            return False

    async def clock_skew(self, peer_id: str) -> float | None:
        """Return how far a peer's clock is ahead of ours, in seconds; None where it does not answer."""
        started = time.time()
        try:
            stub = self._dht.protocol.get_stub(PeerID.from_base58(peer_id))
            answer = await stub.rpc_ping(dht_pb2.PingRequest(peer=self._dht.protocol.node_info), timeout=PING_TIMEOUT)
        except Exception:  # noqa: BLE001 - a diagnosis goes on without this finding
            return None
        return float(answer.dht_time) - (started + time.time()) / 2

    async def clock_ahead(self) -> float:
        """Return by how many seconds this machine's clock is ahead of all bootstrap peers'; 0 where it is not."""
        skews = await asyncio.gather(*(self.clock_skew(peer_id) for peer_id in self._joined))
        return max(0.0, min((-skew for skew in skews if skew is not None), default=0.0))

    async def look_up(self, keys: Collection[str], timeout: float) -> dict[str, SubkeyValues | None]:  # noqa: ASYNC109 - partial answers are kept
        """Read dictionaries, undecoded: None for a key that nobody holds; one that did not answer is missing."""
        return await self._reader.look_up(keys, timeout)


async def any_true(questions: Iterable[Coroutine[Any, Any, bool]]) -> bool:
    """Ask all at once; return True at the first yes, False when all have said no."""
    tasks = [awaited(question) for question in questions]
    try:
        for answer in asyncio.as_completed(tasks):
            if await answer:
                return True
        return False
    finally:
        await end(*tasks)
