"""This module reads libp2p's addresses (multiaddrs) without changing a byte of them.

An address is `bytes`, as libp2p wrote it, and goes back to p2pd as it came. Text is for people. hivemind's text form
writes peer ids as CIDs, which p2pd refuses for relays, and both it and PyPI's `multiaddr` raise for a protocol that
they do not know.

Format: https://github.com/multiformats/multiaddr: components of a code (varint) and a value, whose length follows from
the code or is written before it (varint). Codes: https://github.com/multiformats/multicodec/blob/master/table.csv.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import base58

if TYPE_CHECKING:
    from collections.abc import Iterable

IP4, TCP, IP6, UDP = 4, 6, 41, 273
DNS, DNS4, DNS6, DNSADDR = 53, 54, 55, 56
P2P, CIRCUIT = 421, 290
QUIC, QUIC_V1, WEBTRANSPORT, CERTHASH = 460, 461, 465, 466
TLS, SNI, WS, WSS = 448, 449, 477, 478
NAMES = frozenset({DNS, DNS4, DNS6, DNSADDR})

_SIZED = -1
"""In place of a length in bytes: a varint before the value gives its length."""
_PROTOCOLS: dict[int, tuple[str, int]] = {
    IP4: ("ip4", 4), TCP: ("tcp", 2), 33: ("dccp", 2), IP6: ("ip6", 16), 42: ("ip6zone", _SIZED), 43: ("ipcidr", 1),
    DNS: ("dns", _SIZED), DNS4: ("dns4", _SIZED), DNS6: ("dns6", _SIZED), DNSADDR: ("dnsaddr", _SIZED),
    132: ("sctp", 2), UDP: ("udp", 2), 280: ("webrtc-direct", 0), 281: ("webrtc", 0), CIRCUIT: ("p2p-circuit", 0),
    301: ("udt", 0), 302: ("utp", 0), 400: ("unix", _SIZED), P2P: ("p2p", _SIZED), 443: ("https", 0),
    444: ("onion", 12), 445: ("onion3", 37), 446: ("garlic64", _SIZED), 447: ("garlic32", _SIZED), TLS: ("tls", 0),
    SNI: ("sni", _SIZED), 454: ("noise", 0), QUIC: ("quic", 0), QUIC_V1: ("quic-v1", 0),
    WEBTRANSPORT: ("webtransport", 0), CERTHASH: ("certhash", _SIZED), WS: ("ws", 0), WSS: ("wss", 0),
    480: ("http", 0), 481: ("http-path", _SIZED), 777: ("memory", 8),
}  # fmt: skip
_CODES = {name: code for code, (name, _) in _PROTOCOLS.items()} | {"ipfs": P2P}
_PORTS = frozenset({TCP, UDP, 33, 132})
_PRINTABLE = re.compile(r"[\x21-\x2e\x30-\x7e]+")
MAX_TEXT_CHARS = 512


class MalformedAddressError(ValueError):
    """These bytes, or this text, are no multiaddr."""


class Component(NamedTuple):
    """One protocol of an address and its value. `known` is false where nothing after the code can be told apart."""

    code: int
    value: bytes
    known: bool = True


@lru_cache(maxsize=8192)
def components(address: bytes) -> tuple[Component, ...]:
    """Return an address's protocols in order; one of an unknown code is the last, with all bytes that follow it.

    Raises `MalformedAddressError`.
    """
    found: list[Component] = []
    place = 0
    while place < len(address):
        code, place = read_varint(address, place)
        name_and_length = _PROTOCOLS.get(code)
        if name_and_length is None:
            found.append(Component(code, address[place:], known=False))
            break
        length = name_and_length[1]
        if length == _SIZED:
            length, place = read_varint(address, place)
        if place + length > len(address):
            raise MalformedAddressError("an address ends early")
        found.append(Component(code, address[place : place + length]))
        place += length
    if not found:
        raise MalformedAddressError("an empty address")
    if join(found) != address:
        raise MalformedAddressError("a number that is written longer than it need be")
    return tuple(found)


def join(parts: Iterable[Component]) -> bytes:
    """Return the bytes of an address of these components: the inverse of `components`."""
    packed = bytearray()
    for code, value, known in parts:
        packed += varint(code)
        if known and _PROTOCOLS[code][1] == _SIZED:
            packed += varint(len(value))
        packed += value
    return bytes(packed)


class Circuit(NamedTuple):
    """The relay of an address that leads through one."""

    relay: str
    """The relay's peer id in base58."""
    relay_address: bytes
    """Where the relay is dialled; empty where the address does not say it."""


def split_circuit(parts: tuple[Component, ...]) -> Circuit | None:
    """Return the relay of an address that leads over exactly one, else None.

    Raises `MalformedAddressError` for a circuit that names no relay, leads over several, or goes on behind them.
    """
    places = [number for number, part in enumerate(parts) if part.code == CIRCUIT and part.known]
    if not places:
        return None
    if len(places) > 1:
        raise MalformedAddressError("a chain of relays")
    place = places[0]
    if place == 0 or parts[place - 1].code != P2P:
        raise MalformedAddressError("a circuit that names no relay")
    if any(part.code != P2P for part in parts[place + 1 :]):
        raise MalformedAddressError("a circuit that goes on behind its relay")
    return Circuit(base58.b58encode(parts[place - 1].value).decode(), join(parts[: place - 1]))


