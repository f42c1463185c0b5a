"""This module joins the swarm as a client-mode DHT node: reads the DHT, and searches addresses of peers.

`join` dials each bootstrap peer by its address, and returns how each one failed. hivemind joins as its node starts,
and raises one error without a reason where no bootstrap peer answers.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from shared.p2p.address_search import Kademlia, Search
from shared.p2p.addresses import AddressRules, DialPrivate, ip_of
from shared.p2p.daemon import PING_TIMEOUT, Daemon, is_local, start_p2pd
from shared.p2p.dht_reader import DHTReader
from shared.p2p.dial_errors import classify
from shared.p2p.hivemind import P2P, DHTNode, P2PDaemonError, PeerID, dht_pb2
from shared.p2p.kad_messages import bytes_fields, read_message
from shared.p2p.lateness import Lateness, when_late
from shared.p2p.multiaddr import from_text, is_circuit
from shared.p2p.waiting import any_true

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from shared.address_text import IPAddress
    from shared.reachability import DialOutcome

DHT_ANSWER_TIMEOUT = 2.0
"""Seconds that one DHT node gets to answer. A search waits so long for each silent node that it meets."""
IDENTIFY_PROTOCOL, OBSERVED_ADDRESS = "/ipfs/id/1.0.0", 4
"""Spec: https://github.com/libp2p/specs/blob/master/identify/README.md, `observedAddr`."""


