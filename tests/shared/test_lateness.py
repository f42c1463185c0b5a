"""What a late monitor did not hear is nobody's fault but its own."""

import asyncio
import time

from shared.p2p.lateness import Lateness, when_late
from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import Verdict

NEVER_LATE = 60.0
"""Seconds, where it is not tested how late a busy machine is."""


async def watched(ask, seconds, max_delay=0.1):
    began = time.monotonic()
    async with Lateness(ask, every=0.01, max_delay=max_delay) as it:
        await asyncio.sleep(seconds)
        return it.since(began)


async def test_a_machine_that_keeps_up():
    """Requests that are answered at once are never late."""

    async def ask():
        await asyncio.sleep(0)

    assert not await watched(ask, 0.05, NEVER_LATE)


async def test_a_late_answer_is_noticed_before_it_comes():
    """A daemon that does not answer at all is late."""

    async def ask():
        await asyncio.sleep(60)

    assert await watched(ask, 0.15)


async def test_a_loop_that_stands_still_is_noticed():
    """The process itself may be what is late."""

    async def ask():
        time.sleep(0.12)

    assert await watched(ask, 0.15)


async def test_a_loop_that_stood_still_until_the_end_is_noticed():
    """As a process that was stopped: all its timeouts end at once, before any further request."""

    async def ask():
        await asyncio.sleep(0)

    began = time.monotonic()
    async with Lateness(ask, every=0.01, max_delay=0.1) as it:
        time.sleep(0.12)
    assert it.since(began)


async def test_a_daemon_that_fails_is_no_error_here():
    """Whoever asks the daemon for something gets its error; this says only whether answers are late."""

    async def ask():
        raise OSError("gone")

    assert not await watched(ask, 0.05, NEVER_LATE)


async def test_nothing_is_requested_while_nobody_waits_for_an_answer():
    """Several may wait at the same time; the last one's end ends the requests, and what was late before is past."""
    asked = []

    async def ask():
        asked.append(True)
        await asyncio.sleep(60 if len(asked) == 1 else 0)

    it = Lateness(ask, every=0.01, max_delay=0.1)
    async with it:
        async with it:
            await asyncio.sleep(0.02)
        assert len(asked) == 1
        await asyncio.sleep(0.12)
        assert it.since(0)
    again, it._max_delay = time.monotonic(), NEVER_LATE
    await asyncio.sleep(0.03)
    assert len(asked) == 1
    async with it:
        await asyncio.sleep(0.03)
        assert len(asked) > 1
        assert not it.since(again)


def test_what_a_late_monitor_proves():
    """A peer that refused is unreachable however late we were; one that we may not have heard is unknown."""

    def failed(cause):
        return DialOutcome(Verdict.UNREACHABLE, Stage.DIAL, cause)

    assert when_late(failed(Cause.REFUSED)) == failed(Cause.REFUSED)
    for cause in (Cause.TIMEOUT, Cause.FROZEN, Cause.RESET, Cause.RELAY_AWAY, Cause.OTHER):
        assert when_late(failed(cause)).verdict is Verdict.UNKNOWN
    assert when_late(failed(Cause.NO_ADDRESS), certain=True).cause is Cause.NODE_UNFIT
    reached = DialOutcome(Verdict.REACHABLE, Stage.ANSWERED)
    assert when_late(reached, certain=True) is reached
