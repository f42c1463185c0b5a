"""Background tasks: one way to start them, and none that ends in silence."""

import ast
import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from shared import tasks
from shared.tasks import Tasks, awaited, end, records

ROOT = Path(__file__).parents[2]
STARTERS = {"create_task", "ensure_future", "run_coroutine_threadsafe"}


async def until(condition, seconds=5):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(tasks, "PAUSES", (0.01, 0.02))
    monkeypatch.setattr(tasks, "STEADY_AFTER", 0.1)


def bare_starts(source):
    """Lines that start a task in another way than `shared.tasks` or a TaskGroup of `async with … as NAME`."""
    tree = ast.parse(source)
    groups = {
        item.optional_vars.id
        for node in ast.walk(tree) if isinstance(node, ast.AsyncWith)
        for item in node.items
        if ast.unparse(item.context_expr).endswith("TaskGroup()") and isinstance(item.optional_vars, ast.Name)
    }  # fmt: skip
    found = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in STARTERS
        and not (isinstance(node.value, ast.Name) and node.value.id in groups)
    ]
    imported = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and STARTERS & {name.name for name in node.names}
    ]
    return found + imported


@pytest.mark.parametrize(
    ("source", "bare"),
    [
        ("asyncio.create_task(f())", True),
        ("asyncio.get_running_loop().create_task(f())", True),
        ("from asyncio import create_task", True),
        ("start = asyncio.ensure_future", True),
        ("async def f():\n    async with asyncio.TaskGroup() as group:\n        group.create_task(g())", False),
        ("tasks.keep('x', f)", False),
    ],
)
def test_a_bare_start_is_recognised(source, bare):
    """The search below can fail."""
    assert bool(bare_starts(source)) is bare


def test_no_task_is_started_outside_the_one_place():
    """Services, shared code and the launcher: whatever runs in the background is watched."""
    files = [
        path
        for folder in ("api", "crawler", "reachability_worker", "shared", "deploy")
        for path in (ROOT / folder).rglob("*.py")
        if path != ROOT / "shared/tasks.py" and "bench" not in path.parts
    ]
    assert len(files) > 100
    found = {str(path.relative_to(ROOT)): lines for path in files if (lines := bare_starts(path.read_text()))}
    assert not found


async def test_a_loop_that_fails_is_named_logged_counted_and_started_again():
    """Its end has a traceback; until it has run again for a while it counts as failing."""
    runs, changes = [], []

    async def loop():
        runs.append(1)
        if len(runs) < 3:
            raise ValueError("poison")
        await asyncio.Event().wait()

    before = records["loop"].failures
    with structlog.testing.capture_logs() as logs:
        async with Tasks(lambda: changes.append(background.failing)) as background:
            background.keep("loop", loop)
            assert background.failing == ()
            await until(lambda: background.failing == ("loop",))
            assert records["loop"].up is False
            await until(lambda: background.failing == ())
            assert records["loop"].up is True
    assert len(runs) == 3
    assert records["loop"].failures == before + 2
    assert changes == [("loop",), ("loop",), ()]
    failed = [line for line in logs if line["log_level"] == "error"]
    assert [(line["task"], str(line["exc_info"])) for line in failed] == [("loop", "poison")] * 2


async def test_a_loop_that_returns_or_is_cancelled_from_within_goes_on():
    """Neither an end without an error nor a cancellation that is somebody else's ends it."""
    runs = []

    async def loop():
        runs.append(1)
        if len(runs) == 1:
            return
        if len(runs) == 2:
            raise asyncio.CancelledError
        await asyncio.Event().wait()

    async with Tasks() as background:
        background.keep("loop", loop)
        await until(lambda: len(runs) == 3)


async def test_closing_ends_everything_and_waits_for_it():
    """Also what is started while it closes, and what is in a pause."""
    ended = []

    async def slow():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            ended.append(1)

    background = Tasks()
    background.keep("kept", slow)
    background.start("once", slow())
    await asyncio.sleep(0)
    await background.close()
    assert len(ended) == 2
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_work_that_nobody_waits_for_is_logged_and_counted():
    """An error of it harms nobody, and is seen."""

    async def fail():
        raise OSError("gone")

    before = records["once"].failures
    with structlog.testing.capture_logs() as logs:
        async with Tasks() as background:
            await background.start("once", fail())
            assert background.failing == ()
    assert records["once"].failures == before + 1
    assert [line["task"] for line in logs if line["log_level"] == "error"] == ["once"]


async def test_a_task_that_swallows_its_cancellation_is_cancelled_again(monkeypatch):
    """As one does that waits for Redis in the wrong moment: closing ends it all the same."""
    monkeypatch.setattr(tasks, "CANCEL_AGAIN", 0.05)
    swallowed = []

    async def loop():
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if len(swallowed) == 2:
                    raise
                swallowed.append(1)

    background = Tasks()
    background.keep("loop", loop)
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await background.close()
    assert len(swallowed) == 2


async def test_a_task_that_is_ended_ends_its_own_first(monkeypatch):
    """Also where these swallow their cancellation, and it is cancelled again while it waits for them."""
    monkeypatch.setattr(tasks, "CANCEL_AGAIN", 0.05)

    async def stubborn():
        for _ in range(3):
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async def owner():
        try:
            await asyncio.Event().wait()
        finally:
            await end(inner)

    inner, outer = awaited(stubborn()), awaited(owner())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end(outer)
    ended_first = inner.done()
    await end(inner)
    assert ended_first
    assert outer.cancelled()


async def test_end_waits_until_cancelled_tasks_are_over():
    """A caller that goes on after it shares nothing with them any more."""
    over = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            over.append(1)

    task = awaited(work())
    await asyncio.sleep(0)
    await end(task, None)
    assert over
    assert task.cancelled()
