"""This module waits for the first of several answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable


async def any_true(questions: Iterable[Coroutine[Any, Any, bool]]) -> bool:
    """Ask all at once; return True at the first yes, False when all have said no."""
    tasks = [awaited(question) for question in questions]
    try:
        for answer in asyncio.as_completed(tasks):
            if await answer:
                return True
        return False
    finally:
        await end(*tasks)
