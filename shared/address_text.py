"""This module parses multiaddrs and IP addresses given as text. Nothing here raises, whatever the text is.

`shared.p2p.addresses` decides which addresses (as bytes) may be dialled.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple, TypeAlias

_HOST_PROTOCOLS = frozenset({"ip4", "ip6", "dns", "dns4", "dns6", "dnsaddr"})
MAX_PORT = 65_535
IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_ROUTED_IPV6 = ipaddress.IPv6Network("2000::/3")
"""What is routed at all. Outside of it lie the forms that hide an IPv4 address, as NAT64's; inside only 6to4's."""


class Endpoint(NamedTuple):
    """The first two parts of a multiaddr, `/PROTOCOL/HOST/TRANSPORT/PORT/…`; "" for what it lacks."""

    protocol: str
    host: str
    transport: str
    port: str
    relayed: bool
    """Whether it leads over a relay: then the host is the relay's."""

    @property
    def direct_ip(self) -> str | None:
        """The IP address that the peer itself is dialled at; None for a name or a relay."""
        return self.host if self.protocol in ("ip4", "ip6") and not self.relayed else None

    @property
    def tcp_port(self) -> int | None:
        """The TCP port of a direct address; None without one."""
        if self.transport != "tcp" or self.relayed or not self.port.isdecimal():
            return None
        port = int(self.port[:6])
        return port if 0 < port <= MAX_PORT else None

    @property
    def host_and_port(self) -> tuple[str, str]:
        """Host and port, an IP address in its one canonical spelling; "" for what the multiaddr lacks."""
        if self.protocol not in _HOST_PROTOCOLS:
            return "", ""
        return canonical_ip(self.host) or self.host.lower(), self.port


def endpoint(multiaddr: str) -> Endpoint:
    """Return the parts of a multiaddr; empty ones where the text is none."""
    _, protocol, host, transport, port, *_ = (*multiaddr.split("/", 5), "", "", "", "", "")
    return Endpoint(protocol, host, transport, port, "/p2p-circuit" in multiaddr)


def canonical_ip(host: str) -> str:
    """Return the one spelling of an IP address, "" for what is none."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return ""


def is_public(ip: str) -> bool:
    """Whether this is the text of an IP address that the Internet routes (`is_routed`)."""
    try:
        return is_routed(ipaddress.ip_address(ip))
    except ValueError:
        return False


def is_routed(ip: IPAddress) -> bool:
    """Whether the Internet routes an IP address to one machine, and the IPv4 address that it hides, if it hides one."""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip not in _ROUTED_IPV6:
            return False
        if ip.sixtofour is not None and not is_routed(ip.sixtofour):
            return False
    return ip.is_global and not ip.is_multicast
