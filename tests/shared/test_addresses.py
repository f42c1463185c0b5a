"""Whom a monitor of a public swarm dials: nobody inside its own network."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.p2p.addresses import AddressRules, DialPrivate, Kind, is_private_swarm, is_public
from shared.p2p.multiaddr import from_text
from shared.p2p.petals import PUBLIC_INITIAL_PEERS
from shared.p2p.swarm_settings import bootstrap_peers
from tests.fakes import peer_id


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/8.8.8.8/tcp/31330",
        "/ip4/8.8.8.8/udp/31330/quic",
        "/ip6/2606:4700:4700::1111/tcp/31330",
        f"/ip4/8.8.8.8/tcp/1/p2p/{peer_id(1)}/p2p-circuit",
        "/ip6/2002:808:808::1/tcp/1",
        "/ip4/8.8.8.8/udp/1/quic-v1/webtransport/certhash/uEiAkH5a4DPGKUuOBjYw0CgwjvcJCJMD2K_1aluKR_tpevQ",
        "/ip4/8.8.8.8/tcp/443/tls/sni/example.org/ws",
        f"/ip4/8.8.8.8/tcp/1/p2p/{peer_id(9)}",
    ],
)
def test_public_addresses_are_dialled(address):
    """Also IPv6, all transports of p2pd, and relays at them."""
    assert is_public(from_text(address))
    assert AddressRules().kind(peer_id(9), from_text(address)).is_dialled


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/127.0.0.1/tcp/6379",
        "/ip4/10.0.0.1/tcp/1",
        "/ip4/172.16.3.4/tcp/1",
        "/ip4/192.168.1.1/tcp/80",
        "/ip4/169.254.169.254/tcp/80",
        "/ip4/100.64.0.1/tcp/1",
        "/ip4/0.0.0.0/tcp/1",
        "/ip4/224.0.0.1/udp/1",
        "/ip4/255.255.255.255/tcp/1",
        f"/ip4/10.0.0.1/tcp/1/p2p/{peer_id(1)}/p2p-circuit",
        "/ip6/::1/tcp/1",
        "/ip6/::/tcp/1",
        "/ip6/fe80::1/tcp/1",
        "/ip6/fd00::1/tcp/1",
        "/ip6/ff02::1/tcp/1",
        "/ip6/::ffff:10.0.0.1/tcp/1",
        "/ip6/::10.0.0.1/tcp/1",
        "/ip6/64:ff9b::a00:1/tcp/1",
        "/ip6/2002:a00:1::1/tcp/1",
    ],
)
def test_private_addresses_are_not_dialled(address):
    """Private, local, multicast and hidden ones, and relays at them; in a network of the operator's own they are."""
    packed = from_text(address)
    assert not is_public(packed)
    assert AddressRules().kind(peer_id(9), packed) is Kind.PRIVATE
    assert AddressRules(dial_private=True).kind(peer_id(9), packed).is_dialled


