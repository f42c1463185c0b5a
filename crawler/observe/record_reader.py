"""This module caps how many DHT records are parsed per crawl, and counts those that are refused."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from crawler.observe.records import RefusedError, ServerRecord, check_peer_id, read_server
from crawler.text import clean_text
from shared.snapshot import Refusals

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MAX_RECORDS = 20_000
"""Distinct records parsed per crawl. A server has one, or two while it renews them, stored under each of its blocks."""
MAX_BYTES = 20 * 1024**2
"""Total bytes of these. With `MAX_RECORDS` it keeps the worst snapshot under `shared.snapshot.MAX_ENCODED_BYTES`."""
STRANGERS_SHARE = 0.5
"""Share of both limits for peers that the last crawl did not reach, so that a flood cannot displace those it did."""
MAX_EXAMPLES = 10
MAX_EXAMPLE_CHARS = 200


class RecordReader:
    """Parses each distinct record once. Create one per crawl."""

    def __init__(self, known: Collection[str]) -> None:
        self.known = known
        """Peer ids that the last crawl reached."""
        self._read: dict[tuple[str, str, bytes], tuple[str, ServerRecord] | RefusedError] = {}
        self._bytes = 0
        self._refused: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def read(self, dht_prefix: str, subkey: str, packed: bytes) -> tuple[str, ServerRecord]:
        """Return the peer id and its record. Raises `RefusedError`, and leaves counting it to the caller."""
        result = self._read.get((dht_prefix, subkey, packed))
        if result is None:
            share = 1.0 if subkey in self.known else STRANGERS_SHARE
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

    def refuse(self, reason: str, where: str) -> None:
        """Count a record as refused. `where` is its DHT key and subkey; the first of each reason is kept as example."""
        self._refused[reason] += 1
        if reason not in self._examples and len(self._examples) < MAX_EXAMPLES:
            self._examples[reason] = clean_text(where, MAX_EXAMPLE_CHARS)

    def refusals(self, others: Mapping[str, int]) -> Refusals:
        """Return what was refused here together with `others` (counts by reason), most frequent reason first."""
        return Refusals(dict((self._refused + Counter(others)).most_common()), dict(self._examples))
