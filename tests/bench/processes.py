"""What the benchmarks do with processes: start and end them, wait for them, and read what they took."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def process(*command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a silent process for as long as the `with` lasts, with some more environment variables."""
    started = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield started
    finally:
        started.terminate()
        started.wait(20)


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until the condition is true. Raises `TimeoutError`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("a part of the benchmark did not do what it should")
        time.sleep(0.005)


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Return the memory that a process has now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def pss_mb(pid: int) -> float:
    """Return a process's proportional set size: its memory, where shared pages count by the share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(pid)


def held_mb(launcher: int) -> dict[str, float]:
    """Return the memory that each part of a monitor holds now, and all of them together under "all".

    Pages of files count by the share among the monitor's own processes: elsewhere no swarm runs beside it that would
    share p2pd with it.
    """
    held: dict[str, float] = {}
    pages: dict[str, dict[str, list[int]]] = {}
    for part, pids in monitor_parts(launcher).items():
        for pid in pids:
            with suppress(OSError):
                own, files = _memory(pid)
                held[part] = held.get(part, 0.0) + own / 1e6
                for file, size in files.items():
                    pages.setdefault(file, {}).setdefault(part, []).append(size)
    for sharers in pages.values():
        everybody = [size for sizes in sharers.values() for size in sizes]
        for part, sizes in sharers.items():
            held[part] += max(everybody) * sum(sizes) / sum(everybody) / 1e6
    held["all"] = sum(held.values())
    return held


def _memory(pid: int) -> tuple[int, dict[str, int]]:
    """Return a process's own memory, and its resident pages of each file (bytes)."""
    rollup = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    own = sum(int(rollup[name].split()[0]) * 1024 for name in ("Pss_Anon", "Pss_Shmem"))
    files: dict[str, int] = {}
    file, resident = "", 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if words[0] == "Rss:":
            resident = int(words[1]) * 1024
        elif words[0] == "Anonymous:":
            if file and resident > int(words[1]) * 1024:
                files[file] = files.get(file, 0) + resident - int(words[1]) * 1024
        elif not words[0].endswith(":"):
            file = words[5] if len(words) > 5 and words[5].startswith("/") else ""
    return own, files


PARTS = {
    "valkey-server": "Redis",
    "redis-server": "Redis",
    "api": "api",
    "crawler": "crawler",
    "reachability_worker": "worker",
    "deploy.demo.swarm": "demo swarm",
}


def monitor_parts(launcher: int) -> dict[str, list[int]]:
    """Return the processes of a monitor that `deploy.run_local` started, by part; p2pd apart from whose it is."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    parts: dict[str, list[int]] = {"launcher": [launcher]}
    for child in (pid for pid, parent in parents.items() if parent == launcher):
        with suppress(OSError):
            words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
            names = [word.partition(" ")[0].rpartition("/")[2] for word in words]
            part = next((PARTS[name] for name in names if name in PARTS), "other")
            parts.setdefault(part, []).append(child)
            forked = [pid for pid, parent in parents.items() if parent == child]
            if forked:  # Redis writes its files anew in a copy of itself
                parts.setdefault(part if part == "Redis" else f"{part}'s p2pd", []).extend(forked)
    return parts
