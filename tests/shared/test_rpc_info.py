"""A server's own word is read as carefully as a record."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.p2p.rpc_info import MAX_INFO_BYTES, read_version


def test_the_version_that_petals_answers_is_read():
    """The 64 bytes of petals 2.2.0.post1; later fields are ignored."""
    info = {"version": "2.2.0.post1", "dht_client_mode": False, "cache_tokens_available": 256, "later": [1]}
    assert read_version(msgpack.packb(info)) == "2.2.0.post1"


@pytest.mark.parametrize(
    "info",
    [
        {}, {"version": 2}, {"version": ""}, {"version": "x" * 33}, {"version": "2\u202e"}, {"version": "2.2\n"},
        {"version": "2 2"}, ["2.2.0"], "2.2.0", None, {"version": "1", "pad": "x" * MAX_INFO_BYTES},
    ],
)  # fmt: skip
def test_anything_else_is_no_version(info):
    """Of the wrong type, length or alphabet."""
    assert read_version(msgpack.packb(info)) is None


@given(st.binary(max_size=300) | st.text(max_size=40).map(lambda text: msgpack.packb({"version": text})))
def test_no_bytes_escape(data):
    """A short printable word or nothing."""
    version = read_version(data)
    assert version is None or (version.isprintable() and 0 < len(version) <= 32)
