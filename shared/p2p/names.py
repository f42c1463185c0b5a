"""This module resolves the host names in strangers' addresses, so that only public addresses behind them are dialled.

p2pd resolves names itself, but would dial whatever they resolve to, which may be a host of the monitor's own network.
`/dnsaddr` names resolve to whole addresses:
https://github.com/multiformats/multiaddr/blob/master/protocols/DNSADDR.md
"""

from __future__ import annotations

import asyncio
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from shared.p2p.multiaddr import (
    DNS,
    DNS4,
    DNS6,
    DNSADDR,
    P2P,
    MalformedAddressError,
    components,
    from_text,
    join,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

RESOLVE_TIMEOUT = 2.0
"""Seconds for all queries about one name, which are sent at the same time."""
MAX_RESOLVED = 4
"""Addresses of one name that are used."""
MAX_RECORDS, MAX_RECORD_CHARS = 64, 512
"""Records of one name that are read, and characters of one. A name server answers up to 64 kB, and an id is decoded in
time by the square of its length."""
_QUERIES = {DNS: ("A", "AAAA"), DNS4: ("A",), DNS6: ("AAAA",), DNSADDR: ("TXT",)}


class NotResolvedError(Exception):
    """The name could not be resolved here."""


async def resolve(address: bytes, peer_id: bytes) -> list[bytes]:
    """Return the addresses that an address with a host name resolves to; those of other peers are left out.

    They are as hostile as the name: whoever dials them checks them first. Raises `NotResolvedError`.
    """
    host, *rest = components(address)
    name = host.value.decode("ascii", "replace")
    answers = await asyncio.gather(*(_query(name, kind) for kind in _QUERIES[host.code]))
    found: list[bytes] = []
    for record in islice(chain.from_iterable(answers), MAX_RECORDS):
        if host.code != DNSADDR:
            found.append(from_text(f"/ip{'6' if ':' in record.address else '4'}/{record.address}") + join(rest))
        elif whole := _whole_address("".join(part.decode("ascii", "replace") for part in record.strings), peer_id):
            found.append(whole)
    if not found:
        raise NotResolvedError(name)
    return found[:MAX_RESOLVED]


async def _query(name: str, kind: str) -> Iterable[Any]:
    """Return a name's records of one kind; none where nothing answers."""
    import dns.asyncresolver  # noqa: PLC0415 - 3 MB, not held until a host name is met
    from dns.exception import DNSException  # noqa: PLC0415 - as above

    try:
        query = f"_dnsaddr.{name}" if kind == "TXT" else name
        return await dns.asyncresolver.resolve(query, kind, lifetime=RESOLVE_TIMEOUT)
    except (DNSException, ValueError, OSError):
        return ()


def _whole_address(text: str, peer_id: bytes) -> bytes:
    """Return the address in one `/dnsaddr` record, without the peer's id; none (`b""`) where it is another peer's."""
    value = text[:MAX_RECORD_CHARS].removeprefix("dnsaddr=")
    try:
        parts = components(from_text(value)) if text.startswith("dnsaddr=") else ()
    except MalformedAddressError:
        return b""
    if parts and parts[-1].code == P2P:
        return join(parts[:-1]) if parts[-1].value == peer_id else b""
    return join(parts)
