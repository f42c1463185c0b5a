"""Event streams that wait for news are all woken, while other requests have their turns."""

import asyncio
from contextlib import suppress
from itertools import pairwise

import pytest

from api.responses import subscribers as module
from api.responses.subscribers import WOKEN_AT_ONCE, Subscribers
from shared.tasks import awaited, end

MANY = 10 * WOKEN_AT_ONCE + 1


@pytest.fixture
async def subscribers():
    subscribers = Subscribers()
    waking = awaited(subscribers.keep_waking())
    yield subscribers
    await end(waking)


async def test_all_are_told_and_never_many_in_one_turn_of_the_loop(subscribers):
    """What else wants to run is kept waiting by a few of them at most."""
    told = []

    async def stream(number):
        assert await subscribers.wait()
        told.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(MANY):
            group.create_task(stream(number))
        await asyncio.sleep(0)
        subscribers.wake_all()
        turns = [0]
        while len(told) < MANY:
            await asyncio.sleep(0)
            turns.append(len(told))
    assert told == list(range(MANY))
    assert max(after - before for before, after in pairwise(turns)) <= WOKEN_AT_ONCE


async def test_who_waits_after_the_news_waits_for_the_next(subscribers):
    """One that was told and waits again is not told the same twice; news while others are woken reach it."""
    first = awaited(subscribers.wait())
    await asyncio.sleep(0)
    subscribers.wake_all()
    later = awaited(subscribers.wait())
    await asyncio.sleep(0)
    assert await first
    assert not later.done()
    subscribers.wake_all()
    assert await later


async def test_one_that_leaves_is_passed_over(subscribers):
    """Readers close their streams at any time; the others are told."""
    leaving, staying = awaited(subscribers.wait()), awaited(subscribers.wait())
    await asyncio.sleep(0)
    leaving.cancel()
    with suppress(asyncio.CancelledError):
        await leaving
    subscribers.wake_all()
    assert await staying


@pytest.fixture
def heartbeats(monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT", 0.01)


@pytest.mark.usefixtures("heartbeats")
async def test_without_news_there_is_a_heartbeat(subscribers):
    """It is told from news: nothing was said."""
    assert not await subscribers.wait()
