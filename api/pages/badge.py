"""This module draws badges: a model's state, coverage, uptime, usability or speed as an SVG for a README."""

from __future__ import annotations

import unicodedata
from enum import StrEnum
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from api.pages import charts, text
from shared import words
from shared.advice.inference import seconds
from shared.inference import UsabilityState
from shared.judgement.coverage import coverage
from shared.judgement.usability import gives_tokens
from shared.snapshot import ModelState

if TYPE_CHECKING:
    from api.pages.view import View
    from shared.snapshot import ModelReport

MAX_LABEL = 40
GREEN, AMBER, RED, GREY = "#12734a", "#8a5200", "#b3261e", "#5d596f"
"""Dark enough for white letters: a contrast of 4.5 and more."""
UPTIME_WINDOW, UPTIME_HOURS = "30d", 720
GOOD_UPTIME, FAIR_UPTIME = 0.99, 0.9
_NARROW, _WIDE = frozenset("fijlrtI.,:;'|!()[] "), frozenset("mwMW@%")


class BadgeMetric(StrEnum):
    """What a badge shows: `?metric=`."""

    STATE = "state"
    COVERAGE = "coverage"
    UPTIME = "uptime"
    USABLE = "usable"
    """Whether the latest chain of inference gave tokens."""
    SPEED = "speed"
    """How long that chain took for a token."""


class Badge(NamedTuple):
    """Two labels side by side."""

    label: str
    message: str
    color: str

    def svg(self) -> str:
        """Return the SVG. Text widths are estimated, and the text is made to fit the estimate."""
        left, right = _text_width(self.label) + 12, _text_width(self.message) + 12
        total, words = left + right, escape(f"{self.label}: {self.message}")
        spans = "".join(
            f'<text x="{x}" y="14" textLength="{width - 12}" lengthAdjust="spacingAndGlyphs">{escape(part)}</text>'
            for x, width, part in (
                (left / 2, left, self.label),
                (left + right / 2, right, self.message),
            )
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="20" viewBox="0 0 {total} 20" role="img" '
            f'aria-label="{words}"><title>{words}</title>'
            f'<clipPath id="r"><rect width="{total}" height="20" rx="3"/></clipPath><g clip-path="url(#r)">'
            f'<rect width="{left}" height="20" fill="#413d52"/>'
            f'<rect x="{left}" width="{right}" height="20" fill="{self.color}"/></g>'
            f'<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="11">'
            f"{spans}</g></svg>"
        )


def model_badge(
    metric: BadgeMetric, model: ModelReport, view: View, uptime: float | None, watched: float = 0.0
) -> Badge:
    """Return a model's badge. `uptime` is a share of the seconds `watched`; None where it is not known."""
    if metric is BadgeMetric.UPTIME:
        return uptime_badge(_label(model), uptime, watched)
    if metric is BadgeMetric.STATE:
        return state_badge(model, view)
    if view.stale:
        return Badge(_label(model), "unknown", GREY)
    if metric in (BadgeMetric.USABLE, BadgeMetric.SPEED):
        return inference_badge(_label(model), model, speed=metric is BadgeMetric.SPEED)
    return coverage_badge(_label(model), model)


def state_badge(model: ModelReport, view: View) -> Badge:
    """Return the badge that says whether a model is healthy; unknown where the snapshot is stale."""
    if view.stale:
        return Badge(_label(model), "unknown", GREY)
    return Badge(_label(model), str(model.state), GREEN if model.state is ModelState.HEALTHY else RED)


UNKNOWN = Badge("petals", "unknown", GREY)
"""Of what is no model of the snapshot, or where there is none."""


def _label(model: ModelReport) -> str:
    return text.cut(model.short_name, MAX_LABEL) or "petals"


def inference_badge(label: str, model: ModelReport, *, speed: bool) -> Badge:
    """Return what the latest chain proved; unknown where nobody could look, or a server of the path has left."""
    tokens, found = gives_tokens(model), model.usability
    if tokens is None or found is None:
        return Badge(label, "not proved", GREY)
    if not tokens:
        return Badge(label, "unusable", RED)
    color = GREEN if found.state is UsabilityState.USABLE else AMBER
    if speed and found.seconds_per_token is not None:
        return Badge(label, f"{seconds(found.seconds_per_token)} per token", color)
    return Badge(label, str(found.state), color)


def coverage_badge(label: str, model: ModelReport) -> Badge:
    covered = coverage(model).covered_blocks
    color = GREEN if covered == model.num_blocks else AMBER if covered else RED
    return Badge(label, f"{covered}/{model.num_blocks} blocks", color)


def uptime_badge(label: str, uptime: float | None, watched: float) -> Badge:
    """Return the badge of an uptime; where less than 30 days were watched it says of how much it is."""
    if uptime is None:
        return Badge(label, "uptime unknown", GREY)
    color = GREEN if uptime >= GOOD_UPTIME else AMBER if uptime >= FAIR_UPTIME else RED
    of = "" if watched >= charts.NEARLY_ALL * UPTIME_HOURS * charts.HOUR else f" of {words.duration(watched)} watched"
    return Badge(label, f"uptime {percent(uptime)}{of}", color)


def percent(share: float) -> str:
    """`99.9%`; `100%` and `0%` only for exactly 1 and 0."""
    return charts.percent(share).replace(" ", "").replace(".0%", "%")


def _text_width(words: str) -> int:
    """Pixels that the words take in Verdana of 11 px, roughly."""
    width = 0.0
    for char in words:
        if unicodedata.east_asian_width(char) in "WF":
            width += 11
        elif char in _NARROW:
            width += 4.2
        elif char in _WIDE:
            width += 10
        else:
            width += 7.6 if char.isupper() else 6.7
    return round(width)
