"""This module defines what is kept of inference checks: for each model and server a ring of hours.

A record of 14 bytes per hour: a version, when its latest check began, how many there were and how many gave numbers,
the latest outcome, and the mean of their seconds per token. Of an hour without a record nothing is known.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

import msgspec

from shared.store.rings import HOUR, HOURS_KEPT, Ring

if TYPE_CHECKING:
    from shared.inference import InferenceOutcome, ServerInference, Usability, UsabilityState

VERSION = 1
"""A record of another version reads as an hour without a check."""
_RECORD = struct.Struct("<BIHHBf")
MODEL_HOURS = Ring(HOUR, HOURS_KEPT, _RECORD.size)
SERVER_HOURS = Ring(HOUR, 7 * 24, _RECORD.size)
MAX_SECONDS = 3600.0
OUTCOMES: tuple[str, ...] = (
    "usable", "degraded", "unusable", "unknown",
    "computed", "busy", "refused", "not_finite", "wrong_shape", "failed", "timeout",
)  # fmt: skip
"""By their code: more may follow, none may move."""
GIVES_NUMBERS = frozenset({"usable", "degraded", "computed"})


class Proof(msgspec.Struct, frozen=True, array_like=True):
    """The inference checks of one model or server in one hour."""

    checked_at: int
    """When the latest of them began, in whole Unix seconds."""
    checks: int
    computed: int
    """Those of them that gave numbers."""
    outcome: str
    """Of the latest."""
    seconds: float = 0.0
    """Mean of the seconds per token of those that gave numbers; 0 without any."""

    @property
    def hour(self) -> int:
        return self.checked_at // HOUR

    def merge(self, later: Proof) -> Proof:
        """Return both as one record; the later one alone where it is of another hour."""
        if self.hour != later.hour:
            return later
        computed = self.computed + later.computed
        seconds = (self.seconds * self.computed + later.seconds * later.computed) / computed if computed else 0.0
        checks = min(self.checks + later.checks, 0xFFFF)
        return Proof(later.checked_at, checks, min(computed, checks), later.outcome, seconds)


def of_model(found: Usability) -> Proof:
    return _proof(found.checked_at, found.state, found.seconds_per_token)


def of_server(found: ServerInference) -> Proof:
    return _proof(found.checked_at, found.outcome, found.seconds_per_step)


def _proof(checked_at: float, outcome: UsabilityState | InferenceOutcome, seconds: float | None) -> Proof:
    gave = outcome.value in GIVES_NUMBERS
    took = min(max(seconds or 0.0, 0.0), MAX_SECONDS) if gave else 0.0
    return Proof(min(max(int(checked_at), 0), 0xFFFFFFFF), 1, int(gave), outcome.value, took)


def pack(record: Proof) -> bytes:
    code = OUTCOMES.index(record.outcome)
    return _RECORD.pack(VERSION, record.checked_at, record.checks, record.computed, code, record.seconds)


def unpack(data: bytes) -> Proof | None:
    """Return the record, or None where there is none that `pack` can have written."""
    if len(data) < _RECORD.size:
        return None
    version, checked_at, checks, computed, code, seconds = _RECORD.unpack(data[: _RECORD.size])
    if version != VERSION or not 0 <= computed <= checks or not checks or code >= len(OUTCOMES):
        return None
    if not (math.isfinite(seconds) and 0 <= seconds <= MAX_SECONDS):
        return None
    return Proof(checked_at, checks, computed, OUTCOMES[code], seconds)


def unpack_ring(data: bytes, ring: Ring, now: float) -> tuple[Proof, ...]:
    """Return the hours that had a check, the oldest first. `now` is Unix seconds."""
    records = (unpack(data[place : place + ring.width]) for place in range(0, len(data), ring.width))
    there = (record for record in records if record is not None and ring.current(record.hour, now))
    return tuple(sorted(there, key=lambda record: record.checked_at))
