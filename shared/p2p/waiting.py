"""This module waits for the first of several answers, or for one within a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable


async def any_true(checks: Iterable[Coroutine[Any, Any, bool]]) -> bool:
    """Run all at the same time. Return True as soon as one returns True, False when none has."""
    tasks = [awaited(check) for check in checks]
    try:
        for answer in asyncio.as_completed(tasks):
            if await answer:
                return True
        return False
    finally:
        await end(*tasks)


async def true_within(seconds: float, check: Coroutine[Any, Any, bool]) -> bool:
    """Await one for so long at most. Return whether it returned True by then."""
    try:
        async with asyncio.timeout(seconds):
            return await check
    except TimeoutError:
        return False
