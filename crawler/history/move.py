"""This module moves a monitor: `--export FILE` writes its history into a file, `--import FILE` reads it elsewhere.

The file is zstd-compressed msgpack of typed entries, one per Redis key, and so independent of the version of Redis or
Valkey. A file is hostile until it is parsed: only keys of the history are accepted, with their type and size.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from backports import zstd
from redis.exceptions import RedisError, ResponseError

from crawler.leader import Leadership
from shared.store import keys
from shared.store.connection import connect
from shared.store.history import HistoryReader
from shared.store.inference_history import MODEL_HOURS, SERVER_HOURS
from shared.store.rings import CRAWLED, Resolution
from shared.store.server_history import LIFE_SECONDS, SIZE

if TYPE_CHECKING:
    from pathlib import Path

    from redis.asyncio import Redis

VERSION = 1
MAX_BYTES = 512 * 2**20
"""Of an unpacked file; 100 models and 5,000 servers take about 20 MB."""
KEYS_AT_ONCE = 200
MAX_TEXT_KEY = 512
_STREAM_ID = re.compile(r"\d{1,15}-\d{1,10}", re.ASCII)


class MoveError(Exception):
    """The history cannot be moved; the text says why, and what to do."""


class _Key(msgspec.Struct, frozen=True):
    key: str
    life: int | None
    """Seconds after which Redis deletes the key; None: never."""


class _String(_Key, frozen=True, tag="string"):
    value: bytes


class _Hash(_Key, frozen=True, tag="hash"):
    value: dict[bytes, bytes]


class _SortedSet(_Key, frozen=True, tag="zset"):
    value: list[tuple[bytes, float]]


class _Stream(_Key, frozen=True, tag="stream"):
    value: list[tuple[str, dict[bytes, bytes]]]


_Entry = _String | _Hash | _SortedSet | _Stream
_KINDS: dict[str, type[_Entry]] = {"string": _String, "hash": _Hash, "zset": _SortedSet, "stream": _Stream}


class _File(msgspec.Struct, frozen=True):
    version: int
    entries: list[_Entry]


class _Bound(NamedTuple):
    """What may stand under a key: its type, and for strings the most bytes; it is deleted after so many seconds."""

    kind: str
    size: int = 256
    life: int | None = None


def export_to(redis_url: str, path: Path) -> str:
    """Write the history into a new file; return what was done, in words. Raises `MoveError`."""
    return asyncio.run(_with_redis(redis_url, lambda redis: write_history(redis, path)))


def import_from(redis_url: str, path: Path) -> str:
    """Read a file into a Redis that has no history; return what was done, in words. Raises `MoveError`."""
    return asyncio.run(_with_redis(redis_url, lambda redis: read_history(redis, path)))


async def _with_redis(redis_url: str, work: Any) -> str:
    redis = connect(redis_url, "crawler, moving")
    try:
        return str(await work(redis))
    except (RedisError, OSError) as error:
        raise MoveError(f"{error}") from error
    finally:
        await redis.aclose()


async def write_history(redis: Redis, path: Path) -> str:
    """Write every key of the history into a file that must not exist yet."""
    reader = HistoryReader(redis)
    models, servers = await reader.models(), await reader.servers()
    names = [*_moved()]
    names += [keys.history_of_model(resolution, prefix) for prefix in models for resolution in Resolution]
    names += [keys.inference_of_model(prefix) for prefix in models]
    names += [key_of(peer_id) for key_of in (keys.history_of_server, keys.inference_of_server) for peer_id in servers]
    entries: list[_Entry] = []
    for first in range(0, len(names), KEYS_AT_ONCE):
        entries += await _read(redis, names[first : first + KEYS_AT_ONCE])
    if not any(entry.key == keys.HISTORY_HEAD for entry in entries):
        raise MoveError("this Redis has no history: is REDIS_URL that of the monitor?")
    packed = zstd.compress(msgspec.msgpack.encode(_File(VERSION, entries)), level=10)
    with path.open("xb") as file:
        file.write(packed)
    return f"Exported {len(models):,} models, {len(servers):,} servers: {len(packed):,} bytes in {path}."


async def _read(redis: Redis, names: list[str]) -> list[_Entry]:
    bounds = {name: bound for name in names if (bound := _bound(name)) is not None}
    reading = redis.pipeline(transaction=False)
    for name, bound in bounds.items():
        reading.pttl(name)
        match bound.kind:
            case "string":
                reading.get(name)
            case "hash":
                reading.hgetall(name)
            case "zset":
                reading.zrange(name, 0, -1, withscores=True)
            case "stream":
                reading.xrange(name)
    answers = await reading.execute(raise_on_error=False)
    entries: list[_Entry] = []
    for number, (name, bound) in enumerate(bounds.items()):
        life, value = answers[2 * number : 2 * number + 2]
        if not value or isinstance(value, Exception) or isinstance(life, Exception):
            continue  # it is not there, or of a type that the crawler deletes
        if bound.kind == "stream":
            value = [(entry_id.decode(), fields) for entry_id, fields in value]
        make: Any = _KINDS[bound.kind]
        entries.append(make(name, max(1, life // 1000) if life > 0 else None, value))
    return entries


async def read_history(redis: Redis, path: Path) -> str:
    """Write what a file holds into Redis, the newest crawl's time last: one that was interrupted can be repeated."""
    entries = parse(await asyncio.to_thread(path.read_bytes))
    leadership = Leadership(redis, "import")
    if not await leadership.hold():
        raise MoveError("a crawler leads there; stop all crawlers of this Redis first")
    try:
        if await redis.exists(keys.HISTORY_HEAD):
            raise MoveError("this Redis has a history already; import into one that has none")
        entries.sort(key=lambda entry: entry.key == keys.HISTORY_HEAD)
        for first in range(0, len(entries), KEYS_AT_ONCE):
            if not await leadership.hold():
                raise MoveError("another crawler took the lead; stop all crawlers of this Redis, and import again")
            await _write(redis, entries[first : first + KEYS_AT_ONCE])
    finally:
        await leadership.release()
    return f"Imported {len(entries):,} keys of {path}. Start the crawler."


