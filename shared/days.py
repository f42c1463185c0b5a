"""This module divides time into days and weeks of UTC. Weeks are named as by ISO 8601: `2026-W48`, from Monday on."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

_NAME = re.compile(r"(\d{4})-W(\d{2})", re.ASCII)
DAYS = 7


class Week(NamedTuple):
    """A week by its Monday."""

    monday: date

    @property
    def name(self) -> str:
        year, number, _ = self.monday.isocalendar()
        return f"{year:04}-W{number:02}"

    @property
    def start(self) -> int:
        """Unix seconds."""
        return start_of(self.monday)

    @property
    def end(self) -> int:
        """Unix seconds of the next week's start."""
        return start_of(self.monday + timedelta(days=DAYS))

    def before(self, weeks: int = 1) -> Week:
        return Week(self.monday - timedelta(days=DAYS * weeks))


def week_of(seconds: float) -> Week:
    """Return the week of a time in Unix seconds."""
    day = day_of(seconds)
    return Week(day - timedelta(days=day.weekday()))


def parse_week(name: str) -> Week | None:
    """Return the week of a name; None for what names none."""
    found = _NAME.fullmatch(name)
    try:
        return Week(date.fromisocalendar(int(found[1]), int(found[2]), 1)) if found else None
    except ValueError:  # a year without a week 53
        return None


def day_of(seconds: float) -> date:
    """Return the day of a time in Unix seconds."""
    return datetime.fromtimestamp(seconds, UTC).date()


def start_of(day: date) -> int:
    """Return the first second of a day, in Unix seconds."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
