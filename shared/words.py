"""This module writes amounts as people read them: counts, durations, units, block ranges, shares.

The text picture, the command lines and the pages share it, so that each is written in one way. Ranges of blocks include
both ends ("37–40"), unlike the half-open ranges in code.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MINUTE, HOUR, DAY = 60, 3600, 86400
_BILLION = 1e9
_MAX_UNIX_TIME = 253402300799  # the last second of year 9999, the last that datetime knows
_MANY = 10
"""From here on a number is precise enough without a digit behind the point."""


def clean(text: str) -> str:
    """Remove unprintable characters: control characters, bidi overrides, zero-width marks."""
    if text.isprintable():
        return text
    return "".join(char for char in text if char.isprintable())


def cut(text: str, limit: int) -> str:
    """Return clean text of at most `limit` characters; an ellipsis marks what was cut."""
    # Clean only as much of a long text as can be shown.
    text = clean(text[: 4 * limit + 64]).strip() if len(text) > 4 * limit + 64 else clean(text).strip()
    return text if len(text) <= limit else text[: max(0, limit - 1)].rstrip() + "…"


def plural(amount: int, noun: str, nouns: str = "") -> str:
    """Return the noun alone, in the number that fits: `server`, `servers`. `nouns` is for irregular ones."""
    return noun if amount == 1 else nouns or f"{noun}s"


def count(amount: int, noun: str, nouns: str = "") -> str:
    """`1 server`, `2,000 servers`."""
    return f"{amount:,} {plural(amount, noun, nouns)}"


def listed(names: Sequence[str], limit: int = 5, more: str = "") -> str:
    """`a`, `a and b`, `a, b and 3 more`; `more` is the noun of those left out."""
    shown = list(names[:limit])
    if (left := len(names) - limit) > 0:
        shown.append(f"{left:,} more" + (f" {plural(left, more)}" if more else ""))
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1] if shown else ""


def duration(seconds: float) -> str:
    """`7 minutes`: how long, in the largest unit that fits, cut to whole ones. Seconds that are no number are 0."""
    if not seconds > 0 or not math.isfinite(seconds):
        return count(0, "second")
    for unit, name in ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute")):
        if seconds >= unit:
            return count(int(seconds // unit), name)
    return count(int(seconds), "second")


def hours(seconds: float) -> str:
    """`13.5 hours`; less than one hour in minutes."""
    if seconds < HOUR:
        return duration(seconds)
    return f"{number(seconds / HOUR)} {'hour' if seconds == HOUR else 'hours'}"


def about(seconds: float) -> str:
    """`less than a minute`, `7 minutes`: a duration that is not known to the second."""
    return "less than a minute" if seconds < MINUTE else duration(seconds)


def ago(moment: float, now: float) -> str:
    """`7 minutes ago`, `less than a minute ago`; both are Unix seconds. The future is "just now": clocks differ."""
    return "just now" if moment > now else f"{about(now - moment)} ago"


def period(seconds: float) -> str:
    """`minute`, `90 seconds`: to follow the word "every"."""
    if math.isfinite(seconds) and seconds >= MINUTE and seconds % MINUTE:
        return count(round(seconds), "second")
    return duration(seconds).removeprefix("1 ")


def utc(seconds: float) -> datetime:
    """Return Unix seconds as a time, limited to what datetime can print."""
    return datetime.fromtimestamp(min(max(seconds, 0), _MAX_UNIX_TIME) if seconds == seconds else 0, UTC)  # noqa: PLR0124 - NaN


def utc_minute(seconds: float) -> str:
    """`2026-11-25 13:00 UTC`, of Unix seconds."""
    return f"{utc(seconds):%Y-%m-%d %H:%M} UTC"


def rfc3339(seconds: float) -> str:
    """`2026-11-25T13:00:00Z`, of Unix seconds."""
    return f"{utc(seconds):%Y-%m-%dT%H:%M:%SZ}"


def number(value: float | None) -> str:
    """`3,688`, `2.3`: small ones keep a digit; empty where nothing is known."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "∞" if value > 0 else "?"
    if abs(value) >= _BILLION:
        return f"{value:.1e}"
    digits = 0 if abs(value) >= _MANY or value == int(value) else 1
    return f"{value:,.{digits}f}"


def throughput(value: float | None) -> str:
    """`58 tokens/s`: the one unit of throughput, announced or estimated; empty where nothing is known."""
    return "" if value is None else f"{number(value)} tokens/s"


def milliseconds(seconds: float | None) -> str:
    """`12 ms`; an infinite time is a peer that did not answer; empty where nothing is known."""
    if seconds is None:
        return ""
    if not math.isfinite(seconds):
        return "no answer"
    ms = seconds * 1000
    return f"{ms:,.0f} ms" if ms >= _MANY else f"{ms:.1f} ms"


def way(relayed: bool | None) -> str:
    """`through a relay`, `directly`; empty where it is not known."""
    return {True: "through a relay", False: "directly", None: ""}[relayed]


def percent(part: float, whole: float) -> str:
    """`99.9 %`: 100 % and 0 % only where that is exact; empty where `whole` is 0."""
    if not whole > 0:
        return ""
    share = 100 * part / whole
    if 0 < share < 0.1:  # noqa: PLR2004 - the least that is told apart from none
        return "under 0.1 %"
    if 99.9 < share < 100:  # noqa: PLR2004 - the most that is told apart from all
        return "over 99.9 %"
    return f"{share:.0f} %" if share == int(share) else f"{share:.1f} %"


def block_range(start: int, end: int) -> str:
    """Return blocks `start <= block < end` with both ends counted in: `37–40`; one block is its number alone."""
    return f"{start}" if end - start == 1 else f"{start}–{end - 1}"


def blocks(spans: Sequence[tuple[int, int]], limit: int = 4) -> str:
    """`block 12`, `blocks 3–7, 12 and 40–41`: of many spans `(start, end)` the first, and how many more there are."""
    if not spans:
        return "no blocks"
    single = len(spans) == 1 and spans[0][1] - spans[0][0] == 1
    names = [block_range(start, end) for start, end in spans]
    return plural(1 if single else 2, "block") + " " + listed(names, limit, "range")


def sentence(text: str) -> str:
    """Begin with a capital letter and end with a full stop."""
    text = text.strip()
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?…" else ".")
