"""`python -m tests.bench.history`: what the history takes in Redis (MEMORY USAGE), and how long a crawl's entry takes.

Rings have their full size from the first write on, so a few crawls show what a year comes to.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import subprocess
import time
from collections import Counter
from typing import Any

import base58

from crawler.history.writer import HistoryWriter
from crawler.leader import Leadership
from deploy import embedded_redis
from shared.snapshot import (
    SCHEMA_VERSION,
    ModelReport,
    ModelState,
    PeerState,
    ServerReport,
    Snapshot,
    Span,
)
from shared.store.connection import connect

MODELS = 3
BLOCKS = 80
CRAWLS = 5


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.history", description=__doc__)
    parser.add_argument("servers", type=int, nargs="*", default=[60, 1_000, 5_000], help="servers a swarm")
    asyncio.run(_run(parser.parse_args().servers))
    return 0


async def _run(sizes: list[int]) -> None:
    print(f"{MODELS} models of {BLOCKS} blocks, {CRAWLS} crawls")
    kinds: list[str] = []
    rows = []
    for number, servers in enumerate(sizes):
        usage, entry_ms, script_ms = await measure(servers)
        if number == 0:
            kinds = sorted(usage)
            heads = "  ".join(f"{kind:>16}" for kind in kinds)
            print(f"{'servers':>8} {'total kB':>9} {'entry ms':>9} {'script ms':>9}  {heads}")
        cells = "  ".join(f"{usage[kind] / 1000:>13,.1f} kB" for kind in kinds)
        print(f"{servers:>8,} {usage.total() / 1000:>9,.1f} {entry_ms:>9.1f} {script_ms:>9.1f}  {cells}")
        rows.append({"servers": servers, "bytes": usage.total(), "entry_ms": entry_ms, "script_ms": script_ms})
    print(json.dumps(rows))


async def measure(servers: int) -> tuple[Counter[str], float, float]:
    """Return the bytes by kind of key, and milliseconds of the last entry: all of it, and in Redis's script."""
    port = embedded_redis.free_port()
    command = embedded_redis.command(port, None)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    redis = connect(f"redis://127.0.0.1:{port}/0", "bench")
    try:
        leadership = Leadership(redis, "bench")
        while True:
            try:
                await leadership.hold()
                break
            except OSError:
                await asyncio.sleep(0.05)
        writer, start, seconds = HistoryWriter(redis), time.time(), 0.0
        for crawl in range(CRAWLS):
            await leadership.hold()
            await redis.config_resetstat()
            began = time.perf_counter()
            await writer.append(swarm(servers, taken_at=start + 60 * crawl), leadership.lease or "")
            seconds = time.perf_counter() - began
        stats: Any = await redis.info("commandstats")
        script = stats["cmdstat_evalsha"]["usec"] / 1000
        usage: Counter[str] = Counter()
        async for key in redis.scan_iter("petals:*", count=1000):
            kind = ":".join(key.decode().split(":")[1:3])
            if kind.startswith(("history", "incidents")):
                usage[kind] += await redis.memory_usage(key, samples=0) or 0
        return usage, seconds * 1000, script
    finally:
        await redis.aclose()
        process.kill()
        process.wait()


def swarm(servers: int, *, taken_at: float) -> Snapshot:
    """Return a healthy swarm, its servers spread over the models."""
    models = []
    for number in range(MODELS):
        rows = tuple(_server(i, taken_at) for i in range(number, servers, MODELS))
        models.append(
            ModelReport(
                dht_prefix=f"Some-Large-Model-{number}-hf",
                num_blocks=BLOCKS,
                state=ModelState.HEALTHY,
                name=f"owner/Some-Large-Model-{number}",
                short_name=f"Some-Large-Model-{number}",
                official=True,
                servers=rows,
            )
        )
    return Snapshot(
        schema=SCHEMA_VERSION,
        taken_at=taken_at,
        update_period=60,
        update_duration=5,
        bootstrap_peers=(),
        models=tuple(models),
    )


def _server(number: int, taken_at: float) -> ServerReport:
    digest = hashlib.sha256(str(number).encode()).digest()
    start = number // MODELS * 20 % BLOCKS
    return ServerReport(
        peer_id=base58.b58encode(b"\x00\x24\x08\x01\x12\x20" + digest).decode(),
        state=PeerState.ONLINE,
        announced=PeerState.ONLINE,
        span=Span(start, start + 20),
        show_public_name=True,
        throughput=100.0,
    )


if __name__ == "__main__":
    raise SystemExit(main())
