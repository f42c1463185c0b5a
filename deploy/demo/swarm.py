"""This module runs a private swarm on 127.0.0.1 that has everything a page can show, for `make demo`.

`python -m deploy.demo.swarm` prints one line, `INITIAL_PEERS=...`, once the swarm stands, and runs until it is
told to stop. All nodes are real; only the models are missing.

In a container, for other containers: DEMO_HOST is the name by which they know this one. The nodes then listen on
the container's own address, the bootstrap peer on port 31337, and what the monitor needs to know is served over
HTTP on port 8089 (`deploy.with_swarm` asks there). DEMO_DATA is a folder that keeps the bootstrap peer's identity.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.demo.simulated_server import Announcement, Model, SimulatedServer, place
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ANNOUNCE_PERIOD = 20.0
OTHERS_AFTER = 3.0
"""Seconds after which all but the first model's live servers come: each node costs 0.4 s of a core, and the first page
need not wait for them."""
BOOTSTRAP_PORT, HANDOVER_PORT = 31337, 8089
"""Where DEMO_HOST is set; else free ports are used, and INITIAL_PEERS is only printed."""

HEALTHY = Model("StableBeluga2-hf", 80, "https://huggingface.co/petals-team/StableBeluga2")
BROKEN = Model("falcon-40b-demo", 60, "https://huggingface.co/tiiuae/falcon-40b")
LOCAL = Model("my-local-llama", 24)

LIVE = (
    Announcement(
        HEALTHY, 0, 30, throughput=3688.5, info={"public_name": "https://example.org/lab", "inference_rps": 310.0}
    ),
    Announcement(HEALTHY, 20, 45, throughput=2776.2, info={"public_name": "Ada", "inference_rps": 240.0}),
    Announcement(HEALTHY, 45, 80, throughput=2108.6, info={"public_name": "GPU Club", "inference_rps": 280.0}),
    Announcement(
        HEALTHY, 40, 60, throughput=512.0, info={"adapters": ("artek0chumak/bloom-lora",), "inference_rps": 95.0}
    ),
    Announcement(HEALTHY, 70, 80, throughput=256.0, info={"using_relay": True, "version": "2.1.0"}),
    Announcement(BROKEN, 0, 20, throughput=980.0, info={"public_name": "night shift", "inference_rps": 130.0}),
    Announcement(BROKEN, 20, 37, throughput=870.0, info={"quant_type": "int8", "inference_rps": 120.0}),
    Announcement(BROKEN, 41, 60, throughput=910.0, info={"inference_rps": 125.0}),
    Announcement(LOCAL, 0, 12, throughput=64.0, info={"torch_dtype": "float32", "quant_type": "none"}),
    Announcement(LOCAL, 8, 24, throughput=58.0, info={"torch_dtype": "float32", "quant_type": "none"}),
)
JOINING = (
    Announcement(BROKEN, 34, 44, state="joining", throughput=900.0),
    Announcement(HEALTHY, 0, 10, state="joining"),
)
OFFLINE = Announcement(HEALTHY, 60, 70, state="offline", throughput=700.0)
OFFLINE_ID = "QmZjZUMaRJBZavGkYtiAssnn1hpBzNnmbfHi7Nxa5oBoTM"
"""It has left: nobody looks for it."""
DEAD = Announcement(BROKEN, 37, 41, throughput=400.0, info={"public_name": "unplugged"})
FROZEN = Announcement(HEALTHY, 10, 25, throughput=640.0, info={"public_name": "swapping"})


async def main() -> None:
    """Start the swarm, keep its records fresh until SIGINT or SIGTERM, and leave no process behind."""
    host = os.environ.get("DEMO_HOST")
    data = os.environ.get("DEMO_DATA")
    # A container's host name is its own address in its /etc/hosts.
    address = socket.gethostbyname(socket.gethostname()) if host else "127.0.0.1"
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    async with AsyncExitStack() as stack:

        async def start(announcement: Announcement | None = None, *, serves: bool = True) -> SimulatedServer:
            server = await SimulatedServer.start(initial_peers, announcement, serves=serves, address=address)
            stack.push_async_callback(server.close)
            return server

        initial_peers: list[str] = []
        bootstrap = await SimulatedServer.start(
            address=address,
            port=BOOTSTRAP_PORT if host else 0,
            identity=Path(data) / "bootstrap.key" if data else None,
        )
        stack.push_async_callback(bootstrap.close)
        initial_peers = await bootstrap.addresses()
        nodes = [bootstrap]
        announced = {OFFLINE_ID: OFFLINE}

        def enter(servers: Sequence[SimulatedServer]) -> None:
            nodes.extend(servers)
            _tell_pings(nodes)
            announced.update({one.peer_id: one.announcement for one in nodes if one.announcement is not None})
            place(announced, on=nodes)

        async def start_others(after: float) -> None:
            await asyncio.sleep(after)
            live = [start(announcement) for announcement in LIVE if announcement.model is not HEALTHY]
            joining = [start(announcement, serves=False) for announcement in JOINING]
            frozen, dead, *others = await asyncio.gather(start(FROZEN), start(DEAD), *live, *joining)
            enter([frozen, dead, *others])
            await dead.close()
            frozen.freeze()

        enter(await asyncio.gather(*(start(one) for one in LIVE if one.model is HEALTHY)))
        if host:
            await start_others(after=0)
            # The name outlives this container's address.
            initial_peers = [f"/dns4/{host}/tcp/{BOOTSTRAP_PORT}/p2p/{bootstrap.peer_id}"]
            stack.push_async_callback(_close, await _hand_over(initial_peers))
        print("INITIAL_PEERS=" + ",".join(initial_peers), flush=True)
        others = None if host else awaited(start_others(OTHERS_AFTER))
        while not stop.is_set():
            try:
                async with asyncio.timeout(ANNOUNCE_PERIOD):
                    await stop.wait()
            except TimeoutError:
                place(announced, on=nodes)
            if others is not None and others.done() and (error := others.exception()) is not None:
                # On a busy machine a daemon may not start in time. To end for it would take the whole swarm away.
                print(f"the other servers did not start, trying again: {error!r}", file=sys.stderr, flush=True)
                others = awaited(start_others(OTHERS_AFTER))
        await end(others)


async def _hand_over(initial_peers: Iterable[str]) -> asyncio.Server:
    """Serve the monitor's settings for this swarm as `VARIABLE=value` lines, whatever is asked."""
    model = {"dht_prefix": HEALTHY.dht_prefix, "num_blocks": HEALTHY.num_blocks, "repository": HEALTHY.repository}
    settings = f"INITIAL_PEERS={','.join(initial_peers)}\nMODELS={json.dumps([model])}\nCRAWL_PERIOD=15\n"
    answer = f"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(settings)}\r\n\r\n{settings}"

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A health check connects and asks nothing.
        with closing(writer), suppress(asyncio.IncompleteReadError, OSError):
            async with asyncio.timeout(5):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer.encode())
                await writer.drain()

    return await asyncio.start_server(reply, "0.0.0.0", HANDOVER_PORT)


async def _close(server: asyncio.Server) -> None:
    server.close()
    await server.wait_closed()


def _tell_pings(nodes: Sequence[SimulatedServer]) -> None:
    """Give each live server pings to those that hold the blocks after its own, as real ones measure them."""
    rng = random.Random(7)  # noqa: S311 - demo data
    live = {node.peer_id: node.announcement for node in nodes if node.announcement in LIVE and node.announcement}
    for announcement in live.values():
        followers = [
            other
            for other, its in live.items()
            if its.model == announcement.model and its.start <= announcement.end < its.end
        ]
        announcement.info["next_pings"] = {other: round(rng.uniform(0.005, 0.18), 4) for other in followers}


if __name__ == "__main__":
    asyncio.run(main())
    sys.exit(0)
