"""This module decides which addresses of a stranger are dialled: in a public swarm none inside our own network.

Anyone can announce any address, and `is_reachable` reports what was found there: without these rules, anyone on the
Internet could scan the operator's private network through it. The rules hold for relays' addresses, too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence  # noqa: TC003 - the dataclass's annotations
from dataclasses import dataclass, field
from enum import StrEnum

from shared.address_text import IPAddress, is_routed
from shared.p2p.kad_messages import packed_id
from shared.p2p.multiaddr import (
    CERTHASH,
    IP4,
    IP6,
    NAMES,
    P2P,
    QUIC,
    QUIC_V1,
    SNI,
    TCP,
    TLS,
    UDP,
    WEBTRANSPORT,
    WS,
    WSS,
    Component,
    MalformedAddressError,
    components,
    from_text,
    split_circuit,
)
from shared.p2p.petals import PUBLIC_INITIAL_PEERS

TRANSPORTS = frozenset({TCP, UDP, QUIC, QUIC_V1, WEBTRANSPORT, CERTHASH, TLS, SNI, WS, WSS})
"""What may stand behind the host: what p2pd dials. One address that it cannot read makes it refuse the whole request,
with the peer's other addresses."""


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
        not any(is_public(from_text(address)) for address in addresses) for addresses in bootstrap_peers.values()
    )


def is_private_swarm(bootstrap_peer_ids: Iterable[str]) -> bool:
    """Whether this is another swarm than the public one: none of its bootstrap peers is one of that's."""
    public = {address.rpartition("/p2p/")[2] for address in PUBLIC_INITIAL_PEERS}
    return public.isdisjoint(bootstrap_peer_ids)


class Kind(StrEnum):
    """How an address is dialled, or why it is not."""

    DIRECT = "direct"
    CIRCUIT = "circuit"
    """Through one relay."""
    NAME = "name"
    """A host name in a public swarm: what it resolves to is dialled, where that is public."""

    MALFORMED = "malformed"
    """None that p2pd dials, or a circuit that names no relay, several, or its relay's address by a name."""
    PRIVATE = "private"
    THROUGH_ITSELF = "through_itself"
    """The relay is the peer itself: a dial of it is a direct one."""
    THROUGH_US = "through_us"
    """The relay is a node of this monitor."""

    @property
    def is_dialled(self) -> bool:
        return self in (Kind.DIRECT, Kind.CIRCUIT, Kind.NAME)


@dataclass(frozen=True, slots=True)
class AddressRules:
    """What may be dialled of the addresses that strangers name."""

    dial_private: bool = False
    """Whether the swarm is in a network of the operator's own: any address may be dialled there."""
    ours: frozenset[str] = field(default_factory=frozenset)
    """Peer ids of this monitor's own nodes."""

    def kind(self, peer_id: str, address: bytes) -> Kind:
        """Return how this address of this peer is dialled, or why it is not. Never raises."""
        try:
            parts = components(address)
            circuit = split_circuit(parts)
            if circuit is None:
                own_id = Component(P2P, packed_id(peer_id))
                return self._host_kind(parts[:-1] if parts[-1] == own_id else parts)
            host = self._host_kind(components(circuit.relay_address))
        except MalformedAddressError:
            return Kind.MALFORMED
        if circuit.relay == peer_id:
            return Kind.THROUGH_ITSELF
        if circuit.relay in self.ours:
            return Kind.THROUGH_US
        return {Kind.DIRECT: Kind.CIRCUIT, Kind.NAME: Kind.MALFORMED}.get(host, host)

    def _host_kind(self, parts: tuple[Component, ...]) -> Kind:
        host, *transports = parts
        if any(part.code not in TRANSPORTS for part in transports) or any(
            b"/" in part.value for part in parts if part.code in NAMES or part.code == SNI
        ):
            return Kind.MALFORMED
        if host.code in (IP4, IP6):
            return Kind.DIRECT if self.dial_private or _is_public_ip(host) else Kind.PRIVATE
        if host.code in NAMES:
            return Kind.DIRECT if self.dial_private else Kind.NAME
        return Kind.MALFORMED


def is_public(address: bytes) -> bool:
    """Whether an address names a public IP address. A host name does not: it may resolve to anything."""
    try:
        return _is_public_ip(components(address)[0])
    except MalformedAddressError:
        return False


def host_and_port(address: bytes) -> tuple[str, int] | None:
    """Return the IP address and the TCP port of an address that is nothing more than these, else None."""
    try:
        parts = components(address)
    except MalformedAddressError:
        return None
    if [part.code for part in parts] not in ([IP4, TCP], [IP6, TCP]):
        return None
    return str(_ip(parts[0])), int.from_bytes(parts[1].value, "big")


def ip_of(address: bytes) -> IPAddress | None:
    """Return the IP address that is dialled for an address; a relay's for a circuit, None for a host name."""
    try:
        return _ip(components(address)[0])
    except MalformedAddressError:
        return None


def _ip(host: Component) -> IPAddress | None:
    if host.code == IP4:
        return ipaddress.IPv4Address(host.value)
    return ipaddress.IPv6Address(host.value) if host.code == IP6 else None


def _is_public_ip(host: Component) -> bool:
    ip = _ip(host)
    return ip is not None and is_routed(ip)
