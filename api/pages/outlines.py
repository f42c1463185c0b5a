"""This module reads the outlines of countries from an installed package's SVG, and drops points to make them smaller.

`pygal_maps_world` (none of whose code is imported) has a world map in the Robinson projection: a group per country, its
ISO 3166 code as class, its paths in relative commands.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

VIEW_BOX = "-30 61 2754 1190"
"""The map without Antarctica."""
MIN_STEP = 5.0
"""Units from one point to the next: a pixel or two."""
MIN_PART = 14.0
"""Width and height together of what is drawn of a country."""
_NUMBERS_OF = {"m": 2, "l": 2, "h": 1, "v": 1, "c": 6}
_COMMAND = re.compile(r"([mlhvcz])([^mlhvcz]*)")
_NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?")
_SVG = "{http://www.w3.org/2000/svg}"

Point = tuple[float, float]


class Outline(NamedTuple):
    """A country on the map: its path, and the middle of its largest part with its width and height together."""

    path: str
    x: int
    y: int
    extent: float


@cache
def outlines() -> dict[str, Outline]:
    """Return the countries by ISO 3166 code; none where the package is not installed. It takes 0.2 s, once."""
    found = find_spec("pygal_maps_world")
    if found is None or found.origin is None:
        return {}
    countries = {}
    # It comes with the package, whose hash is locked: no stranger wrote it.
    for group in ET.parse(Path(found.origin).with_name("worldmap.svg")).iter(f"{_SVG}g"):  # noqa: S314
        code, _, kind = group.get("class", "").partition(" ")
        parts = [part for path in group.iter(f"{_SVG}path") for part in _parts(path.get("d", ""))]
        if kind.startswith("country") and code != "aq" and parts:
            countries[code.upper()] = _outline(sorted(parts, key=_extent, reverse=True))
    return countries


def _outline(parts: list[list[Point]]) -> Outline:
    """Return an outline of parts, of which the first is the largest."""
    (left, right), (top, bottom) = _bounds(parts[0])
    path = "".join(_thinned(part) for part in parts if _extent(part) >= MIN_PART)
    return Outline(path, round((left + right) / 2), round((top + bottom) / 2), _extent(parts[0]))


def _parts(path: str) -> list[list[Point]]:
    """Return the corners of each part of a path; curves are so short that their ends stand for them."""
    parts: list[list[Point]] = []
    x = y = 0.0
    for command, text in _COMMAND.findall(path):
        if command == "z":
            x, y = parts[-1][0]
            continue
        numbers = [float(number) for number in _NUMBER.findall(text)]
        width = _NUMBERS_OF[command]
        for end in range(width, len(numbers) + 1, width):
            if command != "v":
                x += numbers[end - 1] if command == "h" else numbers[end - 2]
            if command != "h":
                y += numbers[end - 1]
            if command == "m" and end == width:
                parts.append([])
            parts[-1].append((x, y))
    return parts


def _thinned(part: list[Point]) -> str:
    """Return a part as a path in whole units, without points that are close to the one before."""
    kept = [part[0]]
    for x, y in part[1:]:
        if abs(x - kept[-1][0]) + abs(y - kept[-1][1]) >= MIN_STEP:
            kept.append((x, y))
    whole = [(round(x), round(y)) for x, y in kept]
    steps = [f"{x - before_x} {y - before_y}" for (before_x, before_y), (x, y) in pairwise(whole)]
    return f"M{whole[0][0]} {whole[0][1]}l{' '.join(steps)}z".replace(" -", "-")


def _bounds(part: list[Point]) -> tuple[Point, Point]:
    xs, ys = [x for x, _ in part], [y for _, y in part]
    return (min(xs), max(xs)), (min(ys), max(ys))


def _extent(part: list[Point]) -> float:
    (left, right), (top, bottom) = _bounds(part)
    return right - left + bottom - top