RELAY = f"/ip4/8.8.8.8/tcp/1/p2p/{peer_id(1)}"


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        (f"{RELAY}/p2p-circuit", Kind.CIRCUIT),
        (f"{RELAY}/p2p-circuit/p2p/{peer_id(9)}", Kind.CIRCUIT),
        (f"/ip4/8.8.8.8/udp/1/quic-v1/p2p/{peer_id(1)}/p2p-circuit", Kind.CIRCUIT),
        (f"/ip4/8.8.8.8/tcp/1/p2p/{peer_id(9)}/p2p-circuit", Kind.THROUGH_ITSELF),
        (f"/ip4/8.8.8.8/tcp/1/p2p/{peer_id(7)}/p2p-circuit", Kind.THROUGH_US),
        (f"{RELAY}/p2p-circuit/p2p/{peer_id(2)}/p2p-circuit", Kind.MALFORMED),
        (f"{RELAY}/p2p-circuit/ip4/10.0.0.1/tcp/1", Kind.MALFORMED),
        (f"/p2p/{peer_id(1)}/p2p-circuit", Kind.MALFORMED),
        ("/ip4/8.8.8.8/tcp/1/p2p-circuit", Kind.MALFORMED),
        (f"/dns4/relay.example/tcp/1/p2p/{peer_id(1)}/p2p-circuit", Kind.MALFORMED),
        ("/dns4/localhost/tcp/80", Kind.NAME),
        ("/dnsaddr/internal.example", Kind.NAME),
        ("/unix/socket", Kind.MALFORMED),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/1", Kind.MALFORMED),
        ("/tcp/1", Kind.MALFORMED),
        (f"/ip4/8.8.8.8/tcp/1/p2p/{peer_id(1)}", Kind.MALFORMED),
        ("/ip4/8.8.8.8/tcp/1/ip4/10.0.0.1/tcp/22", Kind.MALFORMED),
        ("/ip4/8.8.8.8/tcp/1/dnsaddr/internal.example", Kind.MALFORMED),
        (f"/ip4/8.8.8.8/tcp/1/http-path/x/p2p/{peer_id(1)}/p2p-circuit", Kind.MALFORMED),
    ],
)
def test_how_an_address_is_dialled_or_why_not(address, kind):
    """Through one relay that is another peer; never through a chain, through ourselves, or onwards from a relay."""
    rules = AddressRules(ours=frozenset([peer_id(7)]))
    assert rules.kind(peer_id(9), from_text(address)) is kind


@pytest.mark.parametrize(
    "behind",
    [
        b"\x36\x01/",
        b"\xc1\x03\x01/",
        b"\xa5\x03\x00",
        b"\xa5\x03\x03abc",
        b"\xff\x7f",
        b"\x84\x80\x00",
        b"\x2a\x00",
    ],
)
@pytest.mark.parametrize("private", [True, False])
def test_an_address_that_p2pd_cannot_read_is_not_dialled(behind, private):
    """It would refuse all addresses of the request: the peer's true one, which an honest node named, too."""
    packed = from_text("/ip4/8.8.8.8/tcp/1") + behind
    assert AddressRules(dial_private=private).kind(peer_id(9), packed) is Kind.MALFORMED
    long = b"\x84\x00" + packed[1:]
    assert AddressRules(dial_private=private).kind(peer_id(9), long) is Kind.MALFORMED


@given(st.binary(max_size=80))
def test_bytes_of_strangers_never_raise(packed):
    """Whatever they are, they are dialled only where a public host stands in front."""
    kind = AddressRules().kind(peer_id(9), packed)
    assert kind is not Kind.DIRECT or is_public(packed)


def test_a_swarm_is_private_when_none_of_its_bootstrap_peers_is_the_public_ones():
    """Under whatever address they are named."""
    public = bootstrap_peers(PUBLIC_INITIAL_PEERS)
    assert not is_private_swarm(public)
    assert not is_private_swarm([peer_id(1), next(iter(public))])
    assert is_private_swarm([peer_id(1)])


PUBLIC = {peer_id(1): ["/ip4/8.8.8.8/tcp/1"], peer_id(2): ["/ip4/10.0.0.2/tcp/1", "/ip4/8.8.4.4/tcp/1"]}
INSIDE = {**PUBLIC, peer_id(3): ["/ip4/10.0.0.3/tcp/1"]}
IN_A_CLUSTER = {peer_id(1): ["/dns4/bootstrap.swarm.svc/tcp/1"]}


@pytest.mark.parametrize(
    ("setting", "peers", "allowed"),
    [
        ("auto", PUBLIC, False),
        ("auto", INSIDE, True),
        ("auto", IN_A_CLUSTER, True),
        ("auto", bootstrap_peers(PUBLIC_INITIAL_PEERS), False),
        ("yes", PUBLIC, True),
        ("yes", bootstrap_peers(PUBLIC_INITIAL_PEERS), True),
        ("no", INSIDE, False),
    ],
)
def test_private_addresses_are_dialled_where_the_swarm_is_in_a_private_network_or_as_told(setting, peers, allowed):
    """`DIAL_PRIVATE_ADDRESSES`. The public swarm's own bootstrap peers have host names: these change nothing."""
    assert DialPrivate(setting).allows(peers) is allowed
