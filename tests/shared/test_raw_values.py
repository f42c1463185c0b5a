"""What several nodes answer about one key becomes one dictionary, whatever some of them answer."""

import math
import time
from collections import Counter

import msgpack
import pytest

from shared.p2p.dht_reader import _Key
from shared.p2p.raw_values import MAX_SUBKEY_BYTES, MergedDictionary, PackedDictionary

LATER = 4e9


def answer(*entries, code=0x50):
    """As a node packs [subkey, value, expiration] of each entry."""
    return PackedDictionary(msgpack.packb(msgpack.ExtType(code, msgpack.packb([math.inf, LATER + 60, entries]))))


def test_the_latest_value_of_each_subkey_is_kept():
    """Whichever node answers first; each answer tells only what is new in it."""
    merged = MergedDictionary(Counter())
    assert merged.add(answer(("a", b"1", LATER + 60), ("b", b"1", LATER + 70))) == {"a": b"1", "b": b"1"}
    assert merged.add(answer(("a", b"1", LATER + 60), ("b", b"0", LATER + 65), ("e", b"1", LATER + 60))) == {"e": b"1"}
    assert merged.add(answer(("a", b"2", LATER + 61), ("c", b"1", LATER + 60), ("d", b"1", time.time() - 1))) == {
        "a": b"2",
        "c": b"1",
    }
    assert merged.values() == {"a": b"2", "b": b"1", "c": b"1", "e": b"1"}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ((b"\xff", b"", LATER + 60), "bad_subkey"),
        (("x" * (MAX_SUBKEY_BYTES + 1), b"", LATER + 60), "bad_subkey"),
        ((7, b"", LATER + 60), "bad_subkey"),
        (([], b"", LATER + 60), "malformed_entry"),
        (("x", ["no bytes"], LATER + 60), "malformed_entry"),
        (("x", b""), "malformed_entry"),
        (7, "malformed_entry"),
        ({7: b"a map"}, "malformed_entry"),
        (msgpack.ExtType(0x50, b"\xc1"), "malformed_entry"),
        (("x", b"", math.nan), "bad_expiration"),
        (("x", b"", "soon"), "bad_expiration"),
        (("good", b"", "soon"), "malformed_entry"),
    ],
)
def test_a_bad_entry_costs_one_entry(entry, reason):
    refused = Counter()
    merged = MergedDictionary(refused)
    merged.add(answer(("good", b"1", LATER + 60)))
    assert merged.add(answer(entry, ("other", b"1", LATER + 60))) == {"other": b"1"}
    assert (merged.values().keys(), refused) == ({"good", "other"}, {reason: 1})
    merged.add(answer(entry))
    assert refused == {reason: 2}


def test_no_map_of_a_stranger_is_built():
    """Its keys could all have one hash, and take hours; keys without a hash show that nobody looks."""
    entries = [msgpack.Packer().pack_map_pairs([([], 1)]), msgpack.packb(("other", b"1", LATER + 60))]
    body = b"\x93" + msgpack.packb(math.inf) + msgpack.packb(LATER + 60) + b"\x92" + b"".join(entries)
    refused = Counter()
    packed = PackedDictionary(msgpack.packb(msgpack.ExtType(0x50, body)))
    assert MergedDictionary(refused).add(packed) == {"other": b"1"}
    assert refused == {"malformed_entry": 1}


def test_an_answer_of_entries_too_short_to_be_any_is_no_dictionary():
    """Four million took a minute to look at; as many as there is room for are read."""
    refused = Counter()
    assert MergedDictionary(refused).add(answer(*[0] * 1000)) is None
    assert refused == {"undecodable_dictionary": 1}
    least = [(f"{number:x}", b"", int(LATER) + 60) for number in range(1000)]
    assert len(MergedDictionary(refused).add(answer(*least))) == 1000


def test_the_longest_subkey():
    name = "x" * MAX_SUBKEY_BYTES
    assert MergedDictionary(Counter()).add(answer((name, b"1", LATER + 60))) == {name: b"1"}


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x01", answer(code=7).data, msgpack.packb(msgpack.ExtType(0x50, b"\x01"))]
)
def test_what_is_no_dictionary_is_counted(data):
    refused = Counter()
    for times in (1, 2):
        assert MergedDictionary(refused).add(PackedDictionary(data)) is None
        assert refused == {"undecodable_dictionary": times}


def test_one_node_cannot_hide_what_another_holds():
    """By an answer that is no dictionary, nor by one about something else."""
    told = []
    key = _Key(Counter(), told.append)
    key.add(b"a plain value")
    key.add(PackedDictionary(b"\xc1"))
    assert (key.is_known, key.values) == (True, None)
    key.lost = True
    assert not key.is_known
    key.add(answer(("a", b"1", LATER + 60)))
    key.add(None)
    assert (key.is_known, key.values, told) == (True, {"a": b"1"}, [{"a": b"1"}])