async def _write(redis: Redis, entries: list[_Entry]) -> None:
    writing: Any = redis.pipeline(transaction=True)
    for entry in entries:
        writing.delete(entry.key)
        match entry:
            case _String():
                writing.set(entry.key, entry.value)
            case _Hash():
                writing.hset(entry.key, mapping=entry.value)
            case _SortedSet():
                writing.zadd(entry.key, dict(entry.value))
            case _Stream():
                for entry_id, fields in entry.value:
                    writing.xadd(entry.key, fields, id=entry_id)
        if entry.life is not None:
            writing.expire(entry.key, entry.life)
    try:
        await writing.execute()
    except ResponseError as error:
        raise MoveError(f"this file holds what Redis refuses: {error}") from error


def parse(data: bytes) -> list[_Entry]:
    """Return the entries of a file. Raises `MoveError` for anything that is no history."""
    try:
        unpacker = zstd.ZstdDecompressor()
        document = unpacker.decompress(data, max_length=MAX_BYTES)
        if not unpacker.eof:
            raise MoveError("this file is cut short, or far larger than any history")
        version = msgspec.msgpack.decode(document, type=_Version).version
        if version != VERSION:
            raise MoveError(f"this file is of version {version}; this monitor reads {VERSION}")
        file = msgspec.msgpack.decode(document, type=_File)
    except (zstd.ZstdError, msgspec.MsgspecError, RecursionError) as error:
        raise MoveError(f"this file is no exported history: {error}") from error
    return [_checked(entry) for entry in file.entries]


class _Version(msgspec.Struct):
    version: int


def _checked(entry: _Entry) -> _Entry:
    """Return the entry with a life that ends. Raises `MoveError` for one that the history does not have."""
    bound = _bound(entry.key)
    if bound is None or not isinstance(entry, _KINDS[bound.kind]) or not entry.value:
        raise MoveError(f"this file is no exported history: key {entry.key[:80]!r}")
    if isinstance(entry, _String) and len(entry.value) > bound.size:
        raise MoveError(f"this file is no exported history: {entry.key[:80]!r} is too long")
    if isinstance(entry, _Stream) and not all(_STREAM_ID.fullmatch(entry_id) for entry_id, _ in entry.value):
        raise MoveError(f"this file is no exported history: an id of {entry.key[:80]!r}")
    life = entry.life if entry.life is not None else bound.life
    if life is not None:
        life = min(max(life, 1), bound.life or Resolution.DAY.ring.life)
    return msgspec.structs.replace(entry, life=life)


def _moved() -> dict[str, str]:
    """Return `{key: type}` of the history's keys, without those of single models and servers."""
    of_now = {keys.SNAPSHOTS, keys.CRAWLS, keys.CRAWLER_LEASE, keys.CRAWLER_FENCING}
    types = keys.of_the_crawler()
    return {key: kind for key, kind in types.items() if key.startswith("petals:") and key not in of_now}


def _bound(key: str) -> _Bound | None:
    """Return what may stand under a key; None for a key that is not of the history."""
    if key in (types := _moved()):
        return _Bound(types[key], CRAWLED.size) if types[key] in _KINDS else None
    if len(key) > MAX_TEXT_KEY:
        return None
    for resolution in Resolution:
        if key.startswith(keys.history_of_model(resolution, "")):
            return _Bound("string", resolution.ring.size, resolution.ring.life)
    for prefix, ring in ((keys.inference_of_model(""), MODEL_HOURS), (keys.inference_of_server(""), SERVER_HOURS)):
        if key.startswith(prefix):
            return _Bound("string", ring.size, ring.life)
    return _Bound("string", SIZE, LIFE_SECONDS) if key.startswith(keys.history_of_server("")) else None
