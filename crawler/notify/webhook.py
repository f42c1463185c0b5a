"""This module POSTs a signed JSON document to the address that the operator chose, and to no other.

The host name is resolved once, each of its addresses must be public (unless private ones are allowed), and the
connection goes to an address that was checked. So a name that resolves differently a moment later has no effect.
Redirects, proxies and cookies are not used; of the answer, only the status counts.
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

from shared.address_text import is_public

TIMEOUT = 10.0
"""Seconds for each step of the connection."""
MAX_ADDRESSES = 4
"""Addresses of a receiver that are tried: a notice delays those behind it."""
MAX_NAME = 253
SIGNATURE_HEADER = "X-Petals-Signature"
TIMESTAMP_HEADER = "X-Petals-Timestamp"


class DeliveryError(Exception):
    """The document was not delivered. The message says why, without the URL, which may hold a secret."""


class Target(NamedTuple):
    """A parsed webhook URL, made by `parse_target`."""

    host: str
    port: int
    tls: bool
    path: str


def parse_target(url: str) -> Target:
    """Return a parsed http or https URL. Raises `ValueError` whose message does not quote it: it may hold a secret."""
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
    """Return an IP address unchanged, and a host name as DNS spells it (`xn--…` for other scripts)."""
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
    """Whether the host is a private IP address or localhost. A name's addresses are checked at each delivery."""
    try:
        ipaddress.ip_address(target.host)
    except ValueError:
        return target.host == "localhost"
    return not is_public(target.host)


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """Return HMAC-SHA256 over `TIMESTAMP.BODY`, by which a receiver knows the sender and that nothing is replayed."""
    return "sha256=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class Webhook(NamedTuple):
    """The operator's receiver."""

    target: Target
    secret: bytes | None
    allow_private: bool
    now: Callable[[], float] = time.time
    """Returns Unix seconds, for the timestamp header."""

    def deliver(self, body: bytes) -> None:
        """POST `body`. Raises `DeliveryError`. Blocks: call it in a thread."""
        target, timestamp = self.target, str(int(self.now()))
        host = f"[{target.host}]" if ":" in target.host else target.host
        headers = {
            "Host": host if target.port == (443 if target.tls else 80) else f"{host}:{target.port}",
            "Content-Type": "application/json",
            "User-Agent": "petals-health-monitor",
            TIMESTAMP_HEADER: timestamp,
        }
        if self.secret is not None:
            headers[SIGNATURE_HEADER] = signature(self.secret, timestamp, body)
        connection = http.client.HTTPConnection(target.host, target.port, timeout=TIMEOUT)
        try:
            connection.sock = _connect(target, allow_private=self.allow_private)
            connection.request("POST", target.path, body, headers)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            raise DeliveryError(f"{type(error).__name__}: {error}"[:200]) from error
        finally:
            connection.close()
        if not 200 <= status < 300:  # noqa: PLR2004 - a redirect is not followed, so it is a failure
            raise DeliveryError(f"the receiver answered {status}")


def _connect(target: Target, *, allow_private: bool) -> socket.socket:
    """Return a connection to the first of the receiver's checked addresses that accepts it."""
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
    if not allow_private and not all(map(is_public, addresses)):
        raise DeliveryError("the receiver's address is private: set INCIDENT_WEBHOOK_ALLOW_PRIVATE if it is yours")
    return addresses
