"""This module unpacks dictionaries of the DHT no further than to their entries, and merges those of several nodes.

hivemind decodes every value during its lookup. One that does not decode (bad msgpack, bad UTF-8, deep nesting, unknown
extension) ends the lookup's background task, and the lookup never returns. Here a value stays bytes until
`crawler.observe.records` decodes it, where a bad record costs one record.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgpack

from shared.p2p.hivemind import get_dht_time

if TYPE_CHECKING:
    from collections import Counter

SubkeyValues: TypeAlias = dict[str, bytes]
"""A DHT dictionary: subkey (a peer id or a DHT prefix, not yet validated) -> packed value."""

_DICTIONARY_CODE = 0x50
MAX_SUBKEY_BYTES = 512
MIN_ENTRY_BYTES = 8
"""A valid entry takes as much: a list of a name, bytes and a time. Of others there is room for four million in one
answer, which took a minute to look at."""


class PackedDictionary(NamedTuple):
    """A dictionary as a node answered it."""

    data: bytes


class LeavesPacked:
    """Stands in for `MSGPackSerializer` inside the DHT protocol of a client, which unpacks nothing but dictionaries."""

    loads = PackedDictionary


class MergedDictionary:
    """The latest entry of each subkey in all nodes' answers about one key, of those that have not expired.

    Up to twenty nodes answer, most of them the same: an entry that is known costs a comparison.
    """

    def __init__(self, refused: Counter[str]) -> None:
        """`refused` counts dictionaries and entries that are refused, by reason."""
        self._refused = refused
        self._latest: dict[bytes, tuple[bytes, float]] = {}

    def add(self, dictionary: PackedDictionary) -> SubkeyValues | None:
        """Add one node's answer. Return the values that are new in it, or None where it is not a dictionary."""
        try:
            entries = _entries(dictionary.data)
        except Exception:  # noqa: BLE001 - hostile bytes fail in many ways; none may leave this function
            self._refused["undecodable_dictionary"] += 1
            return None
        now = get_dht_time()
        new: SubkeyValues = {}
        for entry in entries:
            try:
                subkey, value, expiration = entry
                known = self._latest.get(subkey)
                if known is not None and known[1] >= expiration:
                    continue
                reason = _refusal(subkey, value, expiration)
            except (TypeError, ValueError):  # not three; a subkey without a hash; an expiration that is not a number
                reason = "malformed_entry"
            if reason is not None:
                self._refused[reason] += 1
            elif expiration >= now:
                self._latest[subkey] = value, expiration
                new[subkey.decode()] = value
        return new

    def values(self) -> SubkeyValues:
        """Return the values of all nodes' answers so far."""
        return {subkey.decode(): value for subkey, (value, _) in self._latest.items()}


def _entries(packed: bytes) -> list[Any]:
    """Return the [subkey, value, expiration] of a dictionary, of whatever types they are. Raises anything."""
    code, body = msgpack.unpackb(packed)
    if code != _DICTIONARY_CODE:
        raise ValueError
    # raw: subkeys stay bytes, so that one of bad UTF-8 costs one entry; nested extensions stay opaque. No entry has a
    # map in it, and none is built: a stranger can choose any number of keys with one hash.
    _, _, entries = msgpack.unpackb(body, raw=True, strict_map_key=False, object_pairs_hook=lambda _: None)
    if len(entries) * MIN_ENTRY_BYTES > len(body):
        raise ValueError
    return list(entries)


def _refusal(subkey: Any, value: Any, expiration: Any) -> str | None:
    """Return the reason for refusing an entry, or None."""
    if not isinstance(subkey, bytes) or len(subkey) > MAX_SUBKEY_BYTES:
        return "bad_subkey"
    if not isinstance(value, bytes):
        return "malformed_entry"
    if not isinstance(expiration, int | float) or math.isnan(expiration):
        return "bad_expiration"
    try:
        subkey.decode()
    except UnicodeDecodeError:
        return "bad_subkey"
    return None
