"""This module starts background tasks: the one place that does, so that none can end without anybody noticing.

`Tasks.keep` is for loops that run as long as the process: one that ends, with or without an error, is logged with its
traceback, counted, and started again after a growing pause. Until then `Tasks.failing` names it, for `/readyz`, a
worker's lease, and the health checks. `Tasks.start` is for work that nobody waits for. `awaited` is for work whose
creator awaits its result or error, `shared` where several callers do; `end` cancels such tasks and waits.
`tests/shared/test_tasks.py` forbids all other ways but `asyncio.TaskGroup`.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")

PAUSES = (0.1, 0.5, 1, 2, 5, 10, 30)
"""Seconds before a loop's first, second, … restart in a row; further ones use the last."""
CANCEL_AGAIN = 1.0
"""Seconds after which a task that was cancelled and goes on is cancelled again."""
STEADY_AFTER = 2.0
"""Seconds for which a loop that failed must run before it counts as working again."""


@dataclass(slots=True)
class Record:
    """What metrics tell of the tasks of one name (`shared.process_metrics`)."""

    since: float = field(default_factory=time.time)
    """Unix seconds of the first one's start."""
    failures: int = 0
    """Tasks that ended with an error, or that ended where they should go on."""
    up: bool | None = None
    """Whether the loop runs: False from its failure until it has run for `STEADY_AFTER` again. None: it is no loop."""


records: defaultdict[str, Record] = defaultdict(Record)
"""By the tasks' names. Of the whole process; kept without Prometheus's client, which the launcher does without."""

log = structlog.get_logger()


class Tasks:
    """The background tasks of one owner. Used as a context manager, or ended with `close`."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        """`on_change` is called when `failing` changes; it must not raise."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._kept: set[str] = set()
        self._failing: dict[str, None] = {}
        self._on_change = on_change

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def failing(self) -> tuple[str, ...]:
        """Names of the loops that do not run now, or have not run for long enough since they failed."""
        return tuple(self._failing)

    def keep(self, name: str, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run a loop until `close`, over whatever ends it. The name is a label of metrics: one of few."""
        records[name].up = True
        self._kept.add(name)
        return self._add(name, self._keep(name, run))

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` once in the background. An error is logged and counted, and affects nothing else."""
        records[name]  # counted from here on
        return self._add(name, _once(name, work))

    async def close(self) -> None:
        """Cancel all tasks, and wait until they have ended."""
        while self._tasks:
            await end(*self._tasks)
        for name in self._kept:
            records[name].up = None
        self._kept.clear()

    def _add(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            steady = loop.call_later(STEADY_AFTER, self._works, name) if failures else None
            try:
                await run()
                error: BaseException | None = None
            except asyncio.CancelledError as cancelled:
                if _is_cancelled():
                    raise
                error = cancelled  # somebody else's: a library's inner task that was cancelled
            except Exception as raised:  # noqa: BLE001 - logged below
                error = raised
            finally:
                if steady is not None:
                    steady.cancel()
            failures = failures + 1 if loop.time() - began < PAUSES[-1] else 1
            pause = PAUSES[min(failures, len(PAUSES)) - 1]
            log.error("background task ended; it is started again", task=name, pause=pause, exc_info=error)
            records[name].failures += 1
            records[name].up = False
            self._failing[name] = None
            self._on_change()
            await asyncio.sleep(pause)

    def _works(self, name: str) -> None:
        log.info("background task works again", task=name)
        records[name].up = True
        self._failing.pop(name, None)
        self._on_change()


async def _once(name: str, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        log.exception("background task failed", task=name)
        records[name].failures += 1


def awaited(work: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
    """Start a task whose result or error is awaited by its creator, which must `end` it if it stops waiting."""
    return asyncio.create_task(work, name=name)


def shared(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task that any number of callers await, each through `asyncio.shield`: it goes on when one stops waiting.

    Its error is theirs: where none of them waits any more, nobody is told.
    """
    task = asyncio.create_task(work)
    task.add_done_callback(_read_error)
    return task


async def end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait until they have ended, also where the caller is cancelled meanwhile.

    Their results and errors are dropped. They are cancelled once per `CANCEL_AGAIN` seconds: redis-py can swallow a
    cancellation (`asyncio.wait_for` before Python 3.12 does where the awaited task ends at the same moment), and a loop
    cancelled only once would never end.
    """
    ending = {task for task in tasks if task is not None}
    cancelled: asyncio.CancelledError | None = None
    while pending := {task for task in ending if not task.done()}:
        for task in pending:
            task.cancel()
        try:
            await asyncio.wait(pending, timeout=CANCEL_AGAIN)
        except asyncio.CancelledError as error:
            cancelled = error
    for task in ending:
        _read_error(task)
    if cancelled is not None:
        raise cancelled


def _read_error(task: asyncio.Task[Any]) -> None:
    """Read a task's error, so that asyncio does not log it as one that nobody has read."""
    if not task.cancelled():
        task.exception()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
