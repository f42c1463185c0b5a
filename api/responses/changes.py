"""This module holds the kept changes of servers and models in memory, and those that open event streams get."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from shared.changes import MAX_CHANGES, ChangeFilter
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.public.changes import change_entry
from shared.store.streams import ENTRIES_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shared.changes import Change
    from shared.store.changes import ChangesReader
    from shared.tasks import Tasks

MAX_NEWS = 1_000
"""Changes that a stream may be behind; older ones are only in the feeds."""


def filter_of(given: Mapping[str, str]) -> ChangeFilter:
    """Return which changes the parameters of a request name; a peer id may be written in any form."""
    server = given.get("server")
    if server is not None:
        try:
            server = parse_peer_id(server)
        except BadPeerIdError:
            server = server[:100]  # nothing is found, which is what is known of it
    return ChangeFilter(server, given.get("model"), given.get("contributor"))


class _News(NamedTuple):
    number: int
    change: Change
    event: str


class ChangeLog:
    """The changes as this process knows them. `on_news` is called after new ones have come."""

    def __init__(self, reader: ChangesReader, on_news: Callable[[], None]) -> None:
        self._reader = reader
        self._on_news = on_news
        self._by_id: dict[str, Change] = {}
        """The one that was updated last stands last."""
        self._news: deque[_News] = deque(maxlen=MAX_NEWS)
        self.newest = 0
        """How many changes have come since the process has read those of before."""

    def start(self, tasks: Tasks) -> None:
        """Follow the changes from now on, until the tasks are closed."""
        tasks.keep("changes", self._follow)

    def find(self, wanted: ChangeFilter) -> list[Change]:
        """Return the wanted changes, those that were updated last first. A walk through 5,000: not for the loop."""
        return [change for change in reversed(tuple(self._by_id.values())) if wanted.takes(change)]

    def events(self, after: int, wanted: ChangeFilter) -> list[str]:
        """Return the wanted changes after that number as server-sent events."""
        if after >= self.newest:
            return []
        return [news.event for news in self._news if news.number > after and wanted.takes(news.change)]

    async def _follow(self) -> None:
        read_before = False
        async for found in self._reader.follow():
            for change in found:
                self._take(change, is_news=read_before)
            if read_before and found:
                self._on_news()
            read_before = read_before or len(found) < ENTRIES_AT_ONCE

    def _take(self, change: Change, *, is_news: bool) -> None:
        if self._by_id.pop(change.id, None) == change:
            is_news = False
        self._by_id[change.id] = change
        if len(self._by_id) > MAX_CHANGES:
            del self._by_id[next(iter(self._by_id))]
        if is_news:
            self.newest += 1
            data = msgspec.json.encode(change_entry(change)).decode()
            self._news.append(_News(self.newest, change, f"event: change\ndata: {data}\n\n"))
