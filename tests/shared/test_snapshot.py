import math

import msgspec
import pytest
from backports import zstd

from shared.snapshot import PeerState, UnknownSchemaError, decode, encode
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
