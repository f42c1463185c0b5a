"""`make bench-floods`: what a flood costs a crawl, as a ratio to an honest swarm of the size that a crawl keeps.

Without a network (`SyntheticSwarm`): what is measured is this program's own work and memory. The
last line is JSON.
"""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from typing import Any

import pytest

from crawler.judge import judge
from crawler.observe import record_reader
from shared.snapshot import encode
from tests.crawler.synthetic_swarm import SyntheticSwarm
from tests.fakes import peer_id

BLOCKS = 4


def swarm(servers: int, models: int = 1, *, reached: bool = False) -> SyntheticSwarm:
    made = SyntheticSwarm()
    for model in range(models):
        made.announce_model(f"m{model}", BLOCKS if models == 1 else 1024)
    for number in range(servers):
        made.announce_server("m0", peer_id(number), 0, BLOCKS, reached=reached)
    return made


async def measure(made: SyntheticSwarm) -> tuple[float, int, int, int, int]:
    """Return seconds, peak bytes, servers and models kept, packed bytes."""
    with pytest.MonkeyPatch.context() as patch:
        started = time.perf_counter()
        await made.crawl(patch).run()
        seconds = time.perf_counter() - started
        tracemalloc.start()
        observation = await made.crawl(patch).run()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    snapshot = judge(observation, 60.0)
    return seconds, peak, snapshot.num_servers, len(snapshot.models), len(encode(snapshot))


async def main() -> None:
    honest_size = int(record_reader.MAX_RECORDS * record_reader.STRANGERS_SHARE)
    cases = {
        f"honest, {honest_size:,} servers": swarm(honest_size, reached=True),
        "20,000 fake servers": swarm(20_000),
        "100,000 fake servers": swarm(100_000),
        "10,000 fake models": swarm(100, 10_000),
    }
    print(f"{'swarm':<26} {'seconds':>8} {'ratio':>6} {'peak MB':>8} {'servers':>8} {'models':>7} {'packed kB':>10}")
    rows: list[dict[str, Any]] = []
    for name, made in cases.items():
        seconds, peak, servers, models, packed = await measure(made)
        row = {
            "swarm": name, "seconds": seconds, "ratio": seconds / (rows[0]["seconds"] if rows else seconds),
            "peak_mb": peak / 2**20, "servers": servers, "models": models, "packed_kb": packed / 1000,
        }  # fmt: skip
        rows.append(row)
        print(
            f"{name:<26} {seconds:>8.2f} {row['ratio']:>6.2f} {row['peak_mb']:>8.1f} {servers:>8,} {models:>7,} "
            f"{row['packed_kb']:>10.1f}",
            flush=True,
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    asyncio.run(main())
