"""This module prepares what other sites show of the swarm: pictures and cards with its state and their time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import resvg_py

from api.pages import text
from api.pages.banner import headline
from api.pages.cards import Card, make_card
from shared import words
from shared.advice.models import model_advice

if TYPE_CHECKING:
    from api.pages.view import View
    from shared.snapshot import ModelReport

STRIP_WIDTH = 1040
MAX_RUNS = 300
"""Stretches of blocks that a picture draws."""
MAX_LINE = 62
"""Characters of a line of a picture."""
_FAMILY = "Lato"


@dataclass(frozen=True, slots=True)
class Picture:
    """What a picture says."""

    tone: str
    name: str
    state: str
    words: list[str]
    strip: list[tuple[float, float, str]]
    """(x, width, level) of each stretch of blocks, in pixels."""
    as_of: str


def swarm_picture(view: View) -> Picture:
    """Return the picture of the whole swarm."""
    found = headline(view)
    return Picture(found.tone, "Petals swarm", found.title, _lines(found.text), [], _as_of(view))


def model_picture(view: View, card: Card) -> Picture:
    """Return the picture of a model."""
    advice = card.judged.advice
    parts = card.strip.parts[:MAX_RUNS]
    strip = [
        (float(part.x.rstrip("%")) / 100 * STRIP_WIDTH, float(part.width.rstrip("%")) / 100 * STRIP_WIDTH, part.level)
        for part in parts
    ]
    return Picture(advice.tone, card.short_name, advice.title, [_counted(card)], strip, _as_of(view))


def model_card(view: View, model: ModelReport) -> Card:
    """Return a model without its servers: judged once, for all that is shown of it elsewhere."""
    snapshot = view.snapshot
    assert snapshot is not None  # noqa: S101 - the model is of it
    judged = model_advice(model, snapshot, view.now, stale=view.stale)
    return make_card(model, judged, max_rows=0, stale=view.stale)


def model_description(view: View, card: Card) -> str:
    """Return a model's state at that time, in a sentence or two."""
    return f"{card.name}: {card.judged.advice.title}. {counted(view, card)}"


def counted(view: View, card: Card) -> str:
    """Return a model's blocks and servers at that time."""
    return f"{_counted(card)} {_as_of(view)}."


def swarm_description(view: View) -> str:
    """Return the swarm's state at that time, in a few sentences."""
    found = headline(view)
    return f"{found.title}. {found.text} {_as_of(view)}".strip()


def png(svg: str) -> bytes:
    """Return the picture as PNG. Nothing but the markup and the packaged font is read."""
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg, skip_system_fonts=True, font_files=_fonts(), font_family=_FAMILY, sans_serif_family=_FAMILY
        )
    )


def snippets(base: str, dht_prefix: str, name: str) -> list[tuple[str, str]]:
    """Return (title, code) of what shows a model elsewhere: badges in Markdown, HTML and for Discord, and the card."""
    prefix = quote(dht_prefix, safe="")
    page, badge, card = f"{base}/models/{prefix}", f"{base}/badge/{prefix}.svg", f"{base}/embed/models/{prefix}"
    label = "".join(char for char in text.cut(name, 60) if char not in '[]()<>"&`*_\\') or "model"
    return [
        ("Markdown", f"[![{label}]({badge})]({page})"),
        ("HTML", f'<a href="{page}"><img src="{badge}" alt="{label}"></a>'),
        ("Discord", f"**{label}**: {page}"),
        ("Card", f'<iframe src="{card}" title="{label}" width="420" height="190" loading="lazy"></iframe>'),
    ]


@cache
def _fonts() -> list[str]:
    # The package's own module imports what newer versions of setuptools do not bring: its files are enough.
    found = find_spec("font_lato")
    folder = Path(found.origin).parent / "files" if found is not None and found.origin is not None else Path()
    return [str(folder / f"Lato-{weight}.ttf") for weight in ("Regular", "Bold")]


def _counted(card: Card) -> str:
    blocks = words.count(card.model.num_blocks, "block")
    return f"{card.covered} of {blocks} served, {words.count(card.num_online, 'server')} online."


def _as_of(view: View) -> str:
    return "" if view.snapshot is None else f"As of {words.utc_minute(view.snapshot.taken_at)}"


def _lines(sentences: str) -> list[str]:
    """Break text into at most three lines of `MAX_LINE` characters."""
    lines = [""]
    for word in sentences.split():
        if len(lines[-1]) + len(word) >= MAX_LINE:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return [text.cut(line, MAX_LINE) for line in lines[:3]]
