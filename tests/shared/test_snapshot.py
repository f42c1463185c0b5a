import math

import msgspec
import pytest
from backports import zstd

from shared.snapshot import (
    MAX_BLOCKS,
    MAX_ENCODED_BYTES,
    MAX_SECONDS,
    MAX_UNIX_SECONDS,
    SCHEMA_VERSION,
    CrawlStatus,
    PeerState,
    Refusals,
    Span,
    UnknownSchemaError,
    Verdict,
    check_times,
    decode,
    decode_status,
    encode,
)
from tests.fakes import model, server, snapshot


def test_a_snapshot_survives_the_wire():
    """What a crawler publishes is what an api reads, infinite pings included."""
    original = snapshot(model(servers=(server(1, 0, 8, next_pings={"QmX": math.inf, "QmY": 0.01}),)))
    assert decode(encode(original)) == original


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


def test_age_is_never_negative():
    """A reader whose clock is behind shows a new snapshot, not one from the future."""
    assert snapshot(taken_at=100.0).age(now=50.0) == 0.0
    assert snapshot(taken_at=100.0).age(now=107.5) == 7.5


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


def test_a_server_is_reached_where_it_says_it_is_online_and_answered():
    """One of the two alone is not enough."""
    assert server(1, 0, 8, verdict=Verdict.REACHABLE).reached
    assert not server(1, 0, 8).reached
    assert not server(1, 0, 8, PeerState.JOINING, verdict=Verdict.REACHABLE).reached


@pytest.mark.parametrize("never", [-0.001, MAX_UNIX_SECONDS * 1.001, math.nan, math.inf])
def test_a_time_that_cannot_be_is_refused_wherever_it_stands(never):
    """Of several, each is looked at; one that is not known is none."""
    check_times(None, 0.0, 0.5, MAX_UNIX_SECONDS)
    for times in ((never,), (None, never, 1.0), (1.0, never)):
        with pytest.raises(ValueError, match=f"^time {never} is out of range$"):
            check_times(*times)


def test_a_document_that_unpacks_to_too_much_is_refused():
    """Whoever can write to Redis does not fill the readers' memory."""
    with pytest.raises(ValueError, match=f"cut short, or longer than {MAX_ENCODED_BYTES} bytes"):
        decode(zstd.compress(b"\x00" * (MAX_ENCODED_BYTES + 1)))
    with pytest.raises(ValueError, match="cut short"):
        decode(encode(snapshot())[:-5])


def test_it_is_said_which_schema_was_found_and_which_is_read():
    """A document that would be misread is never shown."""
    with pytest.raises(UnknownSchemaError, match=f"^snapshot schema 99, this version reads {SCHEMA_VERSION}$"):
        decode(encode(snapshot(schema=99)))


def one_server(**more):
    return snapshot(msgspec.structs.replace(model(blocks=8), servers=(server(1, 0, 8, **more),)))


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (snapshot(taken_at=-1.0), r"^not a snapshot: Expected .* at `.*\.taken_at`$"),
        (snapshot(taken_at=MAX_UNIX_SECONDS * 2), r"^not a snapshot: Expected .* at `.*\.taken_at`$"),
        (snapshot(update_period=-1.0), r"^not a snapshot: Expected .* at `.*\.update_period`$"),
        (snapshot(update_period=MAX_SECONDS + 1), r"^not a snapshot: Expected .* at `.*\.update_period`$"),
        (snapshot(update_period=math.nan), r"^not a snapshot: Expected .* at `.*\.update_period`$"),
        (snapshot(update_duration=-1.0), r"^not a snapshot: Expected .* at `.*\.update_duration`$"),
        (snapshot(update_duration=MAX_SECONDS + 1), r"^not a snapshot: Expected .* at `.*\.update_duration`$"),
        (
            snapshot(msgspec.structs.replace(model(), num_blocks=-1)),
            r"^not a snapshot: Expected .* at `.*\.num_blocks`$",
        ),
        (
            snapshot(msgspec.structs.replace(model(), num_blocks=MAX_BLOCKS + 1)),
            r"^not a snapshot: Expected .* at `.*\.num_blocks`$",
        ),
        (snapshot(msgspec.structs.replace(model(), since=-1.0)), r"^not a snapshot: Expected .* at `.*\.since`$"),
        (one_server(span=Span(-1, 8)), "^not a snapshot: span -1:8 of 8$"),
        (one_server(span=Span(0, 9)), "^not a snapshot: span 0:9 of 8$"),
        (one_server(span=Span(4, 4)), "^not a snapshot: span 4:4 of 8$"),
        (one_server(rtt=-0.1), r"^not a snapshot: Expected .* at `.*\.rtt`$"),
        (one_server(rtt=MAX_SECONDS + 1), r"^not a snapshot: Expected .* at `.*\.rtt`$"),
    ],
)
def test_what_pages_could_not_draw_is_refused(document, why):
    """It says which figure, and what it is."""
    with pytest.raises(ValueError, match=why):
        decode(encode(document))


def test_figures_may_be_as_large_as_their_limits():
    whole = model(blocks=MAX_BLOCKS, servers=(server(1, 0, MAX_BLOCKS, rtt=MAX_SECONDS), server(2, 0, 1, rtt=0.0)))
    most = snapshot(whole, taken_at=MAX_UNIX_SECONDS, update_period=MAX_SECONDS, update_duration=MAX_SECONDS)
    assert decode(encode(most)) == most
    least = snapshot(model(blocks=1, servers=()), taken_at=0.0, update_period=0.0, update_duration=0.0)
    assert decode(encode(least)) == least


def test_a_status_is_read_or_refused():
    """Times within the range of times; whatever else stands there is none."""
    told = CrawlStatus(MAX_UNIX_SECONDS, ok=False, error="no", snapshot_taken_at=0.0)
    assert decode_status(msgspec.json.encode(told)) == told
    never = CrawlStatus(0.0, ok=True)
    assert decode_status(msgspec.json.encode(never)) == never
    for bad in (CrawlStatus(-1.0, ok=True), CrawlStatus(1.0, ok=True, snapshot_taken_at=MAX_UNIX_SECONDS * 2)):
        with pytest.raises(
            ValueError, match=r"^Expected `float` .*attempted_at`$|^Expected `float` .*snapshot_taken_at`$"
        ):
            decode_status(msgspec.json.encode(bad))
    with pytest.raises((ValueError, RecursionError)):
        decode_status(b"[" * 100_000)
