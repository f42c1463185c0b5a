"""The settings of those services that join the swarm."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import field_validator

from shared.p2p.addresses import DialPrivate, is_private_swarm
from shared.p2p.hivemind import Multiaddr
from shared.p2p.petals import PUBLIC_INITIAL_PEERS
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.settings import CommaSeparated, Field, Settings, split_list


class SwarmSettings(Settings):
    """What the crawler and the workers are told besides what every service is."""

    initial_peers: Annotated[list[str], CommaSeparated] = Field(
        default_factory=lambda: list(PUBLIC_INITIAL_PEERS),
        description="The swarm's bootstrap peers as multiaddrs `/ip4/…/tcp/…/p2p/ID`, comma-separated; "
        "default: the public Petals swarm's.",
    )

    dial_private_addresses: DialPrivate = Field(
        DialPrivate.AUTO,
        description="Whether private, loopback and other unroutable addresses are dialled, which anyone can announce; "
        "`auto`: only where the swarm is your own and a bootstrap peer of it has no public address; `yes`; `no`.",
    )

    _split = field_validator("initial_peers", mode="before")(split_list)

    @field_validator("initial_peers")
    @classmethod
    def _are_multiaddrs(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("expected at least one multiaddr")
        for address in value:
            split_multiaddr(address)
        return value

    @property
    def bootstrap_peers(self) -> dict[str, list[str]]:
        return bootstrap_peers(self.initial_peers)

    @property
    def private_swarm(self) -> bool:
        """Whether this is another swarm than the public one."""
        return is_private_swarm(self.bootstrap_peers)


def split_multiaddr(text: Any) -> tuple[str, str]:
    """Return a bootstrap peer's (peer id, dialling address). Raises `ValueError` that says what is wrong."""
    try:
        address = Multiaddr(text)
        peer_id = parse_peer_id(address["p2p"])
    except BadPeerIdError as error:
        raise ValueError(f"{text!r}: {error}") from error
    except KeyError as error:
        raise ValueError(f"{text!r} names no peer: expected …/p2p/PEER_ID at its end") from error
    except Exception as error:
        # multiaddr raises a dozen kinds, with the text in some.
        raise ValueError(f"{text!r} is not a multiaddr: expected /ip4/HOST/tcp/PORT/p2p/PEER_ID") from error
    return peer_id, str(text).rpartition("/p2p/")[0]


def bootstrap_peers(addresses: list[str]) -> dict[str, list[str]]:
    """Group bootstrap multiaddrs by peer: `{peer_id: dialling addresses}`, in the order given."""
    grouped: dict[str, list[str]] = {}
    for text in addresses:
        peer_id, address = split_multiaddr(text)
        grouped.setdefault(peer_id, []).append(address)
    return grouped
