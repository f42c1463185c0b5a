"""This module computes the geometry of charts (uptime bars, lines over time): pure functions for the templates."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from shared import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

HOUR = 3600
NEARLY_ALL = 0.95
"""Of a window: where so much of it was watched, its uptime is said of the whole."""
BAR_GAP = 0.18
"""Of a bar's place, what stays empty."""
_ROUND = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


class Window(NamedTuple):
    """A stretch of time up to now, as a row of bars; `name` is that of its uptime."""

    title: str
    name: str
    hours: int
    hours_a_bar: int


WINDOWS = (Window("24 hours", "24h", 24, 1), Window("7 days", "7d", 168, 4), Window("30 days", "30d", 720, 24))
YEAR = Window("year", "1y", 52 * 168, 168)


class Span(NamedTuple):
    """How much time a line shows, in steps; every `mark` seconds the time is written, in this `form`."""

    name: str
    seconds: int
    step: int
    mark: int
    form: str


DAY_SPAN = Span("24 hours", 86400, 600, 6 * HOUR, "%H:%M")
WEEK_SPAN = Span("7 days", 7 * 86400, HOUR, 2 * 86400, "%d %b")
MONTH_SPAN = Span("30 days", 30 * 86400, 4 * HOUR, 7 * 86400, "%d %b")
YEAR_SPAN = Span("year", 366 * 86400, 2 * 86400, 61 * 86400, "%d %b")


@dataclass(frozen=True, slots=True)
class Bar:
    """One stretch of time. `kind` is up, partly, down or gap; lengths are in percent, from the top left."""

    kind: str
    x: str
    width: str
    y: str
    height: str
    title: str


@dataclass(frozen=True, slots=True)
class Bars:
    title: str
    percent: str
    label: str
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[str, str], ...]
    """(x, text)."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line and the area under it, in a box of 1000 x 100; where there are gaps, it is broken."""

    title: str
    unit: str
    label: str
    line: str
    area: str
    top: str
    """The value at the upper edge."""
    middle: str
    ticks: tuple[tuple[str, str], ...]


