"""How much of what strangers wrote is read in one crawl: so much, however much there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crawler.observe.records import RefusedError, ServerRecord, check_peer_id, read_server

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_RECORDS = 20_000
"""Distinct records read in one crawl. A server has one, or two while it renews them; it stands under each block."""
MAX_BYTES = 20 * 1024**2
"""Bytes of these. With `MAX_RECORDS` it keeps the worst snapshot under `shared.snapshot.MAX_ENCODED_BYTES`."""
STRANGERS_SHARE = 0.5
"""What is left of both for peers that the last crawl did not reach: a flood cannot displace those that it did."""


class RecordReader:
    """Reads each distinct record once. One a crawl."""

    def __init__(self, known: Collection[str]) -> None:
        self._known = known
        self._read: dict[tuple[str, str, bytes], tuple[str, ServerRecord] | RefusedError] = {}
        self._bytes = 0

    def read(self, dht_prefix: str, subkey: str, packed: bytes) -> tuple[str, ServerRecord]:
        """Return the peer id and what it announces. Raises `RefusedError`."""
        result = self._read.get((dht_prefix, subkey, packed))
        if result is None:
            share = 1.0 if subkey in self._known else STRANGERS_SHARE
            if len(self._read) >= MAX_RECORDS * share or self._bytes + len(packed) > MAX_BYTES * share:
                raise RefusedError("too_many_records")
            self._bytes += len(packed)
            try:
                result = check_peer_id(subkey), read_server(packed)
            except RefusedError as error:
                result = error
            self._read[dht_prefix, subkey, packed] = result
        if isinstance(result, RefusedError):
            raise result
        return result
