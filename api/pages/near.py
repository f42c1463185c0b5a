"""What a reader may have meant by a name that is not there: (text, href) pairs for `Pages.problem`."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from api.pages import text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.snapshot import Snapshot

MAX_MATCHES = 5
MAX_COMPARED = 500
"""Names that are compared letter by letter: difflib takes about 20 µs for each."""


def near_models(snapshot: Snapshot | None, wanted: str) -> list[tuple[str, str]]:
    """Models whose DHT prefix or name is like `wanted`, best first."""
    if snapshot is None:
        return []
    names = {name: model.dht_prefix for model in snapshot.models for name in (model.name, model.dht_prefix)}
    found = dict.fromkeys(names[name] for name in _near(names, wanted))
    return [(text.cut(prefix, 60), text.model_href(prefix)) for prefix in found]


def near_servers(snapshot: Snapshot | None, wanted: str) -> list[tuple[str, str]]:
    """Servers whose peer id contains `wanted` (the six last characters are enough) or is like it."""
    if snapshot is None:
        return []
    ids = dict.fromkeys(server.peer_id for model in snapshot.models for server in model.servers)
    return [(text.cut(peer_id, 60), text.server_href(peer_id)) for peer_id in _near(ids, wanted)]


def _near(names: Iterable[str], wanted: str) -> list[str]:
    needle = wanted.strip(" .…").lower()[:128]
    if not needle:
        return []
    listed = list(names)
    contained = [name for name in listed if needle in name.lower()]
    if contained:
        return contained[:MAX_MATCHES]
    lower = {name.lower(): name for name in listed[:MAX_COMPARED]}
    return [lower[name] for name in get_close_matches(needle, lower, MAX_MATCHES, 0.6)]
