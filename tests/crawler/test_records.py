"""The validating edge: whatever bytes stand in the DHT, they become a bounded record or a counted refusal."""

import json
import math

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.observe import records
from crawler.observe.records import RefusedError, ServerRecord, read_model, read_server
from crawler.settings import parse_models
from crawler.text import bad_prefix, clean_text
from shared.p2p.hivemind import MSGPackSerializer
from shared.snapshot import PeerState
from tests.fakes import peer_id

GENUINE = (
    2,
    123.5,
    {
        "start_block": 0,
        "end_block": 4,
        "public_name": "s1",
        "version": "2.2.0.post1",
        "network_rps": None,
        "forward_rps": None,
        "inference_rps": 12.0,
        "adapters": ("a/b",),
        "torch_dtype": "float32",
        "quant_type": "none",
        "using_relay": False,
        "cache_tokens_left": 512,
        "next_pings": {peer_id(1): 0.00087, peer_id(2): math.inf},
    },
)


def packed(value) -> bytes:
    return MSGPackSerializer.dumps(value)


def with_info(**changes) -> bytes:
    return packed((2, 1.0, {**GENUINE[2], **changes}))


def test_a_genuine_record_is_read_whole():
    """The tuple that petals 2.2.0.post1 writes."""
    assert read_server(packed(GENUINE)) == ServerRecord(
        state=PeerState.ONLINE,
        throughput=123.5,
        start_block=0,
        end_block=4,
        public_name="s1",
        version="2.2.0.post1",
        inference_rps=12.0,
        adapters=("a/b",),
        torch_dtype="float32",
        quant_type="none",
        using_relay=False,
        cache_tokens_left=512,
        next_pings={peer_id(1): 0.00087, peer_id(2): math.inf},
    )


def test_fields_of_later_versions_are_ignored():
    """As petals ignores them."""
    assert read_server(with_info(invented_later=[1, {"x": 2}])).public_name == "s1"


def test_an_old_short_record_is_read():
    """Servers before 2.0 write state and throughput alone."""
    assert read_server(packed((1, 5.0))) == ServerRecord(PeerState.JOINING, throughput=5.0)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "server_not_a_tuple"),
        ("online", "server_not_a_tuple"),
        ({"0": 2}, "server_not_a_tuple"),
        ((), "bad_server_info"),
        ((2,), "bad_server_info"),
        ((7, 1.0), "bad_server_info"),
        (("2", 1.0), "bad_server_info"),
        ((2, "fast"), "bad_server_info"),
        ((2, math.nan), "bad_server_info"),
        ((2, math.inf), "bad_server_info"),
        ((2, -1.0), "bad_server_info"),
        ((2, 1.0, []), "bad_server_info"),
        ((2, 1.0, {"state": 0}), "bad_server_info"),
        ((2, 1.0, {"start_block": -1}), "bad_server_info"),
        ((2, 1.0, {"start_block": 4, "end_block": 4}), "reversed_span"),
        ((2, 1.0, {"start_block": 9, "end_block": 4}), "reversed_span"),
        ((2, 1.0, {"public_name": 5}), "bad_server_info"),
        ((2, 1.0, {"adapters": 5}), "bad_server_info"),
        ((2, 1.0, {"cache_tokens_left": -5}), "bad_server_info"),
        ((2, 1.0, {"next_pings": {"x": "y"}}), "bad_server_info"),
        ((2, 1.0, {"next_pings": {peer_id(1): -0.001}}), "bad_server_info"),
        ((2, 1.0, {"next_pings": {peer_id(1): math.nan}}), "bad_server_info"),
        *(
            ((2, 1.0, {name: number}), "bad_server_info")
            for name in ("network_rps", "forward_rps", "inference_rps")
            for number in (-1.0, math.nan, math.inf, "1")
        ),
    ],
)
def test_what_petals_would_refuse_is_refused(value, reason):
    """Wrong types and numbers at each level."""
    with pytest.raises(RefusedError, match=f"^{reason}$"):
        read_server(packed(value))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "undecodable"),
        (b"\xc1", "undecodable"),
        (b"\xa2\xff\xfe", "undecodable"),
        (b"\x92\x02", "undecodable"),
        (b"\x91" * 2000 + b"\xc0", "undecodable"),
        (b"\xdd\xff\xff\xff\xff", "undecodable"),
        (msgpack.packb(msgpack.ExtType(0x50, b"x")), "unknown_extension"),
        (packed(((((((1,),),),),),)), "nested_too_deep"),
        # Keys other than text could all have one hash: to read 4,000 of them took half a second.
        (packed((2, 1.0, {7: "x"})), "undecodable"),
        (packed((2, 1.0, {msgpack.Timestamp(7): "x"})), "undecodable"),
        (packed((2, 1.0, {(7,): "x"})), "undecodable"),
        (b"\xc4" * (records.MAX_RECORD_BYTES + 1), "record_too_long"),
    ],
)
def test_bytes_that_are_no_record_are_refused(data, reason):
    """Each with its reason, in no time."""
    with pytest.raises(RefusedError, match=f"^{reason}$"):
        read_server(data)


