"""Which silent servers are not dialled again yet.

A dial that meets silence takes its whole deadline, and a server that was silent twice seldom answers a minute
later. Such a server is dialled after a pause that doubles up to `LONGEST_PAUSE`; until then its last outcome
stands, and the snapshot says from when it is. One that announces another state meanwhile is dialled at once
when it is online again, and `/check` dials anew whenever it is asked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.reachability import Cause
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.reachability import DialOutcome

SILENT = frozenset({Cause.TIMEOUT, Cause.FROZEN})
PAUSES = (0.0, 100.0, 200.0, 300.0)
"""Seconds without a dial after the first, second, third, … silent dial in a row."""
LONGEST_PAUSE = PAUSES[-1]


@dataclass(frozen=True, slots=True)
class Silence:
    """A server's last dial, which met silence, and how many in a row did."""

    outcome: DialOutcome
    dials: int
    dialled_at: float
    """Unix seconds, for readers."""
    until: float
    """Monotonic seconds: when the server is dialled again."""


class RedialSchedule:
    """What a crawler remembers of silent servers, from crawl to crawl. Lost with the process: then all are dialled."""

    def __init__(self) -> None:
        self._silences: dict[str, Silence] = {}

    def paused(self, peer_id: str) -> Silence | None:
        """Return the silence that still stands for a dial; None where the server is to be dialled."""
        silence = self._silences.get(peer_id)
        return silence if silence is not None and time.monotonic() < silence.until else None

    def learn(self, dialled: Mapping[str, DialOutcome], paused: Mapping[str, Silence]) -> None:
        """Take in a whole crawl: whom it dialled, and whom it did not because of a pause. All others are forgotten."""
        now, wall = time.monotonic(), time.time()
        silences = dict(paused)
        for peer_id, outcome in dialled.items():
            if outcome.verdict is Verdict.UNREACHABLE and outcome.cause in SILENT:
                before = self._silences.get(peer_id)
                dials = 1 if before is None else before.dials + 1
                pause = PAUSES[min(dials, len(PAUSES)) - 1]
                silences[peer_id] = Silence(outcome, dials, wall, now + pause)
        self._silences = silences
