"""This module parses entries of Redis, which are hostile text until a parser has accepted them.

`read` gives an entry to a parser and returns its value, or None for an entry that is refused, counted and logged.
Whatever a parser raises is the fault of that entry alone, so no loop over entries needs to know the errors of decoders.

`is_outage` tells an error that passes with time (Redis away, full, failing over) from one that comes back each time,
such as a key of the wrong type. After one of the second kind a request is dropped or made smaller, never repeated as it
was, and the owner of the keys calls `delete_unusable` for the unusable ones.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from prometheus_client import Counter
from redis.exceptions import (
    ClusterDownError,
    DataError,
    ExecAbortError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from shared.snapshot import MAX_UNIX_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from redis.asyncio import Redis

D = TypeVar("D")
T = TypeVar("T")

LOG_EVERY = 60.0
"""Least seconds between two log lines about one kind of entry, since there may be many bad ones."""

REFUSED = Counter(
    "petals_redis_entries_refused",
    "Entries in Redis that are not what their kind should be, or that Redis itself refuses to work on.",
    ["kind"],
    registry=None,
)
"""The process registers it on its own private registry."""
for _kind in (
    "snapshot", "status", "reply", "verdict", "vantage", "job", "answer", "incident", "watch", "change", "history",
    "info", "contributor", "report", "stream", "key", "rq", "redis",
):  # fmt: skip
    REFUSED.labels(_kind)

_OUTAGES = (
    ReadOnlyError, OutOfMemoryError, NoPermissionError, ClusterDownError, TryAgainError, NoScriptError, ExecAbortError,
)  # fmt: skip
_CODES = (
    "BUSY", "LOADING", "MISCONF", "NOREPLICAS", "READONLY", "OOM", "UNKILLABLE", "MASTERDOWN", "CLUSTERDOWN",
    "UNBLOCKED",
)  # fmt: skip
"""Error codes that redis-py has no class for, or that a script's error begins with."""
_BAD_DATA = (DataError, ResponseError)

log = structlog.get_logger()
_logged_at: dict[str, float] = {}


def read(kind: str, parse: Callable[[D], T], entry: D) -> T | None:
    """Return what `parse` makes of an entry; None for one that it raises for, which is counted as refused.

    `kind` is a label of metrics: one of few.
    """
    try:
        return parse(entry)
    except Exception as error:  # noqa: BLE001 - whatever a parser raises
        refuse(kind, error)
        return None


def read_all(kind: str, parse: Callable[[D], T], entries: Iterable[D]) -> list[T]:
    """Return what `parse` makes of the entries, without those that are refused (`read`)."""
    found = (read(kind, parse, entry) for entry in entries)
    return [value for value in found if value is not None]


def read_fields(kind: str, parse: Callable[[bytes], T], fields: Mapping[bytes, bytes]) -> dict[str, T]:
    """Return what `parse` makes of a hash's values, by field, without those that are refused (`read`)."""
    return dict(read_all(kind, lambda field: (text(field[0]), parse(field[1])), fields.items()))


def refuse(kind: str, error: Exception) -> None:
    """Count an entry as refused, and log it, unless one of its kind was logged within a minute."""
    REFUSED.labels(kind).inc()
    now = time.monotonic()
    if now - _logged_at.get(kind, -LOG_EVERY) >= LOG_EVERY:
        _logged_at[kind] = now
        log.warning("entry in redis refused", kind=kind, reason=f"{type(error).__name__}: {error}"[:300])


def answered(kind: str, answer: Any, otherwise: Any) -> Any:
    """Return one of a pipeline's answers (`raise_on_error=False`); `otherwise` where Redis refused that one.

    Raises an outage.
    """
    if not isinstance(answer, Exception):
        return answer
    if is_outage(answer):
        raise answer
    refuse(kind, answer)
    return otherwise


async def answers(redis: Redis, kind: str, *commands: tuple[Any, ...]) -> list[Any]:
    """Run commands that read in one pipeline. Return an answer for each; None where Redis refused it.

    Raises an outage: `redis.RedisError`, `OSError`.
    """
    pipeline = redis.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    return [answered(kind, answer, None) for answer in await pipeline.execute(raise_on_error=False)]


def text(entry: bytes) -> str:
    """Return the entry as text. Raises `UnicodeDecodeError`."""
    return entry.decode()


def number(entry: bytes | str | float) -> float:
    """Return the entry as a finite number. Raises `ValueError`."""
    value = float(entry)
    if not -MAX_UNIX_SECONDS * 1000 < value < MAX_UNIX_SECONDS * 1000:  # also false for NaN
        raise ValueError(f"{value} is not a number of ours")
    return value


def is_outage(error: Exception) -> bool:
    """Whether the error may pass with time: not one that Redis gives because of the request or of what is stored."""
    if isinstance(error, _OUTAGES) or not isinstance(error, _BAD_DATA):
        return True
    words = str(error)
    return words.startswith(_CODES) or any(f" -{code} " in words for code in _CODES)


# KEYS, and in ARGV the type of each. Deletes keys of another type, and streams that accept no entry any more because
# somebody wrote the last possible id. Returns the names of the deleted keys.
_DELETE_UNUSABLE = """
local deleted = {}
for i, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  local bad = kind ~= 'none' and kind ~= ARGV[i]
  if kind == 'stream' and not bad then
    local info = redis.call('XINFO', 'STREAM', key)
    for field = 1, #info, 2 do
      if info[field] == 'last-generated-id' then bad = string.sub(info[field + 1], 1, 16) == '1844674407370955' end
    end
  end
  if bad then
    redis.call('DEL', key)
    deleted[#deleted + 1] = key
  end
end
return deleted
"""


async def delete_unusable(redis: Redis, types: Mapping[str, str]) -> None:
    """Delete the keys whose type differs from `types` (`{key: type}`). Raises `redis.RedisError`."""
    deleted: Any = await redis.eval(_DELETE_UNUSABLE, len(types), *types, *types.values())
    for key in deleted:
        refuse("key", ValueError(f"{key.decode(errors='replace')} was of another type, and is deleted"))
