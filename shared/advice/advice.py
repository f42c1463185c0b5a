"""This module defines an advice: a verdict in words, and the reader's next step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Tone(StrEnum):
    """How good the news is. An unknown state is `IDLE`, never `BAD`."""

    GOOD = "good"
    WARN = "warn"
    BAD = "bad"
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class Advice:
    """Plain text in sentences, no markup. `title` follows a name ("…zQVHoD cannot be reached") and has no full stop."""

    tone: Tone
    title: str
    reason: str
    since: str = ""
    """Since when, and when it was last otherwise; empty where that is not known."""
    next_step: str = ""
    """What to do; empty where nothing is to be done."""
    command: str = ""
    """One line for a shell that does it; empty where there is none."""
    ours: bool = False
    """Whether the fault is the monitor's own, so that the server's operator cannot fix it."""

    @property
    def sentences(self) -> str:
        """Everything but the title and the command, as one paragraph."""
        return " ".join(part for part in (self.reason, self.since, self.next_step) if part)