def uptime_bars(
    hours: Mapping[int, tuple[int, int]],
    now: float,
    uptimes: Mapping[str, float | None],
    watched: Mapping[str, float],
) -> list[Bars]:
    """Draw `{hour: (crawls, good)}` (hours since 1970) as a row of bars for each window, up to the hour of now.

    `watched` are the seconds of each window of which its uptime is a share. A window of which no more was watched than
    of the shorter one before it would say the same again, and is left out.
    """
    current = int(now // HOUR)
    seconds = {window: watched.get(window.name, 0.0) for window in WINDOWS}
    telling = [WINDOWS[0], *(longer for shorter, longer in pairwise(WINDOWS) if seconds[longer] > seconds[shorter])]
    return [
        _row(hours, current, window, uptime_words(uptimes.get(window.name), seconds[window], window))
        for window in telling
    ]


def year_bars(days: Mapping[int, tuple[int, int]], now: float, uptime: float | None, watched: float) -> Bars:
    """Draw `{day: (crawls, good)}` (days since 1970) as a bar per week, up to the day of now; `watched` in seconds."""
    last_hour = int(now // DAY_SPAN.seconds) * 24 + 23
    shown = uptime_words(uptime, watched, YEAR)
    return _row({day * 24: counts for day, counts in days.items()}, last_hour, YEAR, shown)


def share_bars(hours: Mapping[int, tuple[int, int]], now: float, windows: Sequence[Window]) -> list[Bars]:
    """Draw `{hour: (checks, good)}` (hours since 1970) as bars with the share of good ones, a row per window."""
    current, rows = int(now // HOUR), []
    for window in windows:
        checks, good = _summed(counts for hour, counts in hours.items() if hour > current - window.hours)
        rows.append(_row(hours, current, window, percent(good / checks) if checks else "no data"))
    return rows


def uptime_words(uptime: float | None, watched: float, window: Window) -> str:
    """`99.9 %`; where less than the window was watched (seconds), `100 % of the 15 minutes watched`."""
    if uptime is None:
        return "no data"
    if watched >= NEARLY_ALL * window.hours * HOUR:
        return percent(uptime)
    return f"{percent(uptime)} of the {words.duration(watched).removeprefix('1 ')} watched"


def _summed(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the sums of `(crawls or checks, good ones)`."""
    pairs = list(counts)
    return sum(total for total, _ in pairs), sum(good for _, good in pairs)


def _row(hours: Mapping[int, tuple[int, int]], current: int, window: Window, shown: str) -> Bars:
    title, span, each = window.title, window.hours, window.hours_a_bar
    count = span // each
    place = 100 / count
    bars, gaps = [], 0
    for number in range(count):
        first = current - span + 1 + number * each
        total, good = _summed(hours[hour] for hour in range(first, first + each) if hour in hours)
        when = f"{words.utc(first * HOUR):%d %b %H:%M} UTC" + (f", {words.count(each, 'hour')}" if each > 1 else "")
        x, width = f"{number * place + place * BAR_GAP / 2:.3f}%", f"{place * (1 - BAR_GAP):.3f}%"
        if not total:
            gaps += 1
            bars.append(Bar("gap", x, width, "0", "100%", f"{when}: no data"))
            continue
        share = min(good / total, 1.0)
        # The share that was down is at the top, at least 12 % high so that it can be seen; the rest is below it.
        down = 0.0 if share >= 1 else max(12.0, 100 * (1 - share))
        kind = "up" if share >= 1 else "down" if share <= 0 else "partly"
        bars.append(Bar(kind, x, width, f"{down:.1f}%", f"{100 - down:.1f}%", f"{when}: {percent(share)}"))
    known = count - gaps
    label = f"Last {title}: {shown}." + (f" No data for {gaps} of {count} bars." if gaps and known else "")
    ticks = (("0%", f"{title} ago"), ("100%", "now"))
    return Bars(f"Last {title}", shown, label, tuple(bars), ticks)


def percent(share: float) -> str:
    """`99.9 %`; `100 %` and `0 %` only for exactly 1 and 0."""
    if share in (0, 1):
        return f"{share * 100:.0f} %"
    return f"{min(max(share * 100, 0.1), 99.9):.1f} %"


def line_chart(
    points: Iterable[tuple[float, float]], *, title: str, unit: str, now: float, span: Span = DAY_SPAN
) -> Line | None:
    """Draw (time, value) points, in order, of the span up to now; None without any.

    Values of one step are averaged; a step without any breaks the line.
    """
    step = span.step
    end = now // step * step + step
    start = end - span.seconds
    buckets: dict[int, list[float]] = {}
    for time, value in points:
        if start <= time < end:
            buckets.setdefault(int((time - start) // step), []).append(value)
    if not buckets:
        return None
    means = {number: sum(values) / len(values) for number, values in buckets.items()}
    top = _round_up(max(means.values()))
    width = 1000 * step / (end - start)
    runs: list[list[tuple[float, float]]] = []
    for number in sorted(means):
        if number - 1 not in means:
            runs.append([])
        runs[-1].append((number * width, 100 - 100 * means[number] / top))
    values = list(means.values())
    last = means[max(means)]
    label = (
        f"{title}, last {span.name}: at least {words.number(min(values))}, at most {words.number(max(values))}, "
        f"{words.number(last)} {unit} at the end."
    )
    return Line(
        title=title,
        unit=unit,
        label=label,
        line="".join(_path(run, width) for run in runs),
        area="".join(f"{_path(run, width)}V100H{run[0][0]:.1f}Z" for run in runs),
        top=words.number(top),
        middle=words.number(top / 2),
        ticks=_time_ticks(start, end, span),
    )


def _path(run: Sequence[tuple[float, float]], width: float) -> str:
    """Return an SVG path with a step per value: a value holds until the next one."""
    first_x, first_y = run[0]
    steps = "".join(f"H{x:.1f}V{y:.1f}" for x, y in run[1:])
    return f"M{first_x:.1f} {first_y:.1f}{steps}H{run[-1][0] + width:.1f}"


def _time_ticks(start: float, end: float, span: Span) -> tuple[tuple[str, str], ...]:
    first = int(start // span.mark + 1) * span.mark
    marks = [
        (f"{100 * (time - start) / (end - start):.2f}%", words.utc(time).strftime(span.form))
        for time in range(first, int(end), span.mark)
    ]
    return tuple(marks)


def _round_up(value: float) -> float:
    """The next number at which an axis may end well."""
    if value <= 0:
        return 1.0
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next(step * power for step in _ROUND if step * power >= value or step == _ROUND[-1])
