"""This module resolves the host names in strangers' addresses, so that only public addresses behind them are dialled.

p2pd resolves names itself, but would dial whatever they resolve to, which may be a host of the monitor's own network.
`/dnsaddr` names resolve to whole addresses:
https://github.com/multiformats/multiaddr/blob/master/protocols/DNSADDR.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.p2p.multiaddr import (
    DNS,
    DNS4,
    DNS6,
    DNSADDR,
    IP4,
    IP6,
    P2P,
    MalformedAddressError,
    components,
    from_text,
    join,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

RESOLVE_TIMEOUT = 2.0
"""Seconds for all queries about one name."""
MAX_RESOLVED = 4
"""Addresses of one name that are used."""
_QUERIES = {DNS: ("A", "AAAA"), DNS4: ("A",), DNS6: ("AAAA",), DNSADDR: ("TXT",)}


class NotResolvedError(Exception):
    """The name could not be resolved here."""


async def resolve(address: bytes, peer_id: bytes) -> list[bytes]:
    """Return the addresses that an address with a host name resolves to; those of other peers are left out.

    They are as hostile as the name: whoever dials them checks them first. Raises `NotResolvedError`.
    """
    import dns.asyncresolver  # noqa: PLC0415 - 3 MB, not held until a host name is met
    from dns.exception import DNSException  # noqa: PLC0415 - as above

    host, *rest = components(address)
    name = host.value.decode("ascii", "replace")
    found: list[bytes] = []
    for kind in _QUERIES[host.code]:
        try:
            query = f"_dnsaddr.{name}" if host.code == DNSADDR else name
            answer = await dns.asyncresolver.resolve(query, kind, lifetime=RESOLVE_TIMEOUT)
        except (DNSException, ValueError, OSError):
            continue
        if kind == "TXT":
            texts = ("".join(part.decode("ascii", "replace") for part in record.strings) for record in answer)
            found += _whole_addresses(texts, peer_id)
        else:
            code = IP4 if kind == "A" else IP6
            hosts = (from_text(f"/ip{4 if code == IP4 else 6}/{record.address}") for record in answer)
            found += [one + join(rest) for one in hosts]
    if not found:
        raise NotResolvedError(name)
    return found[:MAX_RESOLVED]


def _whole_addresses(texts: Iterator[str], peer_id: bytes) -> Iterator[bytes]:
    for text in texts:
        value = text.removeprefix("dnsaddr=")
        if value == text:
            continue
        try:
            parts = components(from_text(value))
        except MalformedAddressError:
            continue
        if parts[-1].code != P2P:
            yield join(parts)
        elif parts[-1].value == peer_id:
            yield join(parts[:-1])
