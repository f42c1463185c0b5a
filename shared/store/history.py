"""This module reads the history that `crawler.history.writer.HistoryWriter` wrote."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from shared import contributors, incidents
from shared.store import keys, stored
from shared.store.inference_history import MODEL_HOURS, SERVER_HOURS, Proof, unpack_ring
from shared.store.rings import HOUR, MINUTE, ModelSlot, Resolution, unpack_crawled_ring, unpack_model_ring
from shared.store.server_history import ServerHour, ServerRecord, unpack_header, unpack_hours

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

    from shared.contributors import Contributor
    from shared.incidents import Incident

UPTIME_WINDOWS = {"24h": 24, "7d": 7 * 24, "30d": 30 * 24}
"""Hours."""
KEYS_PER_READ = 500


class ModelHistory(msgspec.Struct, frozen=True):
    """A model's slots that have a crawl, oldest first. A missing slot is a gap: nothing is known of it."""

    dht_prefix: str
    resolution: Resolution
    slots: tuple[ModelSlot, ...]
    read_at: float
    proofs: tuple[Proof, ...] = ()
    """By hour, whatever the resolution: the chains through all of its blocks."""

    def uptimes(self) -> dict[str, float | None]:
        """Return the share of crawls that found the model healthy, by window (None without any), from hourly slots."""
        return {name: self.uptime(hours) for name, hours in UPTIME_WINDOWS.items()}

    def uptime(self, slots: int) -> float | None:
        """Return the share of the crawls of the last slots that found the model healthy; None without any crawl."""
        since = self.resolution.ring.slot(self.read_at) - slots
        counted = [slot for slot in self.slots if slot.slot > since]
        return _share(sum(slot.healthy for slot in counted), sum(slot.crawls for slot in counted))

    def first_crawl(self, minutes: ModelHistory) -> float | None:
        """Return when the first known crawl was: to the minute in the first day (`minutes`), else to the hour.

        None without any.
        """
        if not self.slots:
            return None
        hour = self.slots[0].slot
        first = next((slot.slot for slot in minutes.slots if slot.slot * MINUTE // HOUR == hour), None)
        return float(hour * HOUR if first is None else first * MINUTE)

    def watched(self, minutes: ModelHistory) -> dict[str, float]:
        """Return the seconds of each window that were watched, from hourly slots: hours with a crawl.

        `minutes` tells when the first of them began.
        """
        begun = self.first_crawl(minutes) or 0.0
        result = {}
        for name, hours in UPTIME_WINDOWS.items():
            since = int(self.read_at // HOUR) - hours
            spans = (
                (max(slot.slot * HOUR, begun), min((slot.slot + 1) * HOUR, self.read_at))
                for slot in self.slots
                if slot.slot > since
            )
            result[name] = sum(max(0.0, end - start) for start, end in spans)
        return result


class OutageEnd(StrEnum):
    """How a server's outage ended."""

    RETURNED = "returned"
    """A crawl found it online again."""
    LASTS = "lasts"
    UNWATCHED = "unwatched"
    """The hour after it has no crawl."""


class ServerOutage(msgspec.Struct, frozen=True):
    """A time in which crawls did not find a server online, in Unix seconds."""

    start: float
    end: float | None
    """None while it lasts."""
    minutes: int
    """Minutes with a crawl that did not find it online."""
    ended: OutageEnd


class ServerHistory(msgspec.Struct, frozen=True):
    """A server's header and its hours that have a crawl, oldest first."""

    peer_id: str
    record: ServerRecord
    hours: tuple[ServerHour, ...]
    online: bool
    """Whether the newest recorded crawl found it online."""
    read_at: float
    proofs: tuple[Proof, ...] = ()
    """By hour: the inference checks of the server."""

    def uptimes(self) -> dict[str, float | None]:
        """Return the share of minutes with a crawl in which it was online, by window, since it was first seen."""
        return {
            name: _share(sum(hour.online for hour in hours), sum(hour.crawled for hour in hours))
            for name, hours in self._windows().items()
        }

    def watched(self) -> dict[str, float]:
        """Return the seconds of each window that were watched: the minutes with a crawl since it was first seen."""
        return {name: float(sum(hour.crawled for hour in hours) * MINUTE) for name, hours in self._windows().items()}

    def _windows(self) -> dict[str, list[ServerHour]]:
        now = int(self.read_at // HOUR)
        return {
            name: [each for each in self.hours if each.hour > now - hours] for name, hours in UPTIME_WINDOWS.items()
        }

    def outages(self) -> list[ServerOutage]:
        """Return the times in which crawls did not find it online, oldest first; to the hour, as it is kept."""
        runs: list[list[ServerHour]] = []
        for hour in self.hours:
            if hour.online >= hour.crawled:
                continue
            if runs and runs[-1][-1].hour == hour.hour - 1:
                runs[-1].append(hour)
            else:
                runs.append([hour])
        return [self._outage(run) for run in runs]

    def _outage(self, run: list[ServerHour]) -> ServerOutage:
        record, last = self.record, run[-1]
        start, end = float(run[0].hour * HOUR), float((last.hour + 1) * HOUR)
        minutes = sum(hour.crawled - hour.online for hour in run)
        start = max(start, float(record.first_seen))
        if last is not self.hours[-1]:
            watched_on = any(hour.hour == last.hour + 1 for hour in self.hours)
            return ServerOutage(start, end, minutes, OutageEnd.RETURNED if watched_on else OutageEnd.UNWATCHED)
        # The header knows the end of the latest session, and the beginning of the present one, to the second.
        if self.online:
            return ServerOutage(start, max(start, float(record.online_since)), minutes, OutageEnd.RETURNED)
        return ServerOutage(max(start, float(record.last_online)), None, minutes, OutageEnd.LASTS)


class HistoryReader:
    """Reads for one api process. Every method raises `redis.RedisError` or `OSError`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def model(self, dht_prefix: str, resolution: Resolution, now: float) -> ModelHistory:
        """Return a model's history; it has no slots for a model without one. `now` is Unix seconds."""
        data, proofs = await stored.answers(
            self._redis,
            "history",
            ("GET", keys.history_of_model(resolution, dht_prefix)),
            ("GET", keys.inference_of_model(dht_prefix)),
        )
        slots = unpack_model_ring(data or b"", resolution.ring, now)
        return ModelHistory(
            dht_prefix, resolution, tuple(slots), now, proofs=unpack_ring(proofs or b"", MODEL_HOURS, now)
        )

    async def server(self, peer_id: str, now: float) -> ServerHistory | None:
        """Return a server's history, or None where there is none (any more). `now` is Unix seconds."""
        data, crawled, head, proofs = await stored.answers(
            self._redis,
            "history",
            ("GET", keys.history_of_server(peer_id)),
            ("GET", keys.HISTORY_CRAWLED),
            ("GET", keys.HISTORY_HEAD),
            ("GET", keys.inference_of_server(peer_id)),
        )
        last = stored.read("history", stored.number, head) if head else None
        record = unpack_header(data or b"")
        if record is None:
            return None
        return ServerHistory(
            peer_id,
            record,
            unpack_hours(data, unpack_crawled_ring(crawled or b"", now), now),
            online=bool(record.last_online) and record.last_online == int(last or 0),
            read_at=now,
            proofs=unpack_ring(proofs or b"", SERVER_HOURS, now),
        )

    async def contributors(self) -> dict[str, Contributor]:
        """Return what is counted for each public name."""
        (found,) = await stored.answers(self._redis, "contributor", ("HGETALL", keys.CONTRIBUTORS))
        # 2,000 take some 20 ms.
        return await asyncio.to_thread(stored.read_fields, "contributor", contributors.decode, found or {})

    async def models(self) -> list[str]:
        """Return the DHT prefixes of all models with a history."""
        return await self._members(keys.HISTORY_MODELS)

    async def servers(self) -> list[str]:
        """Return the peer ids of all servers with a history."""
        return await self._members(keys.HISTORY_SERVERS)

    async def hours_of_servers(self, now: float) -> dict[str, tuple[ServerRecord, bytes]]:
        """Return each server's header and packed hours (`unpack_hours`). `now` is Unix seconds."""
        found: dict[str, tuple[ServerRecord, bytes]] = {}
        for peer_id, data in (await self._of_servers(keys.history_of_server)).items():
            record = unpack_header(data)
            if record is not None and record.first_seen <= now:
                found[peer_id] = (record, data)
        return found

    async def checks_of_servers(self) -> dict[str, bytes]:
        """Return each server's packed inference checks (`unpack_ring` with `SERVER_HOURS`), where it has any."""
        return await self._of_servers(keys.inference_of_server)

    async def _of_servers(self, key_of: Callable[[str], str]) -> dict[str, bytes]:
        """Return a string of each server, where there is one: some servers at once."""
        peers = await self.servers()
        found: dict[str, bytes] = {}
        for first in range(0, len(peers), KEYS_PER_READ):
            some = peers[first : first + KEYS_PER_READ]
            reading = self._redis.pipeline(transaction=False)
            for peer_id in some:
                reading.get(key_of(peer_id))
            for peer_id, answer in zip(some, await reading.execute(raise_on_error=False), strict=True):
                if data := stored.answered("history", answer, b""):
                    found[peer_id] = data
        return found

    async def crawled_minutes(self, now: float) -> dict[int, int]:
        """Return `{hour: minutes in which a crawl saw the swarm}`, without hours that have none."""
        (data,) = await stored.answers(self._redis, "history", ("GET", keys.HISTORY_CRAWLED))
        return unpack_crawled_ring(data or b"", now)

    async def ended_incidents(self, since: float, until: float) -> list[Incident]:
        """Return incidents whose end was recorded at `since <= time < until` (Unix seconds), the oldest first.

        Each is in one such stretch alone: its entry's id is the time at which it was recorded, which never changes.
        """
        first, last = f"{since * 1000:.0f}", f"({until * 1000:.0f}"
        commands = [("XRANGE", keys.closed_incidents(official=official), first, last) for official in (True, False)]
        found_in = await stored.answers(self._redis, "incident", *commands)
        packed = [fields.get(b"incident", b"") for entries in found_in for _, fields in entries or ()]
        found = stored.read_all("incident", incidents.decode, packed)
        return sorted(found, key=lambda each: (each.start, each.id))

    async def _members(self, index: str) -> list[str]:
        (members,) = await stored.answers(self._redis, "history", ("ZRANGE", index, 0, -1))
        return sorted(stored.read_all("history", stored.text, members or ()))

    async def incidents(self) -> tuple[Incident, ...]:
        """Return open and ended incidents, the newest first."""
        opened, *closed = await stored.answers(
            self._redis,
            "incident",
            ("HVALS", keys.OPEN_INCIDENTS),
            ("XREVRANGE", keys.closed_incidents(official=True), "+", "-"),
            ("XREVRANGE", keys.closed_incidents(official=False), "+", "-"),
        )
        packed = [*(opened or ()), *(fields.get(b"incident", b"") for entries in closed for _, fields in entries or ())]
        # A newer version's during a rolling upgrade cannot be read: the others are shown.
        found = stored.read_all("incident", incidents.decode, packed)
        return tuple(sorted(found, key=lambda incident: (incident.start, incident.id), reverse=True))


def _share(part: int, whole: int) -> float | None:
    return round(min(part / whole, 1.0), 6) if whole else None