def is_circuit(address: bytes) -> bool:
    """Whether an address leads over a relay."""
    try:
        return any(part.code == CIRCUIT and part.known for part in components(address))
    except MalformedAddressError:
        return False


def relay_of(address: bytes) -> str | None:
    """Return the peer id of the relay that an address leads over; None for a direct one."""
    try:
        circuit = split_circuit(components(address))
    except MalformedAddressError:
        return None
    return None if circuit is None else circuit.relay


def circuit_through(relay: str) -> bytes:
    """Return the address "through this relay", for a daemon that is connected to it."""
    return join((Component(P2P, base58.b58decode(relay)), Component(CIRCUIT, b"")))


def to_text(address: bytes) -> str:
    """Return an address as people write it. Never raises: what has no text form is shown in hexadecimal digits."""
    try:
        parts = components(address)
    except MalformedAddressError:
        return f"/malformed/{address.hex()}"[:MAX_TEXT_CHARS]
    return "".join(map(_component_text, parts))[:MAX_TEXT_CHARS]


def _component_text(part: Component) -> str:
    if not part.known:
        return f"/unknown-protocol-{part.code}/{part.value.hex()}" if part.value else f"/unknown-protocol-{part.code}"
    name, length = _PROTOCOLS[part.code]
    return f"/{name}" if length == 0 else f"/{name}/{_value_text(part)}"


def _value_text(part: Component) -> str:
    if part.code == IP4:
        return str(ipaddress.IPv4Address(part.value))
    if part.code == IP6:
        return str(ipaddress.IPv6Address(part.value))
    if part.code in _PORTS:
        return str(int.from_bytes(part.value, "big"))
    if part.code == P2P:
        return base58.b58encode(part.value).decode()
    if part.code == CERTHASH:
        return "u" + base64.urlsafe_b64encode(part.value).decode().rstrip("=")  # multibase
    text = part.value.decode("ascii", "replace")
    return text if _PRINTABLE.fullmatch(text) else f"0x{part.value.hex()}"


def from_text(text: str) -> bytes:
    """Return the bytes of an address that an operator wrote. Raises `MalformedAddressError` that says what is wrong."""
    words = text.strip().split("/")
    if len(words) < 2 or words[0]:  # noqa: PLR2004 - "/" and a protocol
        raise MalformedAddressError(f"{text!r} does not begin with a protocol, such as /ip4/")
    parts: list[Component] = []
    remaining = iter(words[1:])
    for name in remaining:
        code = _CODES.get(name)
        if code is None:
            raise MalformedAddressError(f"{name!r} in {text!r} is not a protocol of an address")
        if _PROTOCOLS[code][1] == 0:
            parts.append(Component(code, b""))
            continue
        try:
            parts.append(Component(code, _value_bytes(code, next(remaining))))
        except StopIteration:
            raise MalformedAddressError(f"{text!r} ends after {name!r}") from None
        except ValueError as error:
            raise MalformedAddressError(f"{text!r}: bad value for {name!r}") from error
    return join(parts)


def packed(texts: Iterable[str]) -> list[bytes]:
    """Return addresses as bytes, but for those that this version cannot write."""
    found = []
    for text in texts:
        with suppress(MalformedAddressError):
            found.append(from_text(text))
    return found


def _value_bytes(code: int, text: str) -> bytes:
    if code == IP4:
        return ipaddress.IPv4Address(text).packed
    if code == IP6:
        return ipaddress.IPv6Address(text).packed
    if code in _PORTS:
        port = int(text) if text.isascii() and text.isdigit() else -1
        if not 0 <= port < 1 << 16:
            raise ValueError("not a port")
        return port.to_bytes(2, "big")
    if code == P2P:
        return base58.b58decode(text)
    if code == CERTHASH and text.startswith("u"):
        return base64.urlsafe_b64decode(text[1:] + "=" * (-len(text[1:]) % 4))
    if _PROTOCOLS[code][1] != _SIZED or not text or code == CERTHASH:
        raise ValueError("cannot be written as text")
    return text.encode()


def varint(number: int) -> bytes:
    """Return an unsigned number as protobuf and multiformats write it: seven bits per byte, the lowest first."""
    packed = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits per byte
        packed.append(number & 0x7F | 0x80)
        number >>= 7
    packed.append(number)
    return bytes(packed)


MAX_VARINT_BITS = 63


def read_varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the number at a place in the bytes, and the place behind it. Raises `MalformedAddressError`."""
    number = shift = 0
    while place < len(data):
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004 - the last byte
            return number, place
        if shift > MAX_VARINT_BITS:
            break
    raise MalformedAddressError("a number without an end")
