"""This module follows the stream of changes that `crawler.history` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared import changes
from shared.store import keys, stored
from shared.store.streams import StreamTail

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from shared.changes import Change


class ChangesReader:
    """Follows the changes for one process."""

    def __init__(self, redis: Redis) -> None:
        self._tail = StreamTail(redis, (keys.CHANGES,), about="changes")

    async def follow(self) -> AsyncIterator[list[Change]]:
        """Yield the kept changes, then new and updated ones, for ever. Outages of Redis are waited out."""
        async for entries in self._tail.follow():
            yield stored.read_all("change", lambda entry: changes.decode(entry.fields[b"change"]), entries)
