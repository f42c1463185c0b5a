"""What silent DHT nodes and relays cost a crawl and a check, beside a plain hivemind client and a bare connect.

`make bench-silent`: ten real hivemind nodes in a swarm of their own, each of which announces four blocks; 0, 3 and 6 of
them are frozen, which looks like a host whose packets are dropped. In the same minute: a plain hivemind client reads
the index and all blocks, a fresh crawler process's node crawls, and live servers are checked as a worker does and
connected to by address alone. Then a server that only a relay reaches is checked beside a client that knows its id
alone: three minutes more, since libp2p asks for a reservation so late. Run it as root or where user namespaces are
allowed: the relay has a public-looking address in a network namespace of its own. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from crawler.crawl import crawl_once
from crawler.settings import CrawlerSettings
from deploy.demo.simulated_inference import Computation, handler
from deploy.demo.simulated_server import Announcement, Model, SimulatedServer
from reachability_worker.nodes import Nodes
from reachability_worker.prober import Prober
from shared import logs
from shared.p2p.connect import ProberNode
from shared.p2p.dht_node import DHTClientNode
from shared.p2p.hivemind import P2P, DHTNode, PeerID, runtime_pb2
from shared.p2p.multiaddr import from_text
from shared.p2p.petals import MODEL_INDEX_KEY, TransformerConnectionHandler, block_key
from shared.p2p.swarm_settings import bootstrap_peers
from shared.settings import Settings
from shared.tasks import awaited, end
from tests.support.announcing import announce

if TYPE_CHECKING:
    from collections.abc import Sequence

NODES, BLOCKS = 10, 24
MODEL = Model("silent-hf", BLOCKS)
ROUNDS = 30
DIAL_TIMEOUT = 5.0
IN_NAMESPACE = "BENCH_IN_NAMESPACE"
RESERVATION_WITHIN = 300.0
RELAY = "45.1.1.1"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-relay", action="store_true", help="leave the relayed server out")
    arguments = parser.parse_args()
    logs.configure(Settings(log_level="error"), "bench")
    figures: dict[str, Any] = {"silent": await silent_rows()}
    if not arguments.no_relay:
        figures["relay"] = await relay_row()
    print(json.dumps(figures))


async def silent_rows() -> list[dict[str, float]]:
    """Return one row for each number of frozen nodes. Times are seconds, latencies milliseconds."""
    servers = [await SimulatedServer.start(None, _announcement(0))]
    peers = await servers[0].addresses()
    servers += [await SimulatedServer.start(peers, _announcement(number)) for number in range(1, NODES)]
    await asyncio.gather(
        *(announce(server, server.peer_id, _announcement(number)) for number, server in enumerate(servers))
    )
    boot = [*peers, *await servers[1].addresses()]
    rows = []
    print(f"{'frozen':>7}{'client':>9}{'crawl':>8}{'again':>8}   check p50, p99 / bare connect (ms)")
    try:
        for frozen in (0, 3, 6):
            for server in servers[NODES - frozen :]:
                server.freeze()
            row = {"frozen": frozen, "client": await _plain_client(boot), **await _crawls(boot)}
            row |= await _checks(boot, servers[: NODES - 6])
            for server in servers[NODES - frozen :]:
                server.thaw()
            pairs = [(row[f"check_{cut}"], row[f"bare_{cut}"]) for cut in ("p50", "p99")]
            checked = ", ".join(f"{check:.0f} / {bare:.0f} = {check / bare:.1f} ×" for check, bare in pairs)
            crawled = f"{row['client']:>9.2f}{row['first_crawl']:>8.2f}{row['next_crawl']:>8.2f}"
            print(f"{frozen:>7}{crawled}   {checked}")
            rows.append(row)
            await asyncio.sleep(1)
    finally:
        for server in servers:
            await server.close()
    return rows


def _announcement(number: int) -> Announcement:
    start = number * 4 % BLOCKS
    return Announcement(MODEL, start, start + 4)


async def _plain_client(boot: list[str]) -> float:
    p2p = await P2P.create(dht_mode="client", no_listen=True, initial_peers=boot)
    dht = await DHTNode.create(p2p=p2p, client_mode=True, initial_peers=boot)
    began = time.monotonic()
    await dht.get(MODEL_INDEX_KEY, latest=True)
    keys = [block_key(MODEL.dht_prefix, block) for block in range(BLOCKS)]
    await dht.get_many(keys, sufficient_expiration_time=float("inf"))
    took = time.monotonic() - began
    await dht.shutdown()
    return took


async def _crawls(boot: list[str]) -> dict[str, float]:
    settings = CrawlerSettings(initial_peers=boot, models="", dial_timeout=DIAL_TIMEOUT)
    took = []
    async with await DHTClientNode.open() as node:
        for _ in range(2):
            began = time.monotonic()
            snapshot = await crawl_once(settings, node)
            took.append(time.monotonic() - began)
            if snapshot.num_servers != NODES:
                raise SystemExit(f"the crawl saw {snapshot.num_servers} of {NODES} servers")
    return {"first_crawl": took[0], "next_crawl": took[1]}


async def _checks(boot: list[str], live: Sequence[SimulatedServer]) -> dict[str, float]:
    """Check live servers one after another, each beside a connect to its known address."""
    addresses = {server.peer_id: from_text((await server.addresses())[0].rpartition("/p2p/")[0]) for server in live}
    checks: list[float] = []
    bare: list[float] = []
    async with AsyncExitStack() as stack:
        prober_node = await stack.enter_async_context(await ProberNode.open())
        nodes = Nodes(bootstrap_peers(boot))
        prober = Prober(nodes, check_timeout=DIAL_TIMEOUT, dials_at_once=1024)
        running = awaited(nodes.run())
        stack.push_async_callback(end, running)
        await nodes.until_fit(20)
        for turn in range(-len(addresses), ROUNDS):
            if turn == 0:  # both daemons have met each server once
                checks.clear()
                bare.clear()
            peer_id, address = list(addresses.items())[turn % len(addresses)]
            began = time.monotonic()
            await prober_node.disconnect(peer_id)
            await prober_node.connect(peer_id, (address,))
            bare.append(time.monotonic() - began)
            began = time.monotonic()
            outcome = await prober.probe(peer_id, time.monotonic() + 8)
            checks.append(time.monotonic() - began)
            if outcome.verdict != "reachable":
                raise SystemExit(f"a live server was called {outcome.verdict}: {outcome.cause}")
    return {**_percentiles("check", checks), **_percentiles("bare", bare)}


def _percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"{name}_p50": cuts[49] * 1000, f"{name}_p99": cuts[98] * 1000}


async def relay_row() -> dict[str, float]:
    """Return how long a check of a server behind a relay takes, and a client that knows its id alone."""
    place = f"/ip4/{RELAY}/tcp/31337"
    relay = await P2P.create(host_maddrs=[place], announce_maddrs=[place], force_reachability="public")
    relay_node = await DHTNode.create(p2p=relay)
    boot = [f"{place}/p2p/{relay.peer_id}"]
    hidden = await P2P.create(
        host_maddrs=["/ip4/127.0.0.1/tcp/0"],
        dht_mode="client",
        force_reachability="private",
        use_auto_relay=True,
        trusted_relays=boot,
        initial_peers=boot,
    )
    await handler("bench", 0, 1, Computation()).add_p2p_handlers(hidden)
    peer_id = str(hidden.peer_id)
    nodes = Nodes(bootstrap_peers(boot))
    prober = Prober(nodes, check_timeout=DIAL_TIMEOUT, dials_at_once=16)
    running = awaited(nodes.run())
    try:
        await nodes.until_fit(20)
        outcome = await prober.probe(peer_id, time.monotonic() + 8)
        end_at = time.monotonic() + RESERVATION_WITHIN
        while outcome.verdict != "reachable" and time.monotonic() < end_at:
            await asyncio.sleep(3)
            outcome = await prober.probe(peer_id, time.monotonic() + 8)
        if not outcome.relayed:
            raise SystemExit(f"the relayed server was not reached over its relay: {outcome}")
        checks, clients = [], []
        for _ in range(10):
            began = time.monotonic()
            await prober.probe(peer_id, time.monotonic() + 8)
            checks.append(time.monotonic() - began)
            client = await P2P.create(dht_mode="client", no_listen=True, initial_peers=boot)
            began = time.monotonic()
            stub = TransformerConnectionHandler.get_stub(client, PeerID.from_base58(peer_id))
            await stub.rpc_info(runtime_pb2.ExpertUID())
            clients.append(time.monotonic() - began)
            await client.shutdown()
    finally:
        await end(running)
        await hidden.shutdown()
        await relay_node.shutdown()
    row = {**_percentiles("check", checks), **_percentiles("client", clients)}
    print(
        f"relayed server: check {row['check_p50']:.0f} ms, a client that knows its id {row['client_p50']:.0f} ms (p50)"
    )
    return row


if __name__ == "__main__":
    if "--no-relay" not in sys.argv and not os.environ.get(IN_NAMESPACE):
        command = ["unshare", "--net", *(["--user", "--map-root-user"] if os.getuid() else [])]
        again = [sys.executable, "-m", "tests.bench.silent_nodes", *sys.argv[1:]]
        raise SystemExit(
            subprocess.run([*command, *again], env=os.environ | {IN_NAMESPACE: "1"}, check=False).returncode
        )
    if os.environ.get(IN_NAMESPACE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "addr", "add", f"{RELAY}/32", "dev", "lo"], check=True)
    asyncio.run(main())
