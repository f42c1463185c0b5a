"""Messages of strangers: one that is made to cost much is refused before it does."""

import asyncio

import pytest

from shared.p2p.kad_messages import MAX_CLOSER_PEERS, MAX_FIELDS, bytes_fields, closer_peers, read_message
from tests.fakes import peer_id
from tests.support.simulated_kad import closer_peer


async def message(data, max_bytes=300):
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return await read_message(reader, max_bytes)


@pytest.mark.parametrize("body", [b"", b"x", b"x" * 127, b"x" * 128, b"x" * 300])
async def test_a_message_is_read_to_its_length_and_no_further(body):
    """Its length is a varint of one byte or more."""
    length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) & 127 | 128, len(body) >> 7])
    assert await message(length + body + b"rest") == body


@pytest.mark.parametrize("length", [b"\xad\x02", b"\xff\xff\xff\xff\x0f", b"\x80" * 100, b"\x80" * 8 + b"\x01"])
async def test_a_length_that_is_too_long_or_has_no_end_is_refused(length):
    """Whoever sends the bytes of a length for ever would have them read for ever, and nothing else would be done."""
    with pytest.raises(ValueError, match="too long|without an end"):
        await message(length + b"x" * 301)


@pytest.mark.parametrize("cut", [b"", b"\x80", b"\x05abcd"])
async def test_a_message_that_ends_early_is_told_apart(cut):
    with pytest.raises(EOFError):
        await message(cut)


@pytest.mark.parametrize("field", [b"\x08\x01", b"\x12\x00", b"\x42\x00"])
def test_a_message_of_very_many_fields_is_refused(field):
    """To read them would hold up all checks for a second."""
    assert len(bytes_fields(field * (MAX_FIELDS - 1))) in (0, MAX_FIELDS - 1)
    with pytest.raises(ValueError, match="too many"):
        bytes_fields(field * MAX_FIELDS)


def test_few_peers_are_taken_from_one_answer():
    named = [peer_id(number) for number in range(MAX_CLOSER_PEERS + 5)]
    answer = b"".join(closer_peer(one, ["/ip4/192.0.2.1/tcp/1"]) for one in named)
    assert list(closer_peers(answer)) == named[:MAX_CLOSER_PEERS]
