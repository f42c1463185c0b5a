"""`make bench-inference`: what one round of inference checks costs the crawler, with 1,000 servers.

Real: the crawler's own rounds, its libp2p daemon, connections, `rpc_info`, sessions of two steps. Simulated: what the
servers compute. A peer takes a process of 64 MB, so 40 peers stand for 1,000 servers: each serves 25 models, and is
dialled anew for each. The round is made at once, not spread over ten minutes. Prints the seconds of a core (the crawler
and its daemons, not the servers) as a share of the period, the memory that is added, and JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from crawler.inference.results import Results
from crawler.inference.rounds import InferenceChecks
from deploy.demo.simulated_inference import Computation, handler_of
from deploy.demo.simulated_server import SimulatedServer
from shared.p2p.petals import block_key
from shared.snapshot import (
    SCHEMA_VERSION,
    ModelReport,
    ModelState,
    PeerState,
    ServerReport,
    Snapshot,
    Span,
    Verdict,
)
from tests.bench.processes import pss_mb

PERIOD = 600.0
BLOCKS = 4
HIDDEN_SIZE = 8192
TARGET_SHARE, TARGET_MB = 0.1, 10.0
SAMPLE_EVERY = 0.2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.inference", description=__doc__)
    parser.add_argument("--peers", type=int, default=40, help="64 MB each (default 40)")
    parser.add_argument("--models", type=int, default=25, help="that each peer serves (default 25)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(_serve(arguments.peers, arguments.models))
        return 0
    command = [sys.executable, "-m", "tests.bench.inference", "--serve"]
    command += ["--peers", str(arguments.peers), "--models", str(arguments.models)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as servers:
        assert servers.stdin is not None
        assert servers.stdout is not None
        try:
            row = asyncio.run(_measure(json.loads(servers.stdout.readline()), arguments.models))
        finally:
            servers.stdin.close()
    print(
        f"{row['servers']} servers, {row['models']} models: {row['cpu_seconds']:.1f} s of a core a round, "
        f"{row['share']:.3f} of a core at one round per {PERIOD:g} s (target {TARGET_SHARE})\n"
        f"added to the crawler's process: {row['added_mb']:.1f} MB (target {TARGET_MB:g}); "
        f"its daemon while it checks: {row['daemon_mb']:.1f} MB\n"
        f"a crawl waits for it: {row['crawl_waits_ms']:.1f} ms\n{row['outcomes']}"
    )
    print(json.dumps(row))
    return 0


async def _measure(peers: list[tuple[str, str]], models: int) -> dict[str, Any]:
    checks = InferenceChecks(period=0.001, dial_private=True)
    checks.merged(_snapshot(peers[:2], 1))
    await checks.round()  # code and buffers that stay
    checks.merged(_snapshot(peers, models))
    before, mb = _cpu_seconds(), pss_mb(_own_pid())
    watching = asyncio.create_task(_watch())
    began = time.monotonic()
    await checks.round()
    seconds = time.monotonic() - began
    watching.cancel()
    own, daemon = await watching
    cpu = _cpu_seconds() - before
    snapshot, kept = _snapshot(peers, models), Results(PERIOD)
    kept.servers, kept.models = checks.results.servers, checks.results.models
    began = time.perf_counter()
    kept.merged(snapshot, peer_id=None)
    merged = time.perf_counter() - began
    return {
        "servers": len(peers) * models,
        "models": models,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 2),
        "share": round(cpu / PERIOD, 4),
        "crawl_waits_ms": round(1e3 * merged, 1),
        "added_mb": round(own - mb, 1),
        "daemon_mb": round(daemon, 1),
        "outcomes": dict(Counter(str(one.outcome) for one in checks.results.servers.values())),
        "chains": dict(Counter(str(one.state) for one in checks.results.models.values())),
    }


async def _watch() -> tuple[float, float]:
    """Return the most MB that this process and that its daemons held, when cancelled."""
    own = daemon = 0.0
    try:
        while True:
            own = max(own, pss_mb(_own_pid()))
            with suppress(OSError):  # one that ended meanwhile
                daemon = max(daemon, sum(map(pss_mb, _daemons())))
            await asyncio.sleep(SAMPLE_EVERY)
    except asyncio.CancelledError:
        return own, daemon


def _own_pid() -> int:
    return int(Path("/proc/self").readlink().name)


def _daemons() -> list[int]:
    children = Path(f"/proc/self/task/{_own_pid()}/children").read_text().split()
    return [int(pid) for pid in children if "p2pd" in _name(pid)]


def _name(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _snapshot(peers: list[tuple[str, str]], models: int) -> Snapshot:
    """Return a swarm in which each peer holds one half of each model."""
    return Snapshot(
        schema=SCHEMA_VERSION,
        taken_at=time.time(),
        update_period=60.0,
        update_duration=1.0,
        bootstrap_peers=(),
        models=tuple(
            ModelReport(
                dht_prefix=_prefix(model),
                num_blocks=BLOCKS,
                state=ModelState.HEALTHY,
                name=_prefix(model),
                short_name=_prefix(model),
                servers=tuple(
                    ServerReport(
                        peer_id=peer_id,
                        state=PeerState.ONLINE,
                        announced=PeerState.ONLINE,
                        span=Span(*_span(number)),
                        show_public_name=False,
                        throughput=100.0,
                        inference_rps=100.0,
                        verdict=Verdict.REACHABLE,
                        relayed=False,
                        rtt=0.001,
                        multiaddrs=(address,),
                    )
                    for number, (peer_id, address) in enumerate(peers)
                ),
            )
            for model in range(models)
        ),
    )


def _prefix(model: int) -> str:
    return f"bench-{model}"


def _span(number: int) -> tuple[int, int]:
    half = BLOCKS // 2
    return (0, half) if number % 2 == 0 else (half, BLOCKS)


async def _serve(peers: int, models: int) -> None:
    """Run the servers until standard input ends; print each one's peer id and address."""
    servers = []
    for number in range(peers):
        server = await SimulatedServer.start()
        blocks = range(*_span(number))
        uids = {block_key(_prefix(model), block): block for model in range(models) for block in blocks}
        await handler_of(uids, Computation(HIDDEN_SIZE)).add_p2p_handlers(server.node.p2p)
        servers.append(server)
    found = [(one.peer_id, (await one.addresses())[0].partition("/p2p/")[0]) for one in servers]
    print(json.dumps(found), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for server in servers:
        await server.close()


if __name__ == "__main__":
    sys.exit(main())
