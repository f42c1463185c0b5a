"""How fast the crawler sees a swarm, against a sequential crawl: look up, then dial, then list addresses.

`make bench-crawl` builds a private swarm of each size (`tests.bench.swarm`: real DHT nodes 25 ms away, some servers
live, some frozen, the rest dead), crawls it both ways from fresh processes, and prints ratios and JSON. The crawler
publishes into a real Redis, whose commands and bytes are counted. The swarm runs on one core, the crawls on another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy import embedded_redis

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


SIZES = {60: (4, 80), 400: (8, 80), 1_000: (12, 80), 10_000: (20, 126)}
"""Servers: models, blocks of each."""
LIVE_SHARE, MAX_LIVE = 0.6, 100
ONE_WAY = 0.025
DIAL_TIMEOUT = 5.0
SWARM_CORE, CRAWL_CORE = "0", "1"
WAYS = ("sequential", "crawler")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.crawl", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES), help="servers in the swarm")
    parser.add_argument("--live", type=int, default=MAX_LIVE, help="live servers at most, 64 MB each (default 100)")
    parser.add_argument("--one-way", type=float, default=ONE_WAY, help="seconds to any node (default 0.025)")
    parser.add_argument(
        "--plain-up-to",
        type=int,
        default=1_000,
        help="largest swarm that the sequential crawl measures too (default 1000)",
    )
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--initial-peers", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--redis", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        plain = arguments.way == "sequential"
        peers = arguments.initial_peers
        asyncio.run(_sequential(peers) if plain else _crawler(peers, arguments.redis))
        return 0
    rows = []
    for size in arguments.sizes:
        ways = WAYS if size <= arguments.plain_up_to else WAYS[1:]
        rows.append(_bench(size, arguments.live, arguments.one_way, ways))
        _print(rows[-1])
    print(json.dumps(rows))
    return 0


def _print(row: dict[str, Any]) -> None:
    ours = row["crawler"]
    print(f"{row['servers']} servers, {row['live']} live:")
    if "ratio" in row:
        print(f"{'':14}{row['ratio']:.2f} of the sequential crawl's time, {row['steady_ratio']:.2f} later")
    for way in filter(row.__contains__, WAYS):
        figures = row[way]
        phases = ", ".join(f"{name} {seconds:.2f}" for name, seconds in figures["phases"].items())
        print(f"  {way:10}  {figures['seconds']:.2f} s ({phases})")
        print(f"{'':14}DHT keys asked {figures['asked']['keys']}, addresses asked {figures['asked']['find_node']}")
        live = f"{figures['called_unreachable']} called unreachable, {figures['not_probed']} not probed"
        print(f"{'':14}{figures['rss_mb']:.0f} MB; live servers: {live}")
    print(f"{'':14}{ours['steady_seconds']:.2f} s when it knows who is silent")
    print(f"{'':14}build {ours['build_seconds']:.3f} s, publish {ours['publish_seconds']:.3f} s")
    print(f"{'':14}{ours['snapshot_bytes']} B in Redis, {ours['redis_commands']} commands", flush=True)


def _bench(servers: int, max_live: int, one_way: float, ways: Iterable[str]) -> dict[str, Any]:
    models, blocks = SIZES.get(servers, (4, 20))
    live = min(round(servers * LIVE_SHARE), max_live)
    plan = {"servers": servers, "live": live, "models": models, "blocks": blocks, "one_way": one_way}
    with ExitStack() as stack:
        port = embedded_redis.free_port()
        stack.enter_context(_process(SWARM_CORE, *embedded_redis.command(port, None)))
        swarm = stack.enter_context(_process(SWARM_CORE, sys.executable, "-m", "tests.bench.swarm", json.dumps(plan)))
        ground = json.loads(_line(swarm))
        row: dict[str, Any] = plan | {way: _crawl_apart(way, swarm, ground, port) for way in ways}
    if "sequential" in row:
        row["ratio"] = row["crawler"]["seconds"] / row["sequential"]["seconds"]
        row["steady_ratio"] = row["crawler"]["steady_seconds"] / row["sequential"]["seconds"]
    return row


def _crawl_apart(way: str, swarm: subprocess.Popen[str], ground: dict[str, Any], redis_port: int) -> dict[str, Any]:
    """Crawl in a process of its own, and hold what it found against the truth."""
    command = [sys.executable, "-m", "tests.bench.crawl", "--way", way, "--redis", f"redis://127.0.0.1:{redis_port}/0"]
    _asked(swarm)
    with _process(CRAWL_CORE, *command, "--initial-peers", *ground["initial_peers"]) as process:
        figures: dict[str, Any] = json.loads(_line(process))
        figures["asked"] = _asked(swarm)
        _tell(process)
        figures |= json.loads(_line(process))
    live, reached, unreachable = set(ground["live"]), set(figures.pop("reached")), set(figures.pop("unreachable"))
    if strangers := reached - live:
        raise RuntimeError(f"{way} reached {len(strangers)} servers that nobody runs")
    figures["called_unreachable"] = len(live & unreachable)
    figures["not_probed"] = len(live - reached - unreachable)
    return figures


def _asked(swarm: subprocess.Popen[str]) -> dict[str, int]:
    _tell(swarm)
    counts: dict[str, int] = json.loads(_line(swarm))
    return counts


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"ended early: {process.args!r}")
    return line


@contextmanager
def _process(core: str, *command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        ["taskset", "-c", core, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.terminate()
        process.wait(30)


def _report(figures: Any) -> None:
    print(json.dumps(figures), flush=True)


async def _sequential(initial_peers: list[str]) -> None:
    from shared.p2p.hivemind import DHTNode
    from tests.bench import sequential_crawl

    started = time.monotonic()
    node = await DHTNode.create(initial_peers=initial_peers, client_mode=True)
    joined = time.monotonic()
    reached, unreachable, phases = await sequential_crawl.crawl(node, DIAL_TIMEOUT)
    _report({
        "seconds": time.monotonic() - started,
        "phases": {"join": joined - started, **phases},
        "reached": reached,
        "unreachable": unreachable,
        "rss_mb": _peak_mb(node.p2p._child.pid),
    })  # fmt: skip
    sys.stdin.readline()
    _report({})
    await node.shutdown()


async def _crawler(initial_peers: list[str], redis_url: str) -> None:
    from crawler.judge import judge
    from crawler.leader import Leadership
    from crawler.observe.observer import observe
    from crawler.settings import CrawlerSettings
    from shared.p2p.daemon import allow_many_files
    from shared.p2p.dht_node import DHTClientNode
    from shared.snapshot import Verdict
    from shared.store.connection import connect
    from shared.store.snapshots import SnapshotWriter

    allow_many_files()
    settings = CrawlerSettings(initial_peers=initial_peers, dial_timeout=DIAL_TIMEOUT)
    started = time.monotonic()
    dht_node = await DHTClientNode.open()
    observation = await observe(settings, dht_node)
    snapshot = judge(observation, settings.crawl_period)
    seconds = time.monotonic() - started
    memory = _peak_mb(dht_node.daemon_pid)
    redis = connect(redis_url, "bench")
    leadership = Leadership(redis, "bench")
    await leadership.hold()
    writer = SnapshotWriter(redis)
    commands = await _commands(redis)
    marks = [time.monotonic()]
    judge(observation, settings.crawl_period)
    marks.append(time.monotonic())
    size = await writer.publish(snapshot, leadership.lease or "")
    marks.append(time.monotonic())
    dials = observation.dials
    _report({
        "seconds": seconds,
        "phases": {name.replace("look_up", "lookup"): seconds for name, seconds in observation.phases.items()},
        "build_seconds": marks[1] - marks[0],
        "publish_seconds": marks[2] - marks[1],
        "snapshot_bytes": size,
        "redis_commands": await _commands(redis) - commands - 1,
        "rss_mb": memory,
        "reached": [peer for peer, dial in dials.items() if dial.verdict is Verdict.REACHABLE],
        "unreachable": [peer for peer, dial in dials.items() if dial.verdict is Verdict.UNREACHABLE],
    })  # fmt: skip
    sys.stdin.readline()
    for _ in range(2):
        started = time.monotonic()
        snapshot = judge(await observe(settings, dht_node, snapshot), settings.crawl_period)
    _report({"steady_seconds": time.monotonic() - started})
    await dht_node.close()
    await redis.aclose()


async def _commands(redis: Any) -> int:
    """Return how many commands Redis has run, but for this question."""
    return int((await redis.info("stats"))["total_commands_processed"])


def _peak_mb(daemon: int) -> float:
    """Return the peak memory of this process and of one daemon."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path(f"/proc/{daemon}/status").read_text()
    return (own + int(status.split("VmHWM:")[1].split()[0])) / 1024


if __name__ == "__main__":
    sys.exit(main())
