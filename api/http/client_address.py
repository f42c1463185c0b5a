"""This module returns the address that a request came from, and whether the operator trusts it."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope

    from api.settings import Networks


def client_address(scope: Scope) -> str:
    """Return the client's IP address (uvicorn replaces a trusted proxy's by its X-Forwarded-For), or "unknown"."""
    client = scope.get("client")
    try:
        address = ipaddress.ip_address(client[0] if client is not None else "")
    except ValueError:
        return "unknown"
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def rate_key(address: str) -> str:
    """Return the key under which the rate limit counts an address of `client_address`: for IPv6 its /64 network."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address  # noqa: PLR2004 - IPv6


def is_trusted(address: str, trusted: Networks) -> bool:
    """Whether an address of `client_address` is in one of the networks."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in trusted)
