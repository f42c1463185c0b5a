"""This module makes Jinja environments for the pages' templates, and the addresses of the files that pages load."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES_DIR = Path(__file__).resolve().parent / "templates"
STATIC_DIR = TEMPLATES_DIR.parent / "static"


def environment() -> Environment:
    """Return an environment that escapes everything, the picture's markup too, and refuses undefined names."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES_DIR),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def static_href(name: str) -> str:
    """Return a file's address, with its fingerprint: a page never runs with the file of another version of itself."""
    return f"/static/{name}?v={hashlib.sha256((STATIC_DIR / name).read_bytes()).hexdigest()[:10]}"
