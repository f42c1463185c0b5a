"""This module is a read-through cache: the first request for a key loads its value, and all others wait for it."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from shared.tasks import shared

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

T = TypeVar("T")

FRESH_SECONDS = 15.0


class OldValueError(Exception):
    """Base class for errors of `load` after which an old value is returned, if there is one."""


class _Entry(NamedTuple):
    """A cached value; it is fresh `until` (monotonic seconds), and while `ReadThrough.version` is the same."""

    value: Any
    until: float
    version: Hashable
    size: int


class ReadThrough:
    """Values by key. A value is loaded again when it is older than `fresh` seconds or has another `version`."""

    def __init__(self, fresh: float, max_size: int, size_of: Callable[[Any, Any], int] = lambda *_: 1) -> None:
        """Sizes, by `size_of` a key and its value, add up to `max_size` at most; the least recently used go first."""
        self._fresh = fresh
        self._max_size = max_size
        self._size_of = size_of
        self._size = 0
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._loading: dict[Hashable, asyncio.Task[Any]] = {}
        self.version: Hashable = None

    def ready(self, key: Hashable) -> Any:
        """Return the value if there is one that is fresh, else None."""
        kept = self._entries.get(key)
        return kept.value if kept is not None and self._is_fresh(kept) else None

    async def get(self, key: Hashable, load: Callable[[], Awaitable[T]]) -> T:
        """Return the value, at most `fresh` seconds old; the previous one where `load` raises `OldValueError`.

        Raises any other error of `load`, and `OldValueError` where there is no previous value.
        """
        kept = self._entries.get(key)
        if kept is not None:
            self._entries.move_to_end(key)
            if self._is_fresh(kept):
                return cast("T", kept.value)
        loading = (key, self.version)
        task = self._loading.get(loading)
        if task is None:
            task = self._loading[loading] = shared(self._load(key, load))
            task.add_done_callback(lambda _: self._loading.pop(loading, None))
        try:
            # A client that hangs up must not cancel the load that others wait for.
            return cast("T", await asyncio.shield(task))
        except OldValueError:
            if kept is None:
                raise
            return cast("T", kept.value)

    def _is_fresh(self, kept: _Entry) -> bool:
        return kept.version == self.version and time.monotonic() < kept.until

    async def _load(self, key: Hashable, load: Callable[[], Awaitable[Any]]) -> Any:
        version = self.version
        value = await load()
        if (old := self._entries.pop(key, None)) is not None:
            self._size -= old.size
        size = self._size_of(key, value)
        self._entries[key] = _Entry(value, time.monotonic() + self._fresh, version, size)
        self._size += size
        while self._size > self._max_size and len(self._entries) > 1:
            self._size -= self._entries.popitem(last=False)[1].size
        return value
