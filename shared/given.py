"""This module parses the multiaddrs that clients give to be dialled.

The text is hostile, so only a few forms are accepted: TCP or QUIC at an IP address or host name, directly or through
one relay. So whatever listens there receives only the start of a libp2p handshake (WebSocket would send an HTTP
request).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from shared import words
from shared.address_text import MAX_PORT
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from shared.reachability import Answer

MAX_GIVEN = 8
"""Addresses of one peer that are taken."""
MAX_GIVEN_CHARS = 400
_FORM = re.compile(
    r"/(?P<protocol>ip4|ip6|dns|dns4|dns6)/(?P<host>[^/\s]{1,253})"
    r"(?:/tcp/(?P<tcp>\d{1,5})|/udp/(?P<udp>\d{1,5})/(?P<quic>quic-v1|quic))"
    r"(?:/(?:p2p|ipfs)/(?P<relay>\w{1,128})/p2p-circuit)?"
    r"(?:/(?:p2p|ipfs)/(?P<peer>\w{1,128}))?",
    re.ASCII,
)
_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")


class BadAddressError(ValueError):
    """The address cannot be dialled; the message says why."""


@dataclass(frozen=True, slots=True)
class GivenAddress:
    """A peer's address as a client gave it, in canonical spelling. `str` returns the whole multiaddr."""

    peer_id: str
    address: str
    """The multiaddr without the peer's id."""

    def __str__(self) -> str:
        return f"{self.address}/p2p/{self.peer_id}"

    @classmethod
    def read(cls, text: str, peer_id: str | None = None) -> Self:
        """Parse an address. Its last part may be the peer's id, and must be where `peer_id` is not given.

        Raises `BadAddressError`.
        """
        if len(text) > MAX_GIVEN_CHARS:
            raise BadAddressError(f"the address is too long: {len(text)} characters, at most {MAX_GIVEN_CHARS}")
        form = _FORM.fullmatch(text)
        if form is None:
            raise BadAddressError(
                f"{words.cut(text, 80)!r} is no address that is dialled: expected /ip4/IP/tcp/PORT, "
                "/ip4/IP/udp/PORT/quic-v1, or either with /p2p/RELAY/p2p-circuit behind it"
            )
        named = _peer_id(form["peer"]) if form["peer"] else None
        if named is None and peer_id is None:
            raise BadAddressError("the address names no peer: /p2p/PEER_ID is missing at its end")
        if named is not None and peer_id is not None and named != peer_id:
            raise BadAddressError(f"the address names another peer than the one to be checked: {named}, not {peer_id}")
        transport = f"tcp/{_port(form['tcp'])}" if form["tcp"] else f"udp/{_port(form['udp'])}/{form['quic']}"
        circuit = f"/p2p/{_peer_id(form['relay'])}/p2p-circuit" if form["relay"] else ""
        host = _host(form["protocol"], form["host"])
        return cls(named or peer_id or "", f"/{form['protocol']}/{host}/{transport}{circuit}")


def _peer_id(text: str) -> str:
    try:
        return parse_peer_id(text)
    except BadPeerIdError as error:
        raise BadAddressError(f"in the address, {error}") from error


def _port(digits: str) -> int:
    if not 0 < int(digits) <= MAX_PORT:
        raise BadAddressError(f"{digits} is no port")
    return int(digits)


def _host(protocol: str, host: str) -> str:
    try:
        match protocol:
            case "ip4":
                return str(ipaddress.IPv4Address(host))
            case "ip6":
                if "%" in host:
                    raise BadAddressError("an address with a zone leads nowhere from elsewhere")
                return str(ipaddress.IPv6Address(host))
    except ValueError as error:
        raise BadAddressError(str(error)) from error
    if _NAME.fullmatch(host.lower()) is None:
        raise BadAddressError(f"{words.cut(host, 80)!r} is no host name")
    return host.lower()


@dataclass(frozen=True, slots=True)
class GivenDial:
    """How the dial of one given address ended. The verdict is unknown where nobody could dial it."""

    address: str
    """Without the peer's id, as far as that could be read."""
    outcome: DialOutcome
    vantage: str | None = None
    checked_at: float | None = None
    """Unix seconds; None where it was not dialled."""

    @classmethod
    def of(cls, given: GivenAddress, answer: Answer) -> Self:
        return cls(given.address, answer.outcome, answer.vantage, answer.checked_at)

    @classmethod
    def refused(cls, text: str, why: str) -> Self:
        """Return the result for an address that cannot be dialled."""
        outcome = DialOutcome.unknown(Cause.NOT_DIALABLE, stage=Stage.LOOKUP, error=why)
        return cls(words.cut(text, MAX_GIVEN_CHARS), outcome)

    @property
    def dialled(self) -> bool:
        """Whether a connection was tried."""
        return self.outcome.verdict is not Verdict.UNKNOWN or self.outcome.stage not in (Stage.QUEUE, Stage.LOOKUP)
