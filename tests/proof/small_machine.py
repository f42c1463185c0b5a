"""`make prove-small-machine`: the whole monitor within 1 GiB of memory and one core, under 100 concurrent checks.

The launcher and all that it starts run in a memory cgroup (v1 or v2; it takes root) and on one core. The swarm, 1,000
servers of which some live, and the callers run outside of it. For `--seconds` (60; an hour is 3600) 100 callers each
ask about one peer after another. Nothing may be killed, nothing may end and be started again, no answer may take longer
than 9 s, and servers stay on the page. Exit code 0: it held; 1: it did not; 3: not run, no cgroup can be made here.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.embedded_redis import free_port
from tests.bench.memory import private_swarm, state
from tests.bench.processes import until

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 1024**3
CALLERS = 100
ANSWER_WITHIN = 9.0
PLAN = {"servers": 1_000, "live": 20, "models": 12, "blocks": 80, "one_way": 0.005}
FIRST_SNAPSHOT_WITHIN = 180.0
FAILED, NOT_RUN = 1, 3
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


class MemoryCgroup:
    """A cgroup of one's own with a limit of memory and no swap."""

    def __init__(self) -> None:
        """Raises `OSError` where none can be made."""
        self.second = not V1.is_dir()
        self.folder = (V2 if self.second else V1) / f"petals-monitor-{os.getpid()}"
        if self.second:
            (V2 / "cgroup.subtree_control").write_text("+memory")
        self.folder.mkdir()
        if self.second:
            self._write("memory.max", LIMIT)
            self._write("memory.swap.max", 0)
        else:
            self._write("memory.limit_in_bytes", LIMIT)
            with suppress(OSError):  # not every kernel counts swap
                self._write("memory.memsw.limit_in_bytes", LIMIT)

    def _write(self, name: str, value: int) -> None:
        (self.folder / name).write_text(str(value))

    def enter(self) -> None:
        """Put this process, and what it will start, into it."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def highest_mb(self) -> float:
        """The most memory that was in use, the file cache with it: up to the limit, that is no sign of need."""
        name = "memory.peak" if self.second else "memory.max_usage_in_bytes"
        return int((self.folder / name).read_text()) / 1e6

    @property
    def anonymous_mb(self) -> float:
        """Memory in use now that cannot be given back."""
        names = ("anon",) if self.second else ("total_rss", "rss")
        found = dict(line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
        return next(int(found[name]) for name in names if name in found) / 1e6

    @property
    def kills(self) -> int:
        """Processes that the kernel ended for want of memory."""
        name = "memory.events" if self.second else "memory.oom_control"
        found = dict(line.split() for line in (self.folder / name).read_text().splitlines())
        return int(found.get("oom_kill", 0))

    def remove(self) -> None:
        """Take the empty cgroup away."""
        for _ in range(50):
            with suppress(OSError):
                self.folder.rmdir()
                return
            time.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.proof.small_machine", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the callers ask (default 60)")
    arguments = parser.parse_args()
    try:
        cgroup = MemoryCgroup()
    except OSError as error:
        print(f"NOT RUN: no memory cgroup can be made here ({error}). It takes root.")
        return NOT_RUN
    try:
        return _prove(cgroup, arguments.seconds)
    finally:
        cgroup.remove()


def _prove(cgroup: MemoryCgroup, seconds: float) -> int:
    with ExitStack() as stack:
        swarm = stack.enter_context(private_swarm(PLAN))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        page = f"http://127.0.0.1:{port}"
        log = folder / "log"
        stack.enter_context(_monitor(cgroup, port, folder, swarm["initial_peers"], log))
        until(lambda: state(page) is not None, FIRST_SNAPSHOT_WITHIN)
        answers, slowest, anonymous = _ask(cgroup, page, [*swarm["live"], *swarm["others"]], seconds)
        shown = sum(len(model["server_rows"]) for model in (state(page) or {"model_reports": []})["model_reports"])
        restarts = log.read_text().count("starting it again")
        highest, kills = cgroup.highest_mb, cgroup.kills
    counted = ", ".join(f"{count} {outcome}" for outcome, count in answers.most_common())
    print(f"{seconds:g} s, {CALLERS} callers: {counted}; the slowest answer {slowest:.1f} s; {shown} servers shown")
    print(f"memory: {anonymous:.0f} MB at most that cannot be given back, {highest:.0f} MB with the file cache")
    print(f"killed for want of memory: {kills}; parts that ended and were started again: {restarts}")
    return FAILED if kills or restarts or not shown or answers["late"] else 0


def _ask(cgroup: MemoryCgroup, page: str, peers: list[str], seconds: float) -> tuple[Counter[str], float, float]:
    """Have the callers ask; return how they were answered, the slowest answer (s), the most memory in use (MB)."""
    answers: Counter[str] = Counter()
    slowest = [0.0]
    lock = threading.Lock()
    end = time.monotonic() + seconds

    def caller(number: int) -> None:
        rng = random.Random(number)
        while (began := time.monotonic()) < end:
            url = f"{page}/api/v1/is_reachable/{rng.choice(peers)}"
            try:
                with urllib.request.urlopen(url, timeout=30) as answer:
                    outcome = f"status {answer.status}"
            except urllib.error.HTTPError as error:
                outcome = f"status {error.code}"
            except OSError:
                outcome = "none"
            took = time.monotonic() - began
            with lock:
                answers[outcome] += 1
                answers["late"] += took > ANSWER_WITHIN
                slowest[0] = max(slowest[0], took)
            time.sleep(0.1)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    anonymous = 0.0
    while any(thread.is_alive() for thread in threads):
        anonymous = max(anonymous, cgroup.anonymous_mb)
        time.sleep(0.5)
    return answers, slowest[0], anonymous


@contextmanager
def _monitor(cgroup: MemoryCgroup, port: int, folder: Path, initial_peers: list[str], log: Path) -> Iterator[None]:
    core = min(os.sched_getaffinity(0))

    def confine() -> None:
        cgroup.enter()
        os.sched_setaffinity(0, {core})

    kept = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.run_local", "--data", str(folder / "data")],
            env={**kept, "API_PORT": f"{port}", "INITIAL_PEERS": ",".join(initial_peers)},
            stdout=output,
            stderr=output,
            preexec_fn=confine,  # noqa: PLW1509 - no thread runs yet
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


if __name__ == "__main__":
    sys.exit(main())
