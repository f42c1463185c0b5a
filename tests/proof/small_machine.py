"""`make prove-small-machine`: the whole monitor within 1 GiB of memory and one core, under 100 concurrent checks.

The launcher and all that it starts run in a memory cgroup (v1 or v2; it takes root) and on one core. The swarm, 1,000
servers of which some live, and the callers run outside of it. For `--seconds` (60; an hour is 3600) 100 callers each
ask about one peer after another. Nothing may be killed, nothing may end and be started again, no answer may take longer
than 9 s, and servers stay on the page. A line every half a minute says how it goes and what each part holds (MB). Over
ten minutes and more nothing may grow: no part may hold more through the whole last quarter than ever in the second.
Exit code 0: it held; 1: it did not; 3: not run, no cgroup can be made here.
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
from tests.bench.processes import held_mb, until

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 1024**3
CALLERS = 100
ANSWER_WITHIN = 9.0
PLAN = {"servers": 1_000, "live": 20, "models": 12, "blocks": 80, "one_way": 0.005}
FIRST_SNAPSHOT_WITHIN = 180.0
SAMPLE_EVERY, REPORT_EVERY = 2.0, 30.0
GROWTH_SHOWS_AFTER = 600.0
"""Seconds: in less, pools and caches have not settled."""
GROWS_BY = 3.0
"""MB by which a part that grows is above the second quarter. Allocators and collectors breathe."""
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
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="seconds for which clients request checks (default 60)"
    )
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
        launcher = stack.enter_context(_monitor(cgroup, port, folder, swarm["initial_peers"], log))
        until(lambda: state(page) is not None, FIRST_SNAPSHOT_WITHIN)
        callers = Callers(page, [*swarm["live"], *swarm["others"]], seconds)
        samples = _watch(cgroup, launcher, callers)
        shown = sum(len(model["server_rows"]) for model in (state(page) or {"model_reports": []})["model_reports"])
        restarts = log.read_text().count("starting it again")
        highest, kills = cgroup.highest_mb, cgroup.kills
    growing = grown(samples) if seconds >= GROWTH_SHOWS_AFTER else []
    print(f"{seconds:g} s, {CALLERS} callers: {callers}; {shown} servers shown")
    most = max(sample["cannot be given back"] for sample in samples)
    print(f"memory: {most:.0f} MB at most that cannot be given back, {highest:.0f} MB with the file cache")
    print(f"killed for want of memory: {kills}; parts that ended and were started again: {restarts}")
    print(f"grows: {', '.join(growing) or 'nothing' if seconds >= GROWTH_SHOWS_AFTER else 'cannot be told so soon'}")
    failed = bool(kills or restarts or not shown or callers.late or growing)
    print("it did not hold" if failed else "it held")
    return FAILED if failed else 0


def grown(samples: list[dict[str, float]]) -> list[str]:
    """Return the parts that held more all through the last quarter than at any time in the second."""
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    return [
        f"{part} ({most:.0f} to {least:.0f} MB)"
        for part in samples[-1]
        if (least := min(sample.get(part, 0.0) for sample in last))
        > (most := max(sample.get(part, 0.0) for sample in second)) + GROWS_BY
    ]


class Callers:
    """Callers who each ask about one peer after another, for so many seconds, and how they were answered."""

    def __init__(self, page: str, peers: list[str], seconds: float) -> None:
        """Have them begin."""
        self._page, self._peers = page, peers
        self.began = time.monotonic()
        self._end = self.began + seconds
        self._lock = threading.Lock()
        self._answers: Counter[str] = Counter()
        self._slowest = 0.0
        self.late = 0
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def __str__(self) -> str:
        with self._lock:
            counted = ", ".join(f"{count} {outcome}" for outcome, count in self._answers.most_common())
            return f"{counted}, {self.late} late, the slowest {self._slowest:.1f} s"

    @property
    def go_on(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _ask(self, number: int) -> None:
        rng = random.Random(number)
        while (began := time.monotonic()) < self._end:
            url = f"{self._page}/api/v1/is_reachable/{rng.choice(self._peers)}"
            try:
                with urllib.request.urlopen(url, timeout=30) as answer:
                    outcome = f"status {answer.status}"
            except urllib.error.HTTPError as error:
                outcome = f"status {error.code}"
            except OSError:
                outcome = "without an answer"
            took = time.monotonic() - began
            with self._lock:
                self._answers[outcome] += 1
                self.late += took > ANSWER_WITHIN
                self._slowest = max(self._slowest, took)
            time.sleep(0.1)


def _watch(cgroup: MemoryCgroup, launcher: int, callers: Callers) -> list[dict[str, float]]:
    """Return what each part held, each few seconds, while the callers ask; print it now and then."""
    samples: list[dict[str, float]] = []
    reported = -REPORT_EVERY
    while callers.go_on:
        samples.append(held_mb(launcher) | {"cannot be given back": cgroup.anonymous_mb})
        if (now := time.monotonic() - callers.began) - reported >= REPORT_EVERY:
            reported = now
            held = ", ".join(f"{part} {mb:.0f}" for part, mb in samples[-1].items())
            print(f"{now:5.0f} s: {callers}; MB: {held}", flush=True)
        time.sleep(SAMPLE_EVERY)
    return samples


@contextmanager
def _monitor(cgroup: MemoryCgroup, port: int, folder: Path, initial_peers: list[str], log: Path) -> Iterator[int]:
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
        yield process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


if __name__ == "__main__":
    sys.exit(main())
