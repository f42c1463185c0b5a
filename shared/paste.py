"""This module finds peer ids and multiaddrs in pasted text, and returns them with the rest of the text.

The text is hostile: at most `MAX_READ` characters are read, in linear time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from urllib.parse import unquote

from shared.given import MAX_GIVEN
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.words import clean, cut

MAX_READ = 16_384
"""Characters of the paste that are read: some hundred log lines."""
MAX_KEPT = 2_000
"""Characters of the paste that a page shows again, to be edited."""
MAX_WORDS = 500
"""Words, ids or addresses that are examined."""

_LONG_WORD = re.compile(r"(?<![0-9A-Za-z])(?:Qm|[1bBkKfFz])[0-9A-Za-z]{43,126}(?![0-9A-Za-z])")
_MULTIADDR = re.compile(r"/(?:ip4|ip6|dns|dns4|dns6|dnsaddr)/[^\s\"'`,;<>()\[\]{}|]{1,1000}")


@dataclass(frozen=True, slots=True)
class Paste:
    """What was pasted. `text` and `rest` are printable, on one line."""

    kept: str
    """The paste, cut to `MAX_KEPT`."""
    text: str
    peers: dict[str, list[str]]
    """Peer ids in the text, each with the multiaddrs given for it, without the id."""
    addresses: list[str]
    """Multiaddrs that name no peer."""
    rest: str
    """The text without multiaddrs."""
    cut_off: bool
    """Whether the paste is longer than what was read."""


def read_paste(text: str) -> Paste:
    """Return what the text holds. Never raises, whatever the text is."""
    read = text[:MAX_READ]
    if "%" in read:
        read = unquote(read, errors="replace")
    read = clean(" ".join(read.split())).strip()
    peers, addresses = _multiaddrs(read)
    rest = _MULTIADDR.sub(" ", read).strip()
    for match in islice(_LONG_WORD.finditer(rest), MAX_WORDS):
        if (peer_id := _parsed(match[0])) is not None:
            peers.setdefault(peer_id, [])
    return Paste(cut(text, MAX_KEPT), read, peers, addresses, rest, len(text) > MAX_READ)


def _multiaddrs(text: str) -> tuple[dict[str, list[str]], list[str]]:
    """Return multiaddrs with a peer id as `{peer_id: addresses without the id}`, and a list of the others.

    The last id in a multiaddr is the peer's; the one before `p2p-circuit` is the relay's.
    """
    peers: dict[str, list[str]] = {}
    others: list[str] = []
    for match in islice(_MULTIADDR.finditer(text), MAX_WORDS):
        address = match[0].rstrip("./:")
        parts = address.split("/")
        named = [place + 1 for place, part in enumerate(parts[:-1]) if part in ("p2p", "ipfs")]
        peer_id = _parsed(parts[named[-1]]) if named else None
        if peer_id is None:
            others.append(address)
            continue
        given = peers.setdefault(peer_id, [])
        without_id = "/".join(parts[: named[-1] - 1])
        # An address that goes on after the id is incomplete (a circuit without a peer), and cannot be dialled.
        if len(parts) == named[-1] + 1 and without_id not in given and len(given) < MAX_GIVEN:
            given.append(without_id)
    return peers, others


def _parsed(word: str) -> str | None:
    try:
        return parse_peer_id(word)
    except BadPeerIdError:
        return None
