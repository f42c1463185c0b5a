"""`make bench-memory`: memory of each process of a monitor of 60 to 10,000 servers, at a check per second.

It measures launcher, Redis, api, crawler, worker and their libp2p daemons every five seconds, and prints the highest
value. Pages of files that several processes map are divided among them. The swarm's nodes (`tests.bench.swarm`) are not
counted, and share no page with the monitor. Checks are requested for `--seconds`; the last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from deploy.embedded_redis import free_port
from tests.bench.processes import held_mb, until
from tests.bench.summary import PREDECESSOR

if TYPE_CHECKING:
    from collections.abc import Iterator

PLANS = {60: (4, 80), 1_000: (12, 80), 10_000: (20, 126)}
"""Servers: models, blocks of each."""
TARGETS = {"launcher": 20, "Redis": 15, "api": 60, "crawler": 60, "worker": 60}
TOTAL = {60: 350, 10_000: 700}
"""MB, for the parts at 60 servers and for everything."""
SAMPLE_EVERY = 5.0
CHECK_EVERY = 1.0
CHECK_TIMEOUT = 10.0
FIRST_SNAPSHOT_WITHIN = 180.0
FULL_SHARE, FULL_WITHIN = 0.9, 240.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.memory", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[60, 10_000], help="servers in the swarm")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="seconds for which checks are requested (default 60)"
    )
    parser.add_argument("--live", type=int, default=20, help="live servers at most, 64 MB each (default 20)")
    arguments = parser.parse_args()
    rows = []
    for size in arguments.sizes:
        rows.append(_bench(size, arguments.live, arguments.seconds))
        _print(rows[-1])
    print(json.dumps(rows))
    return 0


def _bench(servers: int, max_live: int, seconds: float) -> dict[str, Any]:
    models, blocks = PLANS.get(servers, (4, 20))
    live = min(servers // 2, max_live)
    plan = {"servers": servers, "live": live, "models": models, "blocks": blocks, "one_way": 0.005}
    with ExitStack() as stack:
        swarm = stack.enter_context(private_swarm(plan))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        port = free_port()
        page = f"http://127.0.0.1:{port}"
        launcher = stack.enter_context(
            running_monitor(port, "--data", folder, INITIAL_PEERS=",".join(swarm["initial_peers"]))
        )
        until(lambda: state(page) is not None, FIRST_SNAPSHOT_WITHIN)
        _until_shown(page, FULL_SHARE * servers)
        peers = itertools.cycle([*swarm["live"], *swarm["others"][: len(swarm["live"])]])
        highest, checks = _watch(launcher, page, peers, seconds)
        shown = _shown(page)
    return {"servers": servers, "shown": shown, "seconds": seconds, "checks": checks, "mb": highest}


def _until_shown(page: str, servers: float) -> None:
    """Wait until so many servers are shown: a first snapshot is of some. Goes on where a busy machine cannot."""
    end = time.monotonic() + FULL_WITHIN
    while _shown(page) < servers and time.monotonic() < end:
        time.sleep(SAMPLE_EVERY)


def _shown(page: str) -> int:
    return sum(len(model["server_rows"]) for model in (state(page) or {"model_reports": []})["model_reports"])


def _watch(launcher: int, page: str, peers: Iterator[str], seconds: float) -> tuple[dict[str, float], dict[str, int]]:
    """Ask about a peer each second, for so long; return the most that each part held, and what the answers were."""
    highest: dict[str, float] = {}
    outcomes: dict[str, int] = {}
    began = time.monotonic()
    next_sample = began
    while (now := time.monotonic()) - began < seconds:
        if now >= next_sample:
            next_sample += SAMPLE_EVERY
            for part, held in held_mb(launcher).items():
                highest[part] = max(held, highest.get(part, 0.0))
        outcome = _check(page, next(peers))
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        time.sleep(max(0.0, CHECK_EVERY - (time.monotonic() - now)))
    return highest, outcomes


def _check(page: str, peer_id: str) -> str:
    try:
        with urllib.request.urlopen(f"{page}/api/v1/is_reachable/{peer_id}", timeout=CHECK_TIMEOUT) as answer:
            return "reachable" if json.load(answer)["success"] else "unreachable"
    except urllib.error.HTTPError as error:
        reason: str = json.load(error)["detail"]
        return reason.partition(". ")[0]
    except OSError:
        return "late"


def state(page: str) -> dict[str, Any] | None:
    """Return the published state; None where there is none yet."""
    with suppress(OSError, ValueError), urllib.request.urlopen(f"{page}/api/v1/state", timeout=5) as answer:
        document: dict[str, Any] = json.load(answer)
        return document
    return None


@contextmanager
def running_monitor(port: int, *options: str, **environment: str) -> Iterator[int]:
    """Run `deploy.run_local`, and yield the launcher's process id."""
    kept = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "INITIAL_PEERS")}
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.run_local", *options],
        env={**kept, "API_PORT": f"{port}", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@contextmanager
def private_swarm(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Build a swarm by a plan (`tests.bench.swarm`), and yield where it is and who lives in it."""
    command = [sys.executable, "-m", "tests.bench.swarm", json.dumps(plan)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ground: dict[str, Any] = json.loads(process.stdout.readline())
        yield ground
    finally:
        process.stdin.close()
        process.terminate()
        process.wait(60)


def _print(row: dict[str, Any]) -> None:
    answers = ", ".join(f"{count} {outcome}" for outcome, count in sorted(row["checks"].items()))
    print(f"{row['servers']} servers ({row['shown']} shown), {row['seconds']:g} s; checks: {answers}")
    for part, held in row["mb"].items():
        target = (
            TOTAL.get(row["servers"]) if part == "all" else TARGETS.get(part) if row["servers"] == min(TOTAL) else None
        )
        print(f"  {part:18} {held:6.1f} MB" + (f"   (target {target})" if target else ""), flush=True)
    print(f"  the predecessor, one process: {PREDECESSOR}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
