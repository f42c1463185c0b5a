"""This module keeps a few processes running: it restarts what dies, and ends all of it cleanly.

Each child leads its own process group, so that nothing it started (p2pd) outlives it, whatever ended it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared import exit_codes
from shared.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

STOP_GRACE = 10.0
RESTART_DELAYS = (0.5, 1, 2, 5, 10)
"""Seconds before the first, second, … restart in a row; the last one stays."""
STEADY_AFTER = 30.0
"""Seconds after which a child that dies is taken to have run well before."""
_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class Child:
    """One process to keep running."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    on_line: Callable[[str], None] | None = None
    """Called with each line of its standard output, if given."""
    process: asyncio.subprocess.Process | None = None


class Supervisor:
    """Runs children until `stop`."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.refused = asyncio.Event()
        """Set once a child has said that its settings are bad: it is not started again."""
        self._children: list[Child] = []
        self._keepers = Tasks()

    def start(self, child: Child) -> None:
        self._children.append(child)
        self._keepers.keep(child.name, lambda: self._keep(child))

    async def stop(self) -> None:
        """End the children, each with its whole process group; the first one last, which the others may need."""
        await self._keepers.close()
        for children in (self._children[1:], self._children[:1]):
            await asyncio.gather(*map(_end, children))

    def kill(self) -> None:
        """End at once the children that `stop` waits for."""
        for child in self._children:
            if child.process is not None and child.process.returncode is None:
                _kill_group(child)

    async def _keep(self, child: Child) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        await _end(child)  # where this keeper failed before, its child may still run
        while True:
            started = loop.time()
            how = await self._run(child)
            if how is None:
                self.refused.set()
                await asyncio.Event().wait()  # whoever started the children ends them all
            failures = 0 if loop.time() - started > STEADY_AFTER else failures + 1
            delay = RESTART_DELAYS[min(failures, len(RESTART_DELAYS)) - 1] if failures else RESTART_DELAYS[0]
            self._say(f"{child.name} {how}; starting it again in {delay:g} s")
            await asyncio.sleep(delay)

    async def _run(self, child: Child) -> str | None:
        """Run a child until it ends, and return in words how it did; None where it said that its settings are bad."""
        try:
            child.process = await _spawn(child)
        except OSError as error:
            return f"does not start ({error})"
        if child.on_line is not None and child.process.stdout is not None:
            async for line in _lines(child.process.stdout):
                child.on_line(line.decode(errors="replace").rstrip())
        code = await child.process.wait()
        _kill_group(child)
        return None if code == exit_codes.BAD_SETTINGS else f"ended ({_how(code)})"


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield lines; one that is longer than the stream's limit (64 KiB), in pieces."""
    while True:
        try:
            line = await stream.readuntil()
        except asyncio.LimitOverrunError as error:
            line = await stream.read(error.consumed)
        except asyncio.IncompleteReadError as error:
            if error.partial:
                yield error.partial
            return
        yield line


async def _spawn(child: Child) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *child.command,
        env={**os.environ, **child.environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=None if child.on_line is None else asyncio.subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )


def _die_with_parent() -> None:
    """Even if this supervisor is killed, its children hear of it (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _end(child: Child) -> None:
    if child.process is None:
        return
    if child.process.returncode is None:
        with suppress(ProcessLookupError):
            child.process.terminate()
        try:
            async with asyncio.timeout(STOP_GRACE):
                await child.process.wait()
        except TimeoutError:
            pass
    _kill_group(child)
    await child.process.wait()


def _kill_group(child: Child) -> None:
    assert child.process is not None  # noqa: S101 - called for started children
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, signal.SIGKILL)


def _how(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
