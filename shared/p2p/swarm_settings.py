"""This module defines the settings of the services that join the swarm."""

from __future__ import annotations

import itertools
from typing import Annotated, Any

from pydantic import field_validator

from shared.p2p.addresses import DialPrivate, is_private_swarm
from shared.p2p.multiaddr import MalformedAddressError, from_text
from shared.p2p.petals import PUBLIC_INITIAL_PEERS
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.settings import CommaSeparated, Field, Settings, checked_by, split_list

_FORM = "/ip4/HOST/tcp/PORT/p2p/PEER_ID"
_HOSTS = frozenset({"ip4", "ip6", "dns", "dns4", "dns6", "dnsaddr"})


def split_multiaddr(text: Any) -> tuple[str, str]:
    """Return a bootstrap peer's (peer id, dialling address). Raises `ValueError` that says what is wrong.

    The peer is the last one that is named: behind a relay the address is `/…/p2p/RELAY/p2p-circuit`.
    """
    parts = ["p2p" if part == "ipfs" else part for part in str(text).strip().split("/")]  # its name until 2018
    if len(parts) < 3 or parts[-2] != "p2p":  # noqa: PLR2004 - "", "p2p", an id
        raise ValueError(f"{text!r} names no peer: expected {_FORM}")
    try:
        peer_ids = [parse_peer_id(part) for before, part in itertools.pairwise(parts) if before == "p2p"]
    except BadPeerIdError as error:
        raise ValueError(f"{text!r}: {error}") from error
    address = "/".join(parts[:-2])
    _, host, _, transport, port, *_ = (*parts, "", "", "", "", "")
    if host not in _HOSTS or (transport not in ("tcp", "udp") and host != "dnsaddr") or port == "0":
        raise ValueError(f"{text!r} has no address to dial: expected {_FORM}")
    if ("p2p-circuit" in parts) != (len(peer_ids) > 1):
        raise ValueError(f"{text!r}: a relay's address is /…/p2p/RELAY_ID/p2p-circuit/p2p/PEER_ID")
    try:
        from_text(address)
    except MalformedAddressError as error:
        raise ValueError(f"{text!r} is not a multiaddr: expected {_FORM}") from error
    return peer_ids[-1], address


def bootstrap_peers(addresses: list[str]) -> dict[str, list[str]]:
    """Group bootstrap multiaddrs by peer: `{peer_id: dialling addresses}`, in the order given."""
    grouped: dict[str, list[str]] = {}
    for text in addresses:
        peer_id, address = split_multiaddr(text)
        grouped.setdefault(peer_id, []).append(address)
    return grouped


class SwarmSettings(Settings):
    """Settings that crawler and workers have besides those of every service."""

    initial_peers: Annotated[list[Annotated[str, checked_by(split_multiaddr)]], CommaSeparated] = Field(
        default_factory=lambda: list(PUBLIC_INITIAL_PEERS),
        description="The swarm's bootstrap peers as multiaddrs `/ip4/…/tcp/…/p2p/ID`, comma-separated; "
        "default: the public Petals swarm's.",
        examples=["/ip4/192.0.2.1/tcp/31337/p2p/QmedTaZXmULqwspJXz44SsPZyTNKxhnnFvYRajfH7MGhCY"],
    )

    dial_private_addresses: DialPrivate = Field(
        DialPrivate.AUTO,
        description="Whether private, loopback and other unroutable addresses are dialled, which anyone can announce: "
        "`yes`, `no`, or `auto`: only in a private swarm with a bootstrap peer that has no public address.",
    )

    _split = field_validator("initial_peers", mode="before")(split_list)

    @field_validator("initial_peers")
    @classmethod
    def _are_some(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("expected at least one multiaddr")
        return value

    @property
    def bootstrap_peers(self) -> dict[str, list[str]]:
        return bootstrap_peers(self.initial_peers)

    @property
    def private_swarm(self) -> bool:
        """Whether this is another swarm than the public one."""
        return is_private_swarm(self.bootstrap_peers)
