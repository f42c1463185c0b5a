"""This module parses `rpc_info` answers: as hostile as DHT records, but only the server itself can have sent one."""

from __future__ import annotations

import re

import msgspec

MAX_INFO_BYTES = 4096
"""A genuine answer takes 64."""
_VERSION = re.compile(r"[\x21-\x7e]{1,32}")


class _Info(msgspec.Struct):
    version: str


_decoder = msgspec.msgpack.Decoder(_Info)


def read_version(serialized_info: bytes) -> str | None:
    """Return the petals version in an answer, None where it is not one that petals gives."""
    if len(serialized_info) > MAX_INFO_BYTES:
        return None
    try:
        version = _decoder.decode(serialized_info).version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return version if _VERSION.fullmatch(version) else None
