"""A name server for the Internet in a box: A, AAAA and TXT records, and names that some askers are not told."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from dataclasses import dataclass, field

PORT = 53
NXDOMAIN, NOERROR = 3, 0
TYPES = {1: "A", 28: "AAAA", 16: "TXT"}
TTL = 1


@dataclass
class Names(asyncio.DatagramProtocol):
    """Answers over UDP from `records`, `{(name, type): value}`."""

    records: dict[tuple[str, str], str] = field(default_factory=dict)
    hidden: set[tuple[str, str]] = field(default_factory=set)
    """(asker's address, name): for this asker the name does not exist."""

    async def serve(self, address: str) -> None:
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, local_addr=(address, PORT))

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        # A question is a header of 12 bytes, labels (each after its length, an empty one at the end), type and class.
        labels, at = [], 12
        while length := data[at]:
            labels.append(data[at + 1 : at + 1 + length].decode().lower())
            at += 1 + length
        question = data[12 : at + 5]
        name, kind = ".".join(labels), TYPES.get(struct.unpack("!H", data[at + 1 : at + 3])[0], "")
        known = any(name == other for other, _ in self.records) and (addr[0], name) not in self.hidden
        value = self.records.get((name, kind)) if known else None
        answer = b"" if value is None else b"\xc0\x0c" + question[-4:] + struct.pack("!I", TTL) + _data(kind, value)
        code = NOERROR if known else NXDOMAIN
        header = data[:2] + struct.pack("!HHHHH", 0x8580 | code, 1, 1 if answer else 0, 0, 0)
        self._transport.sendto(header + question + answer, addr)


def _data(kind: str, value: str) -> bytes:
    """Return a record's value after its length."""
    text = value.encode()
    packed = bytes([len(text)]) + text if kind == "TXT" else ipaddress.ip_address(value).packed
    return struct.pack("!H", len(packed)) + packed
