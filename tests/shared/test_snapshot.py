import math

import msgspec
import pytest
from backports import zstd

from shared.snapshot import (
    MAX_ENCODED_BYTES,
    SCHEMA_VERSION,
    PeerState,
    Refusals,
    Span,
    UnknownSchemaError,
    decode,
    encode,
)
from tests.fakes import model, server, snapshot


def test_a_snapshot_survives_the_wire():
    """What a crawler publishes is what an api reads, infinite pings included."""
    original = snapshot(model(servers=(server(1, 0, 8, next_pings={"QmX": math.inf, "QmY": 0.01}),)))
    assert decode(encode(original)) == original


def test_another_schema_is_refused_loudly():
    """A document that would be misread is never shown."""
    with pytest.raises(UnknownSchemaError, match="99"):
        decode(encode(snapshot(schema=99)))


def test_a_later_field_does_not_break_an_older_reader():
    """During a rolling upgrade an old api reads what a new crawler writes."""
    document = msgspec.msgpack.decode(zstd.decompress(encode(snapshot())))
    document["invented_later"] = {"deep": [1, 2]}
    packed = zstd.compress(msgspec.msgpack.encode(document))
    assert decode(packed).num_servers == 1


@pytest.mark.parametrize("data", [b"", b"junk", zstd.compress(b"\xc1"), zstd.compress(b"\x90")])
def test_junk_is_no_snapshot(data):
    """Whatever stands in Redis, reading it ends in one known error."""
    with pytest.raises(ValueError, match="not a snapshot"):
        decode(data)


def test_redundancy_counts_only_online_servers():
    """Joining, offline and unreachable servers hold no block for a client."""
    report = model(
        blocks=4,
        servers=(
            server(1, 0, 3),
            server(2, 1, 2),
            server(3, 0, 4, PeerState.UNREACHABLE),
            server(4, 0, 4, PeerState.JOINING),
            server(5, 0, 4, PeerState.OFFLINE),
        ),
    )
    assert report.redundancy() == [1, 2, 1, 0]


def test_age_is_never_negative():
    """A reader whose clock is behind shows a new snapshot, not one from the future."""
    assert snapshot(taken_at=100.0).age(now=50.0) == 0.0
    assert snapshot(taken_at=100.0).age(now=107.5) == 7.5


def test_redundancy_has_an_entry_for_each_block():
    """Also where nobody holds any, and to the last block."""
    assert model(blocks=3).redundancy() == [0, 0, 0]
    assert model(blocks=3, servers=(server(1, 2, 3), server(2, 0, 3), server(3, 0, 1))).redundancy() == [2, 1, 2]


def test_a_peer_counts_once_in_however_many_models():
    one, two = server(1, 0, 8, conflict="other"), server(2, 0, 8)
    both = snapshot(model("a", servers=(one, two)), model("b", servers=(one,)))
    assert (both.num_servers, both.num_conflicts) == (2, 1)


def test_refusals_add_up():
    assert Refusals({"bad_span": 4, "undecodable": 3}).total == 7
    assert Refusals().total == 0


def test_cache_of_a_server_that_tells_none_is_unknown():
    assert server(1, 0, 8).cache_tokens_left_per_block is None
    assert server(1, 0, 8, cache_tokens_left=160).cache_tokens_left_per_block == 10


def test_a_span_has_a_length():
    assert Span(3, 8).length == 5


def test_a_document_that_unpacks_to_too_much_is_refused():
    """Whoever can write to Redis does not fill the readers' memory."""
    with pytest.raises(ValueError, match=f"cut short, or longer than {MAX_ENCODED_BYTES} bytes"):
        decode(zstd.compress(b"\x00" * (MAX_ENCODED_BYTES + 1)))
    with pytest.raises(ValueError, match="cut short"):
        decode(encode(snapshot())[:-5])


def test_it_is_said_which_schema_was_found_and_which_is_read():
    with pytest.raises(UnknownSchemaError, match=f"^snapshot schema 99, this version reads {SCHEMA_VERSION}$"):
        decode(encode(snapshot(schema=99)))
