"""Text from the swarm made fit for a page: cut, cleaned, linked only where that is safe; numbers and times in words.

The crawler has validated all of it; here it is treated as hostile once more. Escaping is the template's work.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

MAX_NAME = 28
MAX_LINK_CHARS = 300
MAX_ERROR = 400

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_MILLION = 1e6
_MAX_UNIX_TIME = 253402300799  # the last second of year 9999, the last that datetime knows
_ADAPTER = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Shown:
    """A name as it is displayed: `text` is cut, `full` is for hovering, `href` is None unless it is http(s)."""

    text: str
    full: str
    href: str | None = None


def clean(text: str) -> str:
    """Drop what has no picture of its own: control characters, bidi overrides, zero-width marks."""
    if text.isprintable():
        return text
    return "".join(char for char in text if char.isprintable())


def cut(text: str, limit: int = MAX_NAME) -> str:
    """Return clean text of at most `limit` characters; an ellipsis marks what was cut."""
    text = clean(text).strip()
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def safe_link(url: str | None) -> str | None:
    """Return the URL if a page may link to it: http(s), a host, and no trick to hide which; else None."""
    if not url or len(url) > MAX_LINK_CHARS or not url.isprintable() or any(char in url for char in ' \\"<>'):
        return None
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc:
        return None
    return url


def shown_name(name: str, limit: int = MAX_NAME) -> Shown:
    """A public name; one that is an http(s) address becomes a link, shown without its scheme."""
    href = safe_link(name)
    label = name.split("://", 1)[1].rstrip("/") if href else name
    return Shown(cut(label, limit) or "(nameless)", clean(name), href)


def adapter(name: str) -> Shown:
    """A LoRA: its short name, linked to Hugging Face where it has the form of a repository there."""
    href = f"https://huggingface.co/{name}" if _ADAPTER.fullmatch(name) else None
    return Shown(cut(name.rpartition("/")[2] or name), clean(name), href)


def anchor(text: str) -> str:
    """An id for an element: readable, ASCII only, and as good as unique whatever the text holds."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower(), flags=re.ASCII).strip("-")[:40]
    return f"m-{slug}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:6]}"


def model_href(dht_prefix: str) -> str:
    return "/models/" + quote(dht_prefix, safe="", errors="replace")


def server_href(peer_id: str) -> str:
    return "/servers/" + quote(peer_id, safe="", errors="replace")


def check_href(peer_id: str) -> str:
    return "/check/" + quote(peer_id, safe="", errors="replace")


def number(value: float | None) -> str:
    """`3688.4` as `3,688`; small ones keep a digit; empty where nothing is known."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "∞" if value > 0 else "?"
    if abs(value) >= 1000 * _MILLION:
        return f"{value:.1e}"
    digits = 0 if abs(value) >= 10 or value == int(value) else 1  # noqa: PLR2004 - two digits are enough to compare
    return f"{value:,.{digits}f}"


def milliseconds(seconds: float | None) -> str:
    """A ping: `12 ms`; an infinite one is a peer that did not answer."""
    if seconds is None:
        return ""
    if not math.isfinite(seconds):
        return "no answer"
    ms = seconds * 1000
    return f"{ms:,.0f} ms" if ms >= 10 else f"{ms:.1f} ms"  # noqa: PLR2004


def duration(seconds: float) -> str:
    """`7 minutes`: how long, in the largest unit that fits."""
    for unit, name in ((_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute")):
        if seconds >= unit:
            return count(int(seconds // unit), name)
    return count(int(max(seconds, 0)), "second")


def period(seconds: float) -> str:
    """`minute`, `90 seconds`: what stands after "every"."""
    if seconds >= _MINUTE and seconds % _MINUTE:
        return count(round(seconds), "second")
    return duration(seconds).removeprefix("1 ")


def count(amount: int, noun: str) -> str:
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


def utc(seconds: float) -> datetime:
    """Unix seconds as a time; whatever a clock or a record says, it is one that can be printed."""
    return datetime.fromtimestamp(min(max(seconds, 0), _MAX_UNIX_TIME) if seconds == seconds else 0, UTC)  # noqa: PLR0124
