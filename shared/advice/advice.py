"""This module defines an advice: a verdict in words, and the reader's next step."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from shared import words


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
    next_step: str = ""
    """What to do; empty where nothing is to be done."""
    command: str = ""
    """One line for a shell that does it; empty where there is none."""
    since: str = ""
    """Since when, and when it was last otherwise; empty where that is not known."""
    ours: bool = False
    """Whether the fault is the monitor's own, so that the server's operator cannot fix it."""

    @property
    def sentences(self) -> str:
        """Everything but the title and the command, as one paragraph."""
        return " ".join(part for part in (self.reason, self.since, self.next_step) if part)


_PAST_TENSE = {
    "can be": "could be",
    "cannot be": "could not be",
    "has no": "had no",
    "is": "was",
    "announces that it is": "announced that it was",
}
"""By how a title begins."""


def past_title(title: str, seen_at: float, now: float) -> str:
    """Return a title in the past tense, for a stale snapshot: its main clause, and how long ago it was seen so."""
    clause = re.split("[,:]", title)[0].removesuffix(" now")
    present = next(verb for verb in _PAST_TENSE if clause.startswith(f"{verb} "))
    then = _PAST_TENSE[present] + clause.removeprefix(present)
    return f"{then} when it was last seen, {words.ago(seen_at, now)}"
