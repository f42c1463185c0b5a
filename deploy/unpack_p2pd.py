"""This module unpacks hivemind's p2pd, once, at installation: `python -m deploy.unpack_p2pd`.

hivemind ships p2pd packed by UPX. Packed, it unpacks itself into private memory at each start: 30 MB and 0.1 s of a
core more per daemon. Unpacked, the daemons of a machine share its pages, 27 MB. The monitor runs four and more.

Only the file that hivemind 1.1.12 ships is unpacked, known by its hash, and only into the file that is known to come
out; any other is left as it is. UPX's own tool is in neither Debian 12 nor PyPI.

Formats: https://github.com/upx/upx/blob/devel/src/stub/src/include/linux.h (blocks of a packed ELF file),
http://www.oberhumer.com/opensource/ucl/ (NRV2E, the compression of these blocks).
"""

from __future__ import annotations

import hashlib
import struct
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKED = "42f8f48e62583b97cdba3c31439c08029fb2b9fc506b5bdd82c46b7cc1d279d8"
UNPACKED = "47264fa6f7509f53a7ae82653c1656327b19cc6e0d100e0591a673792b72d039"
"""SHA-256 of hivemind 1.1.12's p2pd, and of what comes out of it."""

ELF_HEADER, PROGRAM_HEADER = 64, struct.Struct("<IIQQQQQQ")
UPX_HEADERS = 24
"""Bytes between the packed file's program headers and its first block."""
BLOCK = struct.Struct("<IIBBBB")
"""Of each block: its size unpacked and packed, its method, and three bytes about filters, which p2pd has none of."""
NRV2E, LOADABLE = 8, 1
LAST_DISTANCE, END_OF_STREAM, LONG_DISTANCE = 2, 0xFFFFFFFF, 0x500
"""Codes of NRV2E: the distance is the last one again; there is no more; from here on a match is one byte longer."""


def nrv2e(packed: bytes, size: int) -> bytearray:  # noqa: C901 - one loop, as the format is
    """Return the `size` bytes that NRV2E with little-endian 32-bit words of control bits made `packed` of."""
    made = bytearray(size)
    place = read = word = bits_left = 0
    last_distance = 1

    def bit() -> int:
        nonlocal word, bits_left, read
        if not bits_left:
            word, bits_left = int.from_bytes(packed[read : read + 4], "little"), 32
            read += 4
        bits_left -= 1
        return word >> bits_left & 1

    while True:
        while bit():  # a byte as it is
            made[place] = packed[read]
            place += 1
            read += 1
        distance = 2 + bit()
        while not bit():
            distance = (distance - 1) * 2 + bit()
            distance = distance * 2 + bit()
        if distance == LAST_DISTANCE:
            distance, long = last_distance, bit()
        else:
            distance = (distance - 3) * 256 + packed[read]
            read += 1
            if distance == END_OF_STREAM:
                return made
            long = ~distance & 1
            distance = last_distance = (distance >> 1) + 1
        if long:
            length = 2 + bit()
        elif bit():
            length = 4 + bit()
        else:
            length = 2 + bit()
            while not bit():
                length = length * 2 + bit()
            length += 4
        length += distance > LONG_DISTANCE
        start = place - distance
        copied = bytes(made[start : min(place, start + length)])
        made[place : place + length] = (copied * (length // distance + 1))[:length]  # may run into what it writes
        place += length


def blocks(packed: bytes) -> Iterator[bytes]:
    """Unpack the blocks of a packed ELF file: its headers, then what each loadable segment holds."""
    (segments,) = struct.unpack_from("<H", packed, 56)
    place = ELF_HEADER + segments * PROGRAM_HEADER.size + UPX_HEADERS
    while True:
        size, size_packed, method, *_ = BLOCK.unpack_from(packed, place)
        if method != NRV2E or not size:
            return
        place += BLOCK.size
        yield bytes(nrv2e(packed[place : place + size_packed], size))
        place += size_packed


def unpacked(packed: bytes) -> bytes:
    """Return the ELF file that was packed, without its section headers: only debuggers read them."""
    headers, *contents = blocks(packed)
    (first,) = struct.unpack_from("<Q", headers, 32)
    (count,) = struct.unpack_from("<H", headers, 56)
    segments = [PROGRAM_HEADER.unpack_from(headers, first + number * PROGRAM_HEADER.size) for number in range(count)]
    loadable = [(offset, size) for kind, _, offset, _, _, size, *_ in segments if kind == LOADABLE]
    image = bytearray(max(offset + size for offset, size in loadable))
    for (offset, size), content in zip(loadable, contents, strict=True):
        end = offset + size
        image[end - len(content) : end] = content  # the first segment begins with the headers, a block of their own
    image[: len(headers)] = headers
    struct.pack_into("<Q", image, 40, 0)
    struct.pack_into("<HHH", image, 58, 0, 0, 0)
    return bytes(image)


def unpack(file: Path) -> str:
    """Replace the file by what it unpacks to, if it is the one that is known. Returns what was done."""
    before = file.read_bytes()
    found = hashlib.sha256(before).hexdigest()
    if found == UNPACKED:
        return "p2pd is unpacked already"
    if found != PACKED:
        return "p2pd is not the one of hivemind 1.1.12: left as it is"
    after = unpacked(before)
    if hashlib.sha256(after).hexdigest() != UNPACKED:
        return "p2pd did not unpack to what is known: left as it is"
    beside = file.with_name(file.name + ".new")
    beside.write_bytes(after)
    beside.chmod(file.stat().st_mode)
    beside.replace(file)
    return "p2pd unpacked"


def main() -> None:
    package = find_spec("hivemind")  # does not load it
    if package is None or package.origin is None:
        sys.exit("hivemind is not installed")
    print(unpack(Path(package.origin).parent / "hivemind_cli/p2pd"))


if __name__ == "__main__":
    main()
