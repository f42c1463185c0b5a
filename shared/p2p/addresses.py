"""Which addresses are dialled: in a public swarm none inside our own network, whatever a stranger announces.

Anyone can announce any address, and `is_reachable` says what was found there: it would scan private networks
for the whole Internet, and knock there for whoever asks.
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import TYPE_CHECKING

from shared.p2p.petals_wire import PUBLIC_INITIAL_PEERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
"""What is routed at all. Outside of it lie the forms that hide an IPv4 address, as NAT64's; inside only 6to4's."""


class DialPrivate(StrEnum):
    """Whether addresses that are not public ones are dialled."""

    AUTO = "auto"
    """As the bootstrap peers are: `of_a_private_network`."""
    YES = "yes"
    NO = "no"

    def allows(self, bootstrap_peers: Mapping[str, Sequence[str]]) -> bool:
        """`bootstrap_peers` is `{peer_id: addresses}`."""
        return of_a_private_network(bootstrap_peers) if self is DialPrivate.AUTO else self is DialPrivate.YES


def of_a_private_network(bootstrap_peers: Mapping[str, Sequence[str]]) -> bool:
    """Whether this is the operator's own swarm, in a network of its own: a bootstrap peer has no public address.

    A host name may stand for a private address. Where it was taken for a public one, all servers of a swarm inside
    a cluster would be called unreachable.
    """
    return is_private_swarm(bootstrap_peers) and any(
        not any(map(is_public, addresses)) for addresses in bootstrap_peers.values()
    )


def is_private_swarm(bootstrap_peer_ids: Iterable[str]) -> bool:
    """Whether this is another swarm than the public one: none of its bootstrap peers is one of that's."""
    public = {address.rpartition("/p2p/")[2] for address in PUBLIC_INITIAL_PEERS}
    return public.isdisjoint(bootstrap_peer_ids)


def anywhere(_address: str) -> bool:
    """Whether an address may be dialled in a network of the operator's own: any may."""
    return True


def is_public(address: str) -> bool:
    """Whether a multiaddr names a public IP address. A host name does not: it may resolve to anything."""
    _, protocol, host, *_ = (*address.split("/"), "", "", "")
    if protocol not in ("ip4", "ip6"):
        return False
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip not in _PUBLIC_IPV6:
            return False
        if ip.sixtofour is not None and not _is_global(ip.sixtofour):
            return False
    return _is_global(ip)


def _is_global(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return ip.is_global and not ip.is_multicast
