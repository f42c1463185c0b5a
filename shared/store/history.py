"""This module reads the history that `crawler.history.writer.HistoryWriter` wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shared import incidents
from shared.store import keys, stored
from shared.store.inference_history import MODEL_HOURS, SERVER_HOURS, Proof, unpack_ring
from shared.store.rings import HOUR, ModelSlot, Resolution, unpack_looks, unpack_model_ring
from shared.store.server_history import ServerHour, ServerRecord, unpack_header, unpack_hours

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from shared.incidents import Incident

UPTIME_WINDOWS = {"24h": 24, "7d": 7 * 24, "30d": 30 * 24}
"""Hours."""


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
        result: dict[str, float | None] = {}
        for name, hours in UPTIME_WINDOWS.items():
            since = int(self.read_at // HOUR) - hours
            counted = [slot for slot in self.slots if slot.slot > since]
            result[name] = _share(sum(slot.healthy for slot in counted), sum(slot.looks for slot in counted))
        return result


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
        result: dict[str, float | None] = {}
        for name, hours in UPTIME_WINDOWS.items():
            since = int(self.read_at // HOUR) - hours
            counted = [hour for hour in self.hours if hour.hour > since]
            result[name] = _share(sum(hour.online for hour in counted), sum(hour.looked for hour in counted))
        return result


class HistoryReader:
    """Reads for one api process. Every method raises `redis.RedisError` or `OSError`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def model(self, dht_prefix: str, resolution: Resolution, now: float) -> ModelHistory:
        """Return a model's history; it has no slots for a model without one. `now` is Unix seconds."""
        reading = self._redis.pipeline(transaction=False)
        reading.get(keys.history_of_model(resolution, dht_prefix))
        reading.get(keys.inference_of_model(dht_prefix))
        data, proofs = (
            stored.answered("history", answer, b"") for answer in await reading.execute(raise_on_error=False)
        )
        slots = unpack_model_ring(data or b"", resolution.ring, now)
        return ModelHistory(
            dht_prefix, resolution, tuple(slots), now, proofs=unpack_ring(proofs or b"", MODEL_HOURS, now)
        )

    async def server(self, peer_id: str, now: float) -> ServerHistory | None:
        """Return a server's history, or None where there is none (any more). `now` is Unix seconds."""
        reading = self._redis.pipeline(transaction=False)
        reading.get(keys.history_of_server(peer_id))
        reading.get(keys.HISTORY_LOOKS)
        reading.get(keys.HISTORY_HEAD)
        reading.get(keys.inference_of_server(peer_id))
        data, looks, head, proofs = (
            stored.answered("history", answer, b"") for answer in await reading.execute(raise_on_error=False)
        )
        last = stored.read("history", stored.number, head) if head else None
        record = unpack_header(data or b"")
        if record is None:
            return None
        return ServerHistory(
            peer_id,
            record,
            unpack_hours(data, unpack_looks(looks or b"", now), now),
            online=bool(record.last_online) and record.last_online == int(last or 0),
            read_at=now,
            proofs=unpack_ring(proofs or b"", SERVER_HOURS, now),
        )

    async def incidents(self) -> tuple[Incident, ...]:
        """Return open and ended incidents, the newest first."""
        reading = self._redis.pipeline(transaction=False)
        reading.hvals(keys.OPEN_INCIDENTS)
        reading.xrevrange(keys.closed_incidents(official=True))
        reading.xrevrange(keys.closed_incidents(official=False))
        opened, official, announced = (
            stored.answered("incident", answer, ()) for answer in await reading.execute(raise_on_error=False)
        )
        packed = [*opened, *(fields.get(b"incident", b"") for _, fields in (*official, *announced))]
        # A newer version's during a rolling upgrade cannot be read: the others are shown.
        found = [stored.read("incident", incidents.decode, data) for data in packed]
        readable = [incident for incident in found if incident is not None]
        return tuple(sorted(readable, key=lambda incident: (incident.start, incident.id), reverse=True))


def _share(part: int, whole: int) -> float | None:
    return round(min(part / whole, 1.0), 6) if whole else None
