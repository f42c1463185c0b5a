"""`python -m tests.bench.history`: what the history takes in Redis (MEMORY USAGE), and how long a crawl's entry takes;
what a day of the export takes on disk.

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
from random import Random
from typing import Any

import base58

from crawler.history.writer import MAX_SERVERS, HistoryWriter
from crawler.leader import Leadership
from deploy import embedded_redis
from shared.export_files import Form, Kind
from shared.public.data import Row, crawl_row, inference_row, packed, server_row
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
from shared.store.inference_history import Proof
from shared.store.rings import HOUR, ModelSlot, Resolution
from shared.store.server_history import ServerHour, ServerRecord

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
    days = Resolution.DAY.ring
    print(f"{days.width * 365.25 / 1000:.1f} kB of Redis per model and year, {days.slots} days in {days.size:,} bytes")
    for servers in sorted({min(servers, MAX_SERVERS) for servers in sizes}):
        sizes_of_day = exported(servers)
        cells = "  ".join(f"{name} {size / 1000:,.1f} kB" for name, size in sizes_of_day.items())
        year = sum(sizes_of_day.values()) * 365.25 / 1e6
        print(f"export, {servers:,} servers: {cells} a day; {year:,.0f} MB a year")
    print(json.dumps(rows))


def exported(servers: int) -> dict[str, int]:
    """Return the bytes of a day's files by kind and form: a day in which servers come and go, and speeds vary."""
    chance = Random(servers)
    rows: dict[Kind, list[Row]] = {Kind.CRAWLS: [], Kind.SERVERS: [], Kind.INFERENCE: []}
    for number in range(MODELS):
        for hour in range(480_000, 480_024):
            healthy, online = chance.randint(50, 60), chance.gauss(servers / MODELS, 2)
            slot = ModelSlot(hour, 60, healthy, BLOCKS, chance.randint(70, BLOCKS), 1, online, 1, 1, 1, online * 3)
            rows[Kind.CRAWLS].append(crawl_row(f"Some-Large-Model-{number}-hf", slot))
            proof = _proof(hour, chance)
            rows[Kind.INFERENCE].append(inference_row(proof, dht_prefix=f"Some-Large-Model-{number}-hf"))
    for peer_id in sorted(_server(number, 0).peer_id for number in range(servers)):
        record = ServerRecord(first_seen=chance.randint(1_700_000_000, 1_728_000_000), last_seen=1_728_086_400)
        for hour in range(480_000, 480_024):
            online = 60 if chance.random() < 0.8 else chance.randint(0, 60)
            rows[Kind.SERVERS].append(server_row(peer_id, record, ServerHour(hour, 60, online)))
            rows[Kind.INFERENCE].append(inference_row(_proof(hour, chance), peer_id=peer_id))
    return {f"{kind}.{form}": len(packed(kind, form, found)) for kind, found in rows.items() for form in Form}


def _proof(hour: int, chance: Random) -> Proof:
    return Proof(
        hour * HOUR + chance.randint(0, 599), 6, chance.choice((5, 6, 6, 6)), "computed", chance.gauss(0.2, 0.02)
    )


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
