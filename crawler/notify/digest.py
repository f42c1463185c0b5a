"""This module decides which changes operators are told about, when, and in which words: pure functions."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from shared.changes import WITHDRAWN, ChangeKind, Severity, sentence, severity, title

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from shared.changes import Change

MAX_TOLD = 20
"""Changes that a message names; of more it tells the number."""
_RANKS = list(Severity)
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)(?:\s+([\w+\-/]{1,64}))?")


class QuietHours(NamedTuple):
    """The hours of each day in which nothing is sent; it is sent at their end."""

    begin: time
    end: time
    zone: ZoneInfo

    def include(self, now: float) -> bool:
        """Whether Unix seconds are within."""
        here = datetime.fromtimestamp(now, UTC).astimezone(self.zone).time()
        if self.begin <= self.end:
            return self.begin <= here < self.end
        return here >= self.begin or here < self.end


def parse_quiet_hours(text: str) -> QuietHours:
    """Return what `22:00-07:00` or `22:00-07:00 Europe/Berlin` says, by default in UTC. Raises `ValueError`."""
    found = _HOURS.fullmatch(text.strip())
    if found is None:
        raise ValueError("expected HH:MM-HH:MM, and a time zone where it is not UTC")
    try:
        zone = ZoneInfo(found[5] or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"no time zone {found[5]!r} is known") from None
    begin, end = time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4]))
    if begin == end:
        raise ValueError("they begin and end at the same time")
    return QuietHours(begin, end, zone)


class Choice(NamedTuple):
    """The changes that operators want: of these models, servers and contributors, with at least this severity.

    Of a server that is named, or whose contributor is, `warning` is enough: none of its changes is critical.
    """

    models: str | Collection[str]
    """`official`, `all`, or DHT prefixes."""
    servers: Collection[str]
    contributors: Collection[str]
    least: Severity

    def takes(self, change: Change, official: Collection[str]) -> bool:
        """Whether to send a change. `official` are the DHT prefixes of official models."""
        if change.times & (change.times - 1):  # of a change that repeats, only the 1st, 2nd, 4th, 8th, … time is sent
            return False
        named = change.peer_id in self.servers or change.contributor in self.contributors
        least = Severity.WARNING if named and self.least is Severity.CRITICAL else self.least
        if _RANKS.index(severity(change)) < _RANKS.index(least):
            return False
        if self.models == "all":
            return True
        return named or change.dht_prefix in (official if self.models == "official" else self.models)


class Message(NamedTuple):
    """What is sent. `tone` is one of apprise's: failure, warning, info or success."""

    title: str
    body: str
    tone: str


def message(changes: Sequence[Change], monitor_url: str | None) -> Message:
    """Return one message for all of these changes (not empty), the worst first: what, since when, why, and a link."""
    ranked = sorted(changes, key=lambda change: (not change.lasts, -_RANKS.index(severity(change)), change.start))
    lines = [_paragraph(change, monitor_url) for change in ranked[:MAX_TOLD]]
    if len(ranked) > MAX_TOLD:
        lines.append(f"And {len(ranked) - MAX_TOLD:,} more.")
    name = title(ranked[0]) if len(ranked) == 1 else f"Petals: {len(ranked):,} changes, first: {title(ranked[0])}"
    return Message(name, "\n\n".join(lines), _tone(ranked[0]))


def _tone(worst: Change) -> str:
    if worst.lasts:
        return "failure" if worst.kind is ChangeKind.OUTAGE else "warning"
    if worst.state == WITHDRAWN:
        return "info"
    return "success" if worst.kind in (ChangeKind.OUTAGE, ChangeKind.DOWN, ChangeKind.NOT_COMPUTING) else "info"


def _paragraph(change: Change, monitor_url: str | None) -> str:
    link = "" if monitor_url is None else f"\n{monitor_url.rstrip('/')}{change.path}"
    return f"{title(change)}\n{sentence(change)}{link}"
