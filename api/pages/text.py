"""This module prepares text from the swarm for pages: it cuts and cleans it, and links only safe addresses.

The crawler has validated the text; here it is treated as hostile again. Templates escape it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from shared import words

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_NAME = 28
MAX_LINK_CHARS = 300
MAX_ERROR = 400

SWARM_DOCUMENTS = (("JSON", "/api/v1/state"), ("text", "/swarm.txt"), ("Prometheus metrics", "/metrics"))
INCIDENT_DOCUMENTS = (("JSON", "/api/v1/incidents"), ("Atom feed", "/incidents.atom"))
"""The page in other forms: (name, address)."""

_ADAPTER = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Shown:
    """A name as it is displayed: `text` is cut, `full` is for hovering, `href` is None unless it is http(s)."""

    text: str
    full: str
    href: str | None = None


def cut(text: str, limit: int = MAX_NAME) -> str:
    """Return clean text of at most `limit` characters; an ellipsis marks what was cut."""
    return words.cut(text, limit)


def short_id(peer_id: str) -> str:
    """Return the end of a peer id, by which pages name a peer."""
    return cut(peer_id[-6:])


def name(text: str, limit: int = MAX_NAME) -> str:
    """Return a name of at most `limit` characters; words where it has none that can be shown."""
    return cut(text, limit) or "(nameless)"


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
    return Shown(cut(label, limit) or "(nameless)", words.clean(name), href)


def adapter(name: str) -> Shown:
    """A LoRA: its short name, linked to Hugging Face where it has the form of a repository there."""
    href = f"https://huggingface.co/{name}" if _ADAPTER.fullmatch(name) else None
    return Shown(cut(name.rpartition("/")[2] or name), words.clean(name), href)


def anchor(text: str) -> str:
    """Return an element id for any text: readable ASCII, with a hash that makes it unique."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower(), flags=re.ASCII).strip("-")[:40]
    return f"m-{slug}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:6]}"


def model_href(dht_prefix: str) -> str:
    return "/models/" + quote(dht_prefix, safe="", errors="replace")


def with_history(href: str) -> tuple[tuple[str, str], ...]:
    """Return a model's or server's page in other forms: (name, address)."""
    return (("JSON", f"/api/v1{href}"), ("history as JSON", f"/api/v1/history{href}"))


def search_href(wanted: str) -> str:
    return "/search?q=" + quote(wanted, safe="", errors="replace")


def server_href(peer_id: str) -> str:
    return "/servers/" + quote(peer_id, safe="", errors="replace")


def contributor_href(name: str) -> str:
    """Return the page of a contributor. Names `.` and `..` have none: browsers remove them from a path."""
    return "/contributors/" + quote(name, safe="", errors="replace")


def check_href(peer_id: str, addresses: Sequence[str] = ()) -> str:
    """Return the page that checks a peer; `addresses` are those that were given with it, to be dialled."""
    query = "&".join("address=" + quote(address, safe="", errors="replace") for address in addresses)
    return "/check/" + quote(peer_id, safe="", errors="replace") + (f"?{query}" if query else "")