def test_texts_are_cleaned_and_cut():
    """No control, bidi or zero-width characters, nothing longer than its limit, nothing empty."""
    record = read_server(
        with_info(public_name="a\x00b\u202ec\u200bd\n" + "x" * 10_000, version="\u202e", adapters=["y" * 300] * 99)
    )
    assert record.public_name.startswith("abcdxxx")
    assert len(record.public_name) == records.MAX_PUBLIC_NAME
    assert record.version is None
    assert len(record.adapters) == records.MAX_ADAPTERS
    assert {len(name) for name in record.adapters} == {records.MAX_ADAPTER_NAME}


def test_pings_are_kept_for_peers_that_can_exist():
    """Absurd ones and ones to nobody are dropped; too many are cut."""
    pings = {"nobody": 0.1, peer_id(1): math.inf, peer_id(2): 1e300}
    assert read_server(with_info(next_pings=pings)).next_pings == {peer_id(1): math.inf, peer_id(2): records.MAX_PING}
    many = {peer_id(n): 0.1 for n in range(records.MAX_NEXT_PINGS + 50)}
    assert len(read_server(with_info(next_pings=many)).next_pings) == records.MAX_NEXT_PINGS


@pytest.mark.parametrize(
    "prefix", ["", "a.b", "a b", "a'b", 'a"b', "a\nb", "a\x00b", "a\u202eb", "<b>", "x" * 129, "a\\b"]
)
def test_prefixes_that_no_client_can_use_are_refused(prefix):
    """Petals splits keys at dots and chains at spaces."""
    with pytest.raises(RefusedError, match="^bad_prefix$"):
        read_model(prefix, packed({"num_blocks": 3, "repository": None}), private_swarm=True)


@pytest.mark.parametrize("num_blocks", [0, -1, 10**9, True, 3.0, "3", None, math.inf])
def test_absurd_block_counts_are_refused(num_blocks):
    """Each block costs a lookup."""
    with pytest.raises(RefusedError, match="bad_model_info|too_many_blocks"):
        read_model("m", packed({"num_blocks": num_blocks, "repository": None}), private_swarm=True)


@pytest.mark.parametrize(
    "repository",
    [
        None,
        "",
        "javascript:alert(1)",
        "https://huggingface.co.evil.org/a",
        "https://huggingface.co/a/b/c",
        "http://x",
        'https://huggingface.co/a"b',
    ],
)
def test_only_hub_repositories_count(repository):
    """In the public swarm such a model is not listed; in a private one it goes by its prefix."""
    value = packed({"num_blocks": 3, "repository": repository})
    with pytest.raises(RefusedError, match="repository_not_on_hub"):
        read_model("m", value, private_swarm=False)
    model = read_model("m", value, private_swarm=True)
    assert (model.repository, model.name) == (None, "m")


def test_a_listed_model_is_named_by_its_repository():
    """Owner and name; the short name is the last part."""
    model = read_model(
        "bloom-petals",
        packed({"num_blocks": 70, "repository": "https://huggingface.co/bigscience/bloom"}),
        private_swarm=False,
    )
    assert (model.name, model.short_name, model.official) == ("bigscience/bloom", "bloom", False)