class DHTClientNode(Daemon):
    """A client-mode node of the swarm, which reads its DHT and searches addresses in it. It stores nothing there."""

    def __init__(self, p2p: P2P, dht: DHTNode, dial_private: DialPrivate = DialPrivate.AUTO) -> None:
        super().__init__(p2p)
        self._dht = dht
        self._dial_private = dial_private
        self._private = False
        self.kademlia = Kademlia(self)
        self.public_ips: frozenset[IPAddress] = frozenset()
        """This machine's own public addresses, where it stands behind a NAT, as the bootstrap peers see them."""
        self.refused_subkeys: Counter[str] = Counter()
        """Dictionary entries refused while answers were unpacked, by reason; the caller may clear it."""
        self.network = Lateness(self._hear_a_bootstrap_peer, every=0.5, max_delay=1.0)
        """Whether the first of all joined bootstrap peers' answers was late: then our network may have been away."""
        self._reader = DHTReader(dht, self.refused_subkeys, self.lateness)
        self.look_up = self._reader.look_up
        self.bootstrap_peers: dict[str, tuple[bytes, ...]] = {}
        """Those that `join` was given last: addresses by peer id."""
        self._joined: tuple[str, ...] = ()
        self.has_joined = asyncio.Event()
        """Whether a bootstrap peer has answered `join`, which may still wait for others."""

    @classmethod
    async def open(cls, dial_private: DialPrivate = DialPrivate.AUTO) -> Self:
        """Start a daemon and a DHT client on it; `join` comes next. Raises `NodeError`."""
        p2p = await start_p2pd("client")
        try:
            dht = await DHTNode.create(
                p2p=p2p,
                client_mode=True,
                wait_timeout=DHT_ANSWER_TIMEOUT,
                blacklist_time=0,  # DHTReader keeps its own account of silent nodes
                cache_locally=False,
                cache_nearest=0,
                cache_on_store=False,
                reuse_get_requests=False,
            )
        except BaseException:
            await Daemon(p2p).close()
            raise
        return cls(p2p, dht, dial_private)

    async def close(self) -> None:
        """End the DHT client and the daemon."""
        self.kademlia.streams.close()
        try:
            await self._reader.close()
            with suppress(Exception):
                await self._dht.shutdown()
        finally:  # also where this is cancelled
            await super().close()

    def rules(self, dialled_from: str) -> AddressRules:
        """Return what may be dialled in this swarm; `dialled_from` is the peer id of the node that will dial."""
        return AddressRules(self._private, frozenset((self.peer_id, dialled_from)))

    def search(self, peer_id: str, *, dialled_from: str, at: bytes | None = None) -> Search:
        """Return a search for a peer's addresses, which starts at the bootstrap peers that answered `join`.

        The addresses of bootstrap peers themselves are known from settings: where there is only one, no other node
        could name them. Where an address is given as `at`, nobody is asked and nothing else is found.
        """
        rules = self.rules(dialled_from)
        if at is not None:
            return Search.of_known(self.kademlia, peer_id, (at,), rules)
        if peer_id in self.bootstrap_peers:
            return Search.of_known(self.kademlia, peer_id, self.bootstrap_peers[peer_id])
        return Search(self.kademlia, peer_id, self._joined, rules)

    async def join(self, bootstrap_peers: Mapping[str, Sequence[str]], timeout: float) -> dict[str, DialOutcome | None]:  # noqa: ASYNC109 - one for each peer
        """Connect to each bootstrap peer (`{peer_id: addresses}`) and begin lookups at those that answer.

        Return how each one failed, None for those that answered. May be called again at any time, also after a
        failure. `has_joined` is set when the first one has answered.
        """
        self.bootstrap_peers = {
            peer_id: tuple(map(from_text, addresses)) for peer_id, addresses in bootstrap_peers.items()
        }
        self._private = self._dial_private.allows(bootstrap_peers)
        self._joined = ()
        self.has_joined.clear()
        self._reader.asked.clear()
        self._reader.answered.clear()
        failures = await asyncio.gather(
            *(self._join_one(peer_id, addresses, timeout) for peer_id, addresses in self.bootstrap_peers.items())
        )
        return dict(zip(bootstrap_peers, failures, strict=True))

    async def join_missing(self, timeout: float) -> None:  # noqa: ASYNC109 - one for each peer
        """Join at those bootstrap peers too that have not answered `join` so far: a peer may be known to one alone."""
        missing = [peer for peer in self.bootstrap_peers.items() if peer[0] not in self._joined]
        await asyncio.gather(*(self._join_one(peer_id, addresses, timeout) for peer_id, addresses in missing))

    async def _join_one(self, peer_id: str, addresses: Sequence[bytes], timeout: float) -> DialOutcome | None:  # noqa: ASYNC109
        began = time.monotonic()
        if (words := await self._greet(peer_id, addresses, timeout)) is not None:
            failure = classify(words)
            return when_late(failure) if self.lateness.since(began) else failure
        self._reader.silent.discard(PeerID.from_base58(peer_id))
        await asyncio.sleep(0)  # call_ping enters the peer into the routing table in a task of its own
        self._joined = (*self._joined, peer_id)
        self.has_joined.set()
        await self._learn_own_address(peer_id)
        return None

    async def _greet(self, peer_id: str, addresses: Sequence[bytes], timeout: float) -> str | None:  # noqa: ASYNC109
        """Connect to a bootstrap peer and ping it. Return why that failed, in words, or None."""
        try:
            async with self.lateness, asyncio.timeout(timeout):
                await self.connect(peer_id, addresses)
                # The connection may be an old one to a peer that is gone by now: only an answer counts.
                if await self._dht.protocol.call_ping(PeerID.from_base58(peer_id)) is not None:
                    return None
                await self.disconnect(peer_id)
        except TimeoutError:
            return f"no answer within {timeout:g} s"
        except (P2PDaemonError, OSError, EOFError) as error:
            return str(error)
        return "connected, but it does not answer as a hivemind DHT node"

    async def _learn_own_address(self, peer_id: str) -> None:
        """Learn from a bootstrap peer which address it sees us at: one that is not this machine's is a NAT's."""
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                reader, writer = await self.open_stream(peer_id, IDENTIFY_PROTOCOL)
                try:
                    fields = bytes_fields(await read_message(reader))
                finally:
                    writer.close()
        except (TimeoutError, P2PDaemonError, OSError, EOFError, ValueError):
            return
        seen = {ip_of(value) for number, value in fields if number == OBSERVED_ADDRESS}
        self.public_ips |= {ip for ip in seen if ip is not None and ip.is_global and not is_local(ip)}

    @property
    def silent_nodes(self) -> int:
        """Number of DHT nodes that did not answer. They may hold keys that no other node holds."""
        return len(self._reader.silent)

    @property
    def joined(self) -> tuple[str, ...]:
        """Bootstrap peers that have answered `join`."""
        return self._joined

    def shares_address(self, addresses: Iterable[bytes]) -> bool:
        """Whether a direct one of these is at our own NAT, which may not forward connections from inside."""
        return any(not is_circuit(address) and ip_of(address) in self.public_ips for address in addresses)

    def account(self, peer_id: str) -> str | None:
        """Return how many lookups a joined bootstrap peer left unanswered, in words; None where there are none."""
        left_open = self._reader.asked[peer_id] - self._reader.answered[peer_id]
        if not left_open:
            return None
        return f"connected, answered the ping, did not answer {left_open} of {self._reader.asked[peer_id]} lookups"

    async def _hear_a_bootstrap_peer(self) -> None:
        await any_true(self.pings(peer_id) for peer_id in self._joined)

    async def reaches_swarm(self) -> bool:
        """Whether a bootstrap peer still answers: if not, this node may be cut off from the swarm."""
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
