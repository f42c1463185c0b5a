"""From the bytes in the DHT to everything that a reader gets: nothing breaks and nothing leaves its place."""

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.p2p.raw_values import MergedDictionary, PackedDictionary
from shared.snapshot import PeerState, Verdict
from tests.support.fuzz_records import DIALS, every_form, hostile_blocks, hostile_index, make_snapshot


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(hostile_index, hostile_blocks, st.permutations(DIALS))
def test_any_records_become_sound_pages_json_text_and_metrics(index, blocks, dials):
    """Whatever stands in the index and under the blocks."""
    every_form(make_snapshot(index, blocks, tuple(dials)))


@settings(max_examples=50)
@given(hostile_blocks, st.permutations(DIALS))
def test_no_record_makes_a_server_unreachable(blocks, dials):
    """Only a probe does: a record that was not dialled, or that nobody could dial, is never shown as unreachable."""
    snapshot = make_snapshot({}, blocks, tuple(dials))
    for model in snapshot.models:
        for server in model.servers:
            assert 0 <= server.span.start < server.span.end <= model.num_blocks
            assert (server.state is PeerState.UNREACHABLE) == (
                server.verdict is Verdict.UNREACHABLE and server.announced is PeerState.ONLINE
            )


@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda body: b"\xc7" + bytes([len(body)]) + b"\x50" + body))
def test_no_answer_of_the_dht_escapes_as_an_exception(data):
    """One that did would kill hivemind's lookup, and the caller would wait for ever."""
    MergedDictionary(Counter()).add(PackedDictionary(data))