def test_every_number_has_its_own_limit():
    """What is larger is cut, what no number can be is refused; each field stays its own."""
    rates = {"network_rps": 1.0, "forward_rps": 2.0, "inference_rps": 3.0}
    record = read_server(with_info(**rates))
    assert (record.network_rps, record.forward_rps, record.inference_rps) == (1.0, 2.0, 3.0)
    for name in rates:
        assert getattr(read_server(with_info(**{name: 1e300})), name) == records.MAX_RPS
        assert getattr(read_server(with_info(**{name: 0.0})), name) == 0.0
    assert read_server(packed((2, 1e300))).throughput == records.MAX_RPS
    assert read_server(packed((2, 0.0))).throughput == 0.0
    assert read_server(packed((2, 7))).throughput == 7.0
    assert read_server(with_info(cache_tokens_left=10**15)).cache_tokens_left == records.MAX_CACHE_TOKENS
    assert read_server(with_info(cache_tokens_left=0)).cache_tokens_left == 0


@pytest.mark.parametrize(
    ("field", "limit"),
    [("public_name", 100), ("version", 32), ("torch_dtype", 24), ("quant_type", 24)],
)
def test_every_text_has_its_own_limit(field, limit):
    assert getattr(read_server(with_info(**{field: "x" * limit})), field) == "x" * limit
    assert getattr(read_server(with_info(**{field: "x" * (limit + 1)})), field) == "x" * limit
    assert getattr(read_server(with_info(**{field: None})), field) is None


def test_a_record_may_be_as_long_as_the_limit():
    """And not a byte longer."""
    spare = records.MAX_RECORD_BYTES - len(with_info(more="x" * 60_000))
    assert read_server(with_info(more="x" * (60_000 + spare))).public_name == "s1"
    with pytest.raises(RefusedError, match="^record_too_long$"):
        read_server(with_info(more="x" * (60_001 + spare)))


@pytest.mark.parametrize("value", ["text", None, 7, bytearray(b"\xc0")])
def test_only_bytes_are_a_record(value):
    with pytest.raises(RefusedError, match="^not_bytes$"):
        read_server(value)


def test_tuples_may_be_nested_as_deep_as_the_limit():
    """hivemind writes them as an extension that holds msgpack."""
    value = 1
    for _ in range(records.MAX_TUPLE_DEPTH - 1):
        value = (value,)
    assert read_server(packed((2, 1.0, {"deep": value}))).state is PeerState.ONLINE
    with pytest.raises(RefusedError, match="^nested_too_deep$"):
        read_server(packed((2, 1.0, {"deep": (value,)})))


@pytest.mark.parametrize(("state", "read"), [(0, PeerState.OFFLINE), (1, PeerState.JOINING), (2, PeerState.ONLINE)])
def test_states_are_those_of_petals(state, read):
    assert read_server(packed((state, 1.0))).state is read


def test_half_a_span_is_no_reversed_one():
    """One end alone says nothing yet."""
    assert read_server(packed((2, 1.0, {"start_block": 5}))).start_block == 5
    assert read_server(packed((2, 1.0, {"end_block": 5}))).end_block == 5


@pytest.mark.parametrize(("block", "covered"), [(3, False), (4, True), (7, True), (8, False)])
def test_a_record_stands_only_under_blocks_that_it_covers(block, covered):
    record = ServerRecord(PeerState.ONLINE, 4, 8, throughput=1.0)
    if covered:
        records.check_block(record, block)
    else:
        with pytest.raises(RefusedError, match="^span_excludes_block$"):
            records.check_block(record, block)


@pytest.mark.parametrize(("start", "end"), [(None, None), (4, None), (None, 8)])
def test_a_record_without_a_whole_span_stands_anywhere(start, end):
    """Old servers announce none."""
    records.check_block(ServerRecord(PeerState.ONLINE, start, end, throughput=1.0), 99)


def test_peer_ids_are_read_in_their_one_form():
    assert records.check_peer_id(peer_id(1)) == peer_id(1)
    with pytest.raises(RefusedError, match="^bad_peer_id$"):
        records.check_peer_id("nobody")


@pytest.mark.parametrize(
    ("prefix", "why"),
    [
        ("", "empty"), ("x" * 129, "longer than 128"), ("a.b", "dots"), ("a\u202eb", "unprintable"), ("x" * 128, None),
        ("StableBeluga2-hf", None), ("жук", None),
    ],
)  # fmt: skip
def test_it_is_said_why_a_prefix_is_none(prefix, why):
    said = bad_prefix(prefix)
    assert (said is None) if why is None else said.startswith("the prefix") and why in said


