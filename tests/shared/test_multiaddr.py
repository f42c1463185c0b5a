"""Addresses keep the bytes in which libp2p wrote them; text is for people."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.p2p.multiaddr import (
    MalformedAddressError,
    circuit_through,
    components,
    from_text,
    is_circuit,
    join,
    relay_of,
    split_circuit,
    to_text,
)
from tests.fakes import peer_id

AS_LIBP2P_WROTE_IT = bytes.fromhex(
    "042d010101067a69a5032600240801122063eedfd482ccdfe016c529e5b31095dc0c59b22e05e898ff65a8a7cbc8327affa202"
)
"""From a FIND_NODE answer of p2pd: a circuit through a relay with an Ed25519 key."""
RELAY = "12D3KooWGYTnvSAaVpSUXwuMuPYuxXo4FLo9NyQfa2kvxgNLZtQE"


def test_a_circuit_as_libp2p_writes_it():
    """The relay's id is a bare multihash, which hivemind's text form would make a CID of."""
    assert to_text(AS_LIBP2P_WROTE_IT) == f"/ip4/45.1.1.1/tcp/31337/p2p/{RELAY}/p2p-circuit"
    assert from_text(to_text(AS_LIBP2P_WROTE_IT)) == AS_LIBP2P_WROTE_IT
    circuit = split_circuit(components(AS_LIBP2P_WROTE_IT))
    assert (circuit.relay, to_text(circuit.relay_address)) == (RELAY, "/ip4/45.1.1.1/tcp/31337")
    assert is_circuit(AS_LIBP2P_WROTE_IT)
    assert relay_of(circuit_through(RELAY)) == RELAY


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/1.2.3.4/tcp/31330",
        "/ip6/2001:db8::1/udp/4001/quic-v1",
        "/ip4/1.2.3.4/udp/4001/quic-v1/webtransport/certhash/uEiAkH5a4DPGKUuOBjYw0CgwjLa2R_RF71v86aVxlqdKNOQ",
        "/ip4/1.2.3.4/udp/4001/webrtc-direct",
        "/dns4/bootstrap1.petals.dev/tcp/31337/ws",
        f"/dnsaddr/example.org/p2p/{peer_id(1)}",
        f"/p2p/{RELAY}/p2p-circuit",
    ],
)
def test_text_and_bytes_are_the_same_address(text):
    assert to_text(from_text(text)) == text


def test_the_old_name_of_p2p_is_read():
    assert to_text(from_text(f"/ip4/1.2.3.4/tcp/1/ipfs/{peer_id(1)}")) == f"/ip4/1.2.3.4/tcp/1/p2p/{peer_id(1)}"


def test_a_protocol_that_nobody_knows_is_shown_as_such():
    """What stands before it is readable; what follows cannot be told apart."""
    packed = from_text("/ip4/1.2.3.4/udp/1") + b"\xff\x7f\x01\x02"
    assert to_text(packed) == "/ip4/1.2.3.4/udp/1/unknown-protocol-16383/0102"
    assert join(components(packed)) == packed


@pytest.mark.parametrize("packed", [b"", b"\x04\x01", b"\x80" * 20, b"\xa5\x03\x7f\x01"])
def test_malformed_bytes_are_named(packed):
    with pytest.raises(MalformedAddressError):
        components(packed)
    assert to_text(packed).startswith("/malformed/")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8.8.8.8",
        "/",
        "/ip4",
        "/ip4/0177.0.0.1/tcp/1",
        "/ip4/8.8.8.8.evil/tcp/1",
        "/ip4/1.2.3.4/tcp/70000",
        "/ip4/1.2.3.4/tcp/-1",
        "/teleport/1",
        "/p2p/0OIl",
    ],
)
def test_text_that_is_no_address_is_refused(text):
    with pytest.raises(MalformedAddressError):
        from_text(text)


@given(st.binary(max_size=120))
def test_any_bytes_have_a_text_and_keep_their_form(packed):
    """Control characters of strangers never reach a terminal or a page; what can be read is written back the same."""
    text = to_text(packed)
    assert text.isprintable()
    assert text.isascii()
    try:
        parts = components(packed)
    except MalformedAddressError:
        return
    assert components(join(parts)) == parts
