"""This module keeps DHT values as bytes: hivemind's answers are unpacked no further than to their entries.

hivemind decodes every value during its lookup. One that does not decode (bad msgpack, bad UTF-8, deep nesting, unknown
extension) ends the lookup's background task, and the lookup never returns. Here a value stays bytes until
`crawler.observe.records` decodes it, where a bad record costs one record.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import msgpack

from shared.p2p.hivemind import DictionaryDHTValue, MSGPackSerializer, ValueWithExpiration, get_dht_time

if TYPE_CHECKING:
    from collections import Counter

SubkeyValues: TypeAlias = dict[str, bytes]
"""A DHT dictionary: subkey (a peer id or a DHT prefix, not yet validated) -> packed value."""

_DICTIONARY_CODE = 0x50
_EXT_TYPE_BYTE = {0xC7: 2, 0xC8: 3, 0xC9: 5, 0xD4: 1, 0xD5: 1, 0xD6: 1, 0xD7: 1, 0xD8: 1}
"""msgpack's extension headers: first byte -> index of the type code."""

MAX_SUBKEY_BYTES = 512


class RawValues:
    """Stands in for `MSGPackSerializer` inside hivemind's DHT protocol."""

    def __init__(self, refused: Counter[str]) -> None:
        self._refused = refused

    def dumps(self, value: Any) -> bytes:
        packed: bytes = MSGPackSerializer.dumps(value)
        return packed

    def loads(self, data: bytes) -> Any:
        """Return a dictionary's entries for a packed dictionary, and any other value as the bytes it is."""
        if not _is_dictionary(data):
            return data
        try:
            return self._unpack_dictionary(data)
        except Exception:  # noqa: BLE001 - hostile bytes fail in many ways; none may leave this function
            self._refused["undecodable_dictionary"] += 1
            return data

    def _unpack_dictionary(self, data: bytes) -> DictionaryDHTValue:
        body = msgpack.unpackb(data, ext_hook=msgpack.ExtType).data
        # raw: keys stay bytes, so that one of bad UTF-8 costs one entry; nested extensions stay opaque.
        _, _, entries = msgpack.unpackb(body, raw=True, strict_map_key=False, ext_hook=msgpack.ExtType)
        dictionary = _RawDictionary()
        for entry in entries:
            reason = _store(dictionary, entry)
            if reason is not None:
                self._refused[reason] += 1
        return dictionary


class _RawDictionary(DictionaryDHTValue):  # type: ignore[misc]
    """The latest entry of each subkey of those that have not expired: hivemind's, without what it needs to be kept.

    A crawl reads each record of a large swarm from several nodes, and throws all of it away a moment later.
    """

    def __init__(self) -> None:
        super().__init__()
        self._began = get_dht_time()

    def store(self, key: str, value: bytes, expiration_time: float) -> bool:
        known = self.data.get(key)
        if expiration_time < self._began or (known is not None and known.expiration_time >= expiration_time):
            return False
        self.data[key] = ValueWithExpiration(value, expiration_time)
        return True


def _is_dictionary(data: bytes) -> bool:
    place = _EXT_TYPE_BYTE.get(data[0]) if data else None
    return place is not None and len(data) > place and data[place] == _DICTIONARY_CODE


def _store(dictionary: DictionaryDHTValue, entry: Any) -> str | None:
    """Store one [key, value, expiration] and return None, or the reason for refusing it."""
    try:
        key, value, expiration = entry
    except (TypeError, ValueError):
        return "malformed_entry"
    if not isinstance(key, bytes) or len(key) > MAX_SUBKEY_BYTES:
        return "bad_subkey"
    if not isinstance(value, bytes):
        return "malformed_entry"
    if not isinstance(expiration, int | float) or math.isnan(expiration):
        return "bad_expiration"
    try:
        subkey = key.decode()
    except UnicodeDecodeError:
        return "bad_subkey"
    dictionary.store(subkey, value, expiration)
    return None
