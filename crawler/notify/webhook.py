"""POST a signed JSON document to an address that the operator chose, and to nowhere else.

The name is resolved once, every address of it must be public (unless private ones are allowed), and the
connection goes to an address that was checked: a name that changes its mind in between leads nowhere. No
redirects, no proxies, no cookies; of the answer, only the status counts.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable  # noqa: TC003 - a NamedTuple reads it
from typing import NamedTuple
from urllib.parse import urlsplit

TIMEOUT = 10.0
"""Seconds for each step of the connection."""
MAX_ADDRESSES = 4
"""Of a receiver, how many are tried: a notice holds up those behind it."""
MAX_NAME = 253
SIGNATURE_HEADER = "X-Petals-Signature"
TIMESTAMP_HEADER = "X-Petals-Timestamp"


class DeliveryError(Exception):
    """It was not delivered. The message says why, without the URL, which may hold a secret."""


class Target(NamedTuple):
    """Where to. Made by `parse_target`."""

    host: str
    port: int
    tls: bool
    path: str


def parse_target(url: str) -> Target:
    """Raises `ValueError` for anything but a plain http or https URL, without the URL's words: it may be a secret."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("not a URL: a PORT is from 1 to 65535, an IPv6 address stands in [ ]") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("expected http://HOST/… or https://HOST/…")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a user or password in the URL is not sent; put a token into its path or use the secret")
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if parts.fragment or not path.isascii() or not path.isprintable() or " " in path:
        raise ValueError("the path has characters that must be percent-encoded")
    return Target(_ascii_host(parts.hostname), port or (443 if tls else 80), tls, path)


_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")


def _ascii_host(host: str) -> str:
    """Return an IP address as it is, a name as DNS has it: `xn--…` where it is written in another script."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        name = host.encode("idna").decode()
    except UnicodeError:
        name = ""
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise ValueError("the host is neither an IP address nor a name that DNS can have")
    return name


def is_private_literal(target: Target) -> bool:
    """Whether the host is an IP address that is not public: what a name stands for is looked up at each delivery."""
    try:
        ipaddress.ip_address(target.host)
    except ValueError:
        return target.host == "localhost"
    return not _is_public(target.host)


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over `TIMESTAMP.BODY`: a receiver that checks both knows who sent it, and that it is not replayed."""
    return "sha256=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def post(
    target: Target,
    body: bytes,
    *,
    secret: bytes | None,
    allow_private: bool,
    now: Callable[[], float] = time.time,
) -> None:
    """Deliver, or raise `DeliveryError`. Blocks: call it in a thread. `now` returns Unix seconds."""
    timestamp = str(int(now()))
    host = f"[{target.host}]" if ":" in target.host else target.host
    headers = {
        "Host": host if target.port == (443 if target.tls else 80) else f"{host}:{target.port}",
        "Content-Type": "application/json",
        "User-Agent": "petals-health-monitor",
        TIMESTAMP_HEADER: timestamp,
    }
    if secret is not None:
        headers[SIGNATURE_HEADER] = signature(secret, timestamp, body)
    connection = http.client.HTTPConnection(target.host, target.port, timeout=TIMEOUT)
    try:
        connection.sock = _connect(target, allow_private=allow_private)
        connection.request("POST", target.path, body, headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise DeliveryError(f"{type(error).__name__}: {error}"[:200]) from error
    finally:
        connection.close()
    if not 200 <= status < 300:  # noqa: PLR2004 - a redirect is not followed, and so is a failure
        raise DeliveryError(f"the receiver answered {status}")


class Webhook(NamedTuple):
    """The operator's receiver."""

    target: Target
    secret: bytes | None
    allow_private: bool
    now: Callable[[], float] = time.time
    """Unix seconds by the clock that receivers compare with theirs."""

    def deliver(self, body: bytes) -> None:
        """As `post`."""
        post(self.target, body, secret=self.secret, allow_private=self.allow_private, now=self.now)


def _connect(target: Target, *, allow_private: bool) -> socket.socket:
    """Connect to the first of the receiver's addresses that takes it; all of them were checked."""
    refused: OSError | None = None
    for address in _checked_addresses(target, allow_private=allow_private)[:MAX_ADDRESSES]:
        try:
            return _secured(socket.create_connection((address, target.port), timeout=TIMEOUT), target)
        except OSError as error:
            refused = error
    raise refused or OSError("the receiver's name has no address")


def _secured(plain: socket.socket, target: Target) -> socket.socket:
    if not target.tls:
        return plain
    try:
        return ssl.create_default_context().wrap_socket(plain, server_hostname=target.host)
    except BaseException:
        plain.close()
        raise


def _checked_addresses(target: Target, *, allow_private: bool) -> list[str]:
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise DeliveryError("the receiver's name is none that DNS can have") from error
    addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
    if not allow_private and not all(map(_is_public, addresses)):
        raise DeliveryError("the receiver's address is private: set INCIDENT_WEBHOOK_ALLOW_PRIVATE if it is yours")
    return addresses


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is not None or address in _NAT64:  # ways to write an IPv4 address: say it plainly
            return False
    return address.is_global and not address.is_multicast