def test_a_model_is_a_dictionary():
    for value in (None, [3, None], "m", 3):
        with pytest.raises(RefusedError, match="^model_not_a_dict$"):
            read_model("m", packed(value), private_swarm=True)


def test_a_model_may_have_as_many_blocks_as_the_limit():
    """And fields of later versions."""
    value = {"num_blocks": records.MAX_BLOCKS, "repository": None, "more": 1}
    assert read_model("m", packed(value), private_swarm=True).num_blocks == records.MAX_BLOCKS
    with pytest.raises(RefusedError, match="^too_many_blocks$"):
        read_model("m", packed({**value, "num_blocks": records.MAX_BLOCKS + 1}), private_swarm=True)
    with pytest.raises(RefusedError, match="^bad_model_info$"):
        read_model("m", packed({"repository": None}), private_swarm=True)


def test_a_repository_may_be_as_long_as_the_limit():
    hub = "https://huggingface.co/"
    longest = hub + "a" * (records.MAX_REPOSITORY - len(hub))
    assert read_model("m", packed({"num_blocks": 3, "repository": longest}), private_swarm=False).repository == longest
    with pytest.raises(RefusedError, match="^repository_not_on_hub$"):
        read_model("m", packed({"num_blocks": 3, "repository": longest + "a"}), private_swarm=False)


def test_text_is_cut_after_it_was_cleaned():
    """Spaces inside stay; what was not seen takes no room, up to four times the limit."""
    assert clean_text(" a b\u2003 ", 10) == "a b"
    assert clean_text("\x00" * 12 + "abcdef", 4) == "abcd"
    assert clean_text("\x00" * 15 + "abcdef", 4) == "a"
    assert clean_text("\x00" * 16 + "abcdef", 4) == ""


def test_pings_of_no_time_are_kept_and_long_ones_are_cut():
    kept = {peer_id(3): 0.0, peer_id(4): 3600.0, peer_id(5): 3601.0}
    assert read_server(with_info(next_pings=kept)).next_pings == {**kept, peer_id(5): 3600.0}


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
info_like = st.fixed_dictionaries({}, optional=dict.fromkeys(GENUINE[2], json_like))


@given(
    st.one_of(
        st.binary(max_size=200),
        json_like.map(packed),
        st.tuples(json_like, json_like, info_like).map(packed),
        st.tuples(st.just(2), st.just(1.0), info_like).map(packed),
    )
)
def test_no_bytes_escape_the_edge(data):
    """A record within the limits or a refusal, and nothing else, whatever comes."""
    try:
        record = read_server(data)
    except RefusedError:
        return
    assert math.isfinite(record.throughput)
    assert 0 <= record.throughput <= records.MAX_RPS
    assert len(record.public_name or "") <= records.MAX_PUBLIC_NAME
    assert len(record.adapters) <= records.MAX_ADAPTERS
    assert all(name.isprintable() for name in (record.public_name or "", record.version or "", *record.adapters))


@given(
    st.one_of(
        st.binary(max_size=200),
        json_like.map(packed),
        st.fixed_dictionaries({"num_blocks": json_like, "repository": json_like}).map(packed),
    ),
    st.text(max_size=30),
    st.booleans(),
)
def test_no_model_escapes_the_edge(data, prefix, private_swarm):
    """The same for the model index."""
    try:
        model = read_model(prefix, data, private_swarm=private_swarm)
    except RefusedError:
        return
    assert 1 <= model.num_blocks <= records.MAX_BLOCKS
    assert model.dht_prefix.isprintable()


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"repositry": "https://huggingface.co/a/b"}, "repositry"),
        ({"repository": "a/b"}, "expected http"),
        ({"repository": "https://huggingface.co/"}, "OWNER/NAME"),
        ({"official": False}, "official"),
    ],
)
def test_a_model_of_the_settings_is_as_it_will_be_shown(field, said):
    """A mistyped field, a repository that no page can link to, and a model that would be official and not."""
    named = {"dht_prefix": "x", "num_blocks": 2}
    assert parse_models(json.dumps([named]))[0].name == "x"
    with pytest.raises(ValueError, match=said):
        parse_models(json.dumps([named | field]))
