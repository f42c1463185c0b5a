"""Process groups that a test starts, freezes and ends, and that never outlive it.

A Petals server is four processes and a DHT node two. When the first one is killed the others go on (they even keep
serving), so everything here happens to whole groups.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

T = TypeVar("T")

KILL_WITHIN = 5.0
"""Seconds from SIGKILL until the kernel has taken the last process of a group away."""


def accepts_connections(port: int) -> bool:
    """Whether a process listens on this port of 127.0.0.1."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_for(what: str, look: Callable[[], T | None], timeout: float, *, every: float = 0.1) -> T:
    """Return the first result of `look` that is neither None nor False. Raise `TimeoutError` naming `what`."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(every)


def _hear_sigint() -> None:
    """Whoever starts the tests in the background has SIGINT ignored, which a child would inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Group:
    """One program in a session and process group of its own, with its output in a file."""

    def __init__(self, name: str, command: Sequence[str | Path], folder: Path, env: Mapping[str, str]) -> None:
        """Start it. `env` is all that it sees of the environment besides PATH, HOME and the certificates' place."""
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=folder,
                env=_inherited() | dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_hear_sigint,  # noqa: PLW1509 - no thread runs here
            )
        self.pgid = self.process.pid
        # Reads a pipe that only this process holds open: it ends the group when this process dies in whatever way.
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", f"read _; kill -s KILL -- -{self.pgid}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def members(self) -> list[int]:
        """Return the pids of the group that still run."""
        return group_members(self.pgid)

    def rss(self) -> int:
        """Return the resident memory of all members, in bytes. Pages that they share count for each."""
        return sum(_rss(pid) for pid in self.members())

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for_line(self, pattern: str, timeout: float) -> re.Match[str]:
        """Return the pattern's first match in the output. Raise `AssertionError` with the output's end."""

        def look() -> re.Match[str] | None:
            ended = self.process.poll() is not None  # asked first: its last words may be the ones
            found = re.search(pattern, self.output())
            if ended and found is None:
                raise AssertionError(f"{self.name} ended with {self.process.returncode}\n{self.tail()}")
            return found

        try:
            return wait_for(f"{self.name}: {pattern!r}", look, timeout)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from error

    def tail(self, lines: int = 40) -> str:
        return "\n".join([f"--- {self.log.name}", *self.output().splitlines()[-lines:]])

    def pause(self) -> None:
        """Freeze all processes: the kernel still accepts connections, and nobody answers."""
        os.killpg(self.pgid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.pgid, signal.SIGCONT)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def stop(self, how: signal.Signals = signal.SIGINT, timeout: float = 20.0) -> int | None:
        """Ask the first process to end, then end what is left. Return its exit code, None where it did not obey."""
        with suppress(subprocess.TimeoutExpired):
            if self.process.poll() is None:
                self.process.send_signal(how)
            self.process.wait(timeout)
        obeyed = self.process.poll()
        self.kill()
        return obeyed

    def kill(self) -> None:
        """End all processes of the group, frozen ones too. Raise `AssertionError` where one is left."""
        with suppress(ProcessLookupError):
            os.killpg(self.pgid, signal.SIGKILL)
        self.process.wait(KILL_WITHIN)
        self._keeper.kill()  # only now: the group's number may be given to others from here on
        self._keeper.communicate()
        try:
            wait_for("the group to end", lambda: not self.members(), KILL_WITHIN)
        except TimeoutError as error:
            raise AssertionError(f"{self.name}: {self.members()} outlived SIGKILL") from error


def group_members(pgid: int) -> list[int]:
    """Return the pids of a process group that still run; zombies do not count, whoever fails to reap them."""
    return [pid for pid, group, state in _process_table() if group == pgid and state not in "ZX"]


def _inherited() -> dict[str, str]:
    wanted = ("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    return {name: os.environ[name] for name in wanted if name in os.environ}


def _process_table() -> Iterator[tuple[int, int, str]]:
    """Yield pid, process group and state letter of each process. Linux only; source: proc(5), `/proc/PID/stat`."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError):
                state, _, pgid = (entry / "stat").read_text().rpartition(") ")[2].split()[:3]
                yield int(entry.name), int(pgid), state


def _rss(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
