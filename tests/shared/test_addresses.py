"""Whom a monitor of a public swarm dials: nobody inside its own network."""

import pytest

from shared.p2p.addresses import DialPrivate, is_private_swarm, is_public
from shared.p2p.petals_wire import PUBLIC_INITIAL_PEERS
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
    ],
)
def test_public_addresses_are_dialled(address):
    """Also IPv6, QUIC and relays at them."""
    assert is_public(address)


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
        "/ip6zone/eth0/ip6/fe80::1/tcp/1",
        "/dns4/localhost/tcp/80",
        "/dnsaddr/internal.example",
        "/unix/var/run/docker.sock",
        "/ip4/0177.0.0.1/tcp/1",
        "/ip4/8.8.8.8.evil/tcp/1",
        "/ip4",
        "/",
        "",
        "8.8.8.8",
    ],
)
def test_others_are_not(address):
    """Private, local, multicast and hidden ones, names, sockets, and what is no address."""
    assert not is_public(address)


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
