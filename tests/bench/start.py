"""`make bench-start`: seconds and processor time from the command until the page shows servers, step by step.

It runs twice: the demo, whose swarm starts with it, and a monitor of a swarm that runs already. The reference is a
plain client that joins the same swarm and reads the same records. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from deploy.demo.swarm import HEALTHY
from deploy.embedded_redis import free_port
from shared.p2p.hivemind import DHTNode
from shared.p2p.petals import MODEL_INDEX_KEY, block_key
from tests.bench.memory import state
from tests.bench.processes import cpu_seconds, monitor_parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GIVE_UP_AFTER = 120.0
SWARM_SETTLES = 12.0
"""Seconds after which the demo's swarm has all of its servers."""
ALL_KINDS = {"online", "joining", "offline", "unreachable"}
STEPS = {
    "Redis answers": r"embedded Redis on port",
    "the page answers, and says what is done": r"the page is at",
    "the simulated servers are there": r"the simulated servers are there",
    "the crawler has begun": r'"event": "leading"',
}
"""What the launcher's output tells."""
SHOWN, COMPLETE = "the page shows servers", "it shows servers in every state"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.start", description=__doc__)
    parser.add_argument("--plain-client", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain_client:
        asyncio.run(_read_as_a_plain_client(arguments.plain_client))
        return 0
    figures: dict[str, Any] = {"load": os.getloadavg()[0], "demo": _measure(["--demo"], {}, until_complete=True)}
    _print("make demo", figures["demo"])
    with _swarm() as initial_peers:
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "tests.bench.start", "--plain-client", initial_peers], check=True)
        figures["plain_client_seconds"] = time.monotonic() - began
        with tempfile.TemporaryDirectory() as folder:
            told = {"INITIAL_PEERS": initial_peers, "MODELS": f"{HEALTHY.dht_prefix}:{HEALTHY.num_blocks}"}
            figures["run"] = _measure(["--data", folder], told, until_complete=False)
    _print("make run, on a swarm that is there", figures["run"])
    print(f"a plain client, from its start to all records: {figures['plain_client_seconds']:.1f} s")
    print(json.dumps(figures))
    return 0


def _measure(options: Sequence[str], environment: dict[str, str], *, until_complete: bool) -> dict[str, Any]:
    """Start a monitor; return the seconds until each step, and the processor seconds of each part when it ended."""
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "INITIAL_PEERS", "MODELS")}
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.run_local", *options],
        env={**kept, "API_PORT": f"{port}", "LOG_FORMAT": "json", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(process, began, said), daemon=True).start()
    seconds: dict[str, float] = {}
    processor: dict[str, float] = {}
    last = COMPLETE if until_complete else SHOWN
    try:
        while last not in seconds:
            if time.monotonic() - began > GIVE_UP_AFTER:
                raise TimeoutError(f"not within {GIVE_UP_AFTER:g} s: {last}")
            states = _states(f"http://127.0.0.1:{port}")
            if states and SHOWN not in seconds:
                seconds[SHOWN] = time.monotonic() - began
                processor = _processor(process.pid)
            if states >= ALL_KINDS:
                seconds[COMPLETE] = time.monotonic() - began
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    while not said.empty():
        when, line = said.get()
        for step, sign in STEPS.items():
            if re.search(sign, line):
                seconds.setdefault(step, when)
    return {"seconds": dict(sorted(seconds.items(), key=lambda item: item[1])), "processor": processor}


def _listen(process: subprocess.Popen[str], began: float, said: queue.SimpleQueue[tuple[float, str]]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        said.put((time.monotonic() - began, line))


def _states(page: str) -> set[str]:
    """Return the states of the servers that the page shows."""
    document = state(page) or {"model_reports": []}
    return {row["state"] for model in document["model_reports"] for row in model["server_rows"]}


def _processor(launcher: int) -> dict[str, float]:
    taken: dict[str, float] = {}
    for part, pids in monitor_parts(launcher).items():
        for pid in pids:
            with suppress(OSError):
                taken[part] = taken.get(part, 0.0) + cpu_seconds(pid)
    return taken


@contextmanager
def _swarm() -> Iterator[str]:
    """Run the demo's swarm alone, and yield its address once all of its servers are there, the frozen one too."""
    process = subprocess.Popen([sys.executable, "-m", "deploy.demo.swarm"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip().partition("=")[2]
        time.sleep(SWARM_SETTLES)
        yield address
    finally:
        process.terminate()
        process.wait(30)


async def _read_as_a_plain_client(initial_peers: list[str]) -> None:
    node = await DHTNode.create(initial_peers=initial_peers, client_mode=True)
    await node.get(MODEL_INDEX_KEY)
    await node.get_many([block_key(HEALTHY.dht_prefix, block) for block in range(HEALTHY.num_blocks)])
    await node.shutdown()


def _print(what: str, found: dict[str, Any]) -> None:
    print(f"{what}:")
    for step, seconds in found["seconds"].items():
        print(f"  {seconds:5.1f} s  {step}")
    taken = ", ".join(f"{part} {seconds:.1f}" for part, seconds in found["processor"].items())
    total = sum(found["processor"].values())
    print(f"  until it shows servers, {total:.1f} s of processor: {taken}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
