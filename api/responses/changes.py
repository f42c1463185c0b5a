"""This module holds the stored changes of servers and models in memory, and the newest ones for event streams."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec

from api.hidden import change_without_addresses
from shared.changes import MAX_CHANGES, ChangeFilter
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.public.changes import change_entry
from shared.store.streams import ENTRIES_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from shared.changes import Change
    from shared.store.changes import ChangesReader
    from shared.tasks import Tasks

MAX_BATCHES = 8
"""Batches that a stream may be behind, of up to 1,000 changes each; older ones are only in the feeds."""


def filter_of(given: Mapping[str, str]) -> ChangeFilter:
    """Return which changes the parameters of a request name; a peer id may be written in any form."""
    server = given.get("server")
    if server is not None:
        try:
            server = parse_peer_id(server)
        except BadPeerIdError:
            server = server[:100]  # no server has this id: nothing is found
    return ChangeFilter(server, given.get("model"), given.get("contributor"))


class _Indexed:
    """Changes by id, the last updated one at the end, and by each server, model and contributor."""

    def __init__(self, changes: Iterable[Change] = ()) -> None:
        self._all: dict[str, Change] = {}
        self._named: dict[tuple[str, str], dict[str, Change]] = {}
        for change in changes:
            self.add(change)

    def add(self, change: Change) -> bool:
        """Add or replace a change; return whether it is another than before."""
        old = self._all.get(change.id)
        if old is not None:
            self._remove(old)
        elif len(self._all) >= MAX_CHANGES:
            self._remove(next(iter(self._all.values())))
        self._all[change.id] = change
        for name in _names(change):
            self._named.setdefault(name, {})[change.id] = change
        return old != change

    def find(self, wanted: ChangeFilter) -> list[Change]:
        """Return the wanted changes, those that were updated last first."""
        given = [name for name in wanted._asdict().items() if name[1] is not None]
        named = [self._named.get(name, {}) for name in given]
        fewest = min(named, key=len, default=self._all)
        return [change for change in reversed(tuple(fewest.values())) if wanted.takes(change)]

    def _remove(self, change: Change) -> None:
        del self._all[change.id]
        for name in _names(change):
            named = self._named[name]
            del named[change.id]
            if not named:
                del self._named[name]


def _names(change: Change) -> Iterator[tuple[str, str]]:
    yield "model", change.dht_prefix
    if change.peer_id is not None:
        yield "server", change.peer_id
    if change.contributor is not None:
        yield "contributor", change.contributor


class _Batch(NamedTuple):
    """Changes that came together."""

    changes: _Indexed
    events: dict[str, str]
    """By the change's id."""
    text: str
    """All events, the oldest first, for streams of everybody's changes: looking 1,000 up takes each of them 0.5 ms."""

    @classmethod
    def of(cls, new: list[Change]) -> Self:
        changes, events = _Indexed(new), {change.id: _event(change) for change in new}
        return cls(changes, events, "".join(events[change.id] for change in reversed(changes.find(ChangeFilter()))))


class ChangeLog:
    """The changes as this process knows them. `on_news` is called after new ones have come."""

    def __init__(self, reader: ChangesReader, on_news: Callable[[], None], *, hide_addresses: bool = False) -> None:
        self._reader = reader
        self._hide_addresses = hide_addresses
        self._on_news = on_news
        self._changes = _Indexed()
        self._batches: deque[_Batch] = deque(maxlen=MAX_BATCHES)
        self.newest = 0
        """Number of batches that arrived after those that were stored before this process started."""

    def start(self, tasks: Tasks) -> None:
        """Follow the changes from now on, until the tasks are closed."""
        tasks.keep("changes", self._follow)

    def find(self, wanted: ChangeFilter) -> list[Change]:
        """Return the wanted changes, the last updated first. Call it in a thread: there may be 5,000."""
        return self._changes.find(wanted)

    def events(self, after: int, wanted: ChangeFilter) -> str:
        """Return the wanted changes of the batches after that number as server-sent events, the oldest first."""
        behind = self.newest - after
        newer = list(islice(reversed(self._batches), behind))[::-1] if behind > 0 else []
        if wanted == ChangeFilter():
            return "".join(batch.text for batch in newer)
        return "".join(batch.events[change.id] for batch in newer for change in reversed(batch.changes.find(wanted)))

    async def _follow(self) -> None:
        read_before = False
        async for read in self._reader.follow():
            found = list(map(change_without_addresses, read)) if self._hide_addresses else read
            new = [change for change in found if self._changes.add(change)]
            if read_before and new:
                self.newest += 1
                self._batches.append(_Batch.of(new))
                self._on_news()
            read_before = read_before or len(found) < ENTRIES_AT_ONCE


def _event(change: Change) -> str:
    return f"event: change\ndata: {msgspec.json.encode(change_entry(change)).decode()}\n\n"
