"""A real libp2p node of the swarm that answers FIND_NODE with whatever a test wants it to say."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress

from shared.p2p.daemon import P2PDaemon
from shared.p2p.hivemind import DHTNode, PeerID
from shared.p2p.kad_messages import PROTOCOL, read_message
from tests.support.simulated_kad import answer, closer_peer


class LyingNode:
    """Answers hivemind's pings as an honest node; asked about a peer, it names what `says` has for that one.

    It answers so many questions on a stream (`answers_a_stream`) and closes it; each answer takes `delay` seconds.
    Counted are the questions about those whom it lies about (`asked`), and the streams that these came on.
    """

    def __init__(self, node):
        self.node = node
        self.says = {}
        self.asked = self.streams = 0
        self.answers_a_stream, self.delay = 1, 0.0

    @classmethod
    async def start(cls):
        """Its daemon runs no Kademlia of its own, so that the protocol is free for this handler."""
        p2p = await P2PDaemon.create(
            dht_mode="none", host_maddrs=["/ip4/127.0.0.1/tcp/0"], auto_nat=False, nat_port_map=False, use_relay=False
        )
        liar = cls(await DHTNode.create(p2p=p2p))
        await p2p.add_binary_stream_handler(PROTOCOL, liar._handle)
        return liar

    async def _handle(self, _, reader, writer):
        counted = False
        with suppress(EOFError, OSError):
            for _ in range(self.answers_a_stream):
                question = await read_message(reader)
                # Daemons ask on their own account too, about themselves and at random.
                lies = [lie for peer_id, lie in self.says.items() if PeerID.from_base58(peer_id).to_bytes() in question]
                self.asked += len(lies)
                self.streams += bool(lies) and not counted
                counted = counted or bool(lies)
                named = lies[0] if lies else {}
                await asyncio.sleep(self.delay)
                writer.write(answer(b"".join(closer_peer(*peer) for peer in named.items())))
                await writer.drain()
        writer.close()

    async def address(self):
        return str((await self.node.get_visible_maddrs())[0])

    async def close(self):
        await self.node.shutdown()
        await self.node.p2p.shutdown()


def id_near(peer_id, number):
    """A valid peer id whose place in Kademlia's space is near another's, as an attacker can search for."""

    def place(key):
        return int.from_bytes(hashlib.sha256(key).digest(), "big")

    target = place(PeerID.from_base58(peer_id).to_bytes())
    tried = (b"\x12\x20" + hashlib.sha256(b"%d %d" % (number, attempt)).digest() for attempt in range(2_000))
    return str(PeerID(min(tried, key=lambda key: place(key) ^ target)))


class Tarpit:
    """Ports that accept connections and say nothing, as an attacker's do; counts the connections."""

    def __init__(self, count):
        self._count = count
        self._servers = []
        self._over = asyncio.Event()
        self.knocks = 0

    async def __aenter__(self):
        self._servers = [await asyncio.start_server(self._hold, "127.0.0.1", 0) for _ in range(self._count)]
        self.addresses = [f"/ip4/127.0.0.1/tcp/{one.sockets[0].getsockname()[1]}" for one in self._servers]
        return self

    async def __aexit__(self, *_):
        for one in self._servers:
            one.close()
        self._over.set()
        await asyncio.sleep(0.1)

    async def _hold(self, _, writer):
        self.knocks += 1
        await self._over.wait()
        writer.close()
