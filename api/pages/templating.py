"""This module makes the Jinja environment of the pages, with the filters and the addresses that templates use."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from api.pages import charts, docs, text
from shared import words
from shared.advice import commands
from shared.judgement.swarm import bootstrap_state
from shared.judgement.usability import OPT_OUT

TEMPLATES_DIR = Path(__file__).resolve().parent / "templates"
STATIC_DIR = TEMPLATES_DIR.parent / "static"
_UNBROKEN = re.compile(r"(--[a-z_]+(?: [A-Z]+\b| \d[\w.:]*)?)|…\w{6}\b|\d+–\d+")


@cache
def environment() -> Environment:
    """Return the environment, with all templates read. It escapes everything, and refuses undefined names."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES_DIR),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        bootstrap_state=bootstrap_state,
        check_href=text.check_href,
        count=words.count,
        cut=text.cut,
        day=_day,
        duration=words.duration,
        iso=words.rfc3339,
        kind=docs.kind_of,
        model_href=text.model_href,
        name=text.name,
        number=words.number,
        percent=charts.percent,
        period=words.period,
        references=docs.references,
        server_href=text.server_href,
        short_id=text.short_id,
        unbroken=_unbroken,
        utc=_utc,
        utc_minute=words.utc_minute,
    )
    made.globals.update(
        opt_out=OPT_OUT, petals_docs=commands.DOCUMENTATION, static=static_href, unnamed=commands.REPOSITORY
    )
    for name in made.list_templates():
        made.get_template(name)
    return made


@cache
def static_href(name: str) -> str:
    """Return a file's address, with its fingerprint: a page never runs with the file of another version of itself."""
    return f"/static/{name}?v={hashlib.sha256((STATIC_DIR / name).read_bytes()).hexdigest()[:10]}"


def _unbroken(sentence: str) -> Markup:
    """Return a sentence as HTML in which no flag with its value, peer and range of blocks is broken between lines."""

    def kept(found: re.Match[str]) -> str:
        tag = "code" if found[1] else "span"
        return f'<{tag} class="nowrap">{found[0]}</{tag}>'

    return Markup(_UNBROKEN.sub(kept, str(escape(sentence))))  # noqa: S704 - escaped


def _day(seconds: float) -> str:
    return f"{words.utc(seconds):%-d %B %Y}"


def _utc(seconds: float) -> str:
    return f"{words.utc(seconds):%Y-%m-%d %H:%M:%S} UTC"
