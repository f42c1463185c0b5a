"""The validating edge: DHT records are hostile text until they have passed here.

Records carry no signature, so anyone who reaches one bootstrap peer can write any of them. What passes is
bounded in every dimension by a limit that has a name; what does not is refused with a reason, which is
counted and shown. Petals' own classes decide what a record of the wire format is.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

import msgpack
import msgspec

from crawler.models import MAX_BLOCKS, Model
from shared.p2p.petals import ModelInfo, ServerInfo, ServerState
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.snapshot import PeerState

MAX_RECORD_BYTES = 64 * 1024
"""A genuine record takes about 500 bytes; one with pings to 200 servers 12 kB."""
MAX_PREFIX = 128
MAX_REPOSITORY = 256
MAX_PUBLIC_NAME = 100
MAX_VERSION = 32
MAX_TYPE_NAME = 24
MAX_ADAPTERS = 32
MAX_ADAPTER_NAME = 128
MAX_NEXT_PINGS = 256
MAX_PING = 3600.0
MAX_RPS = 1e9
MAX_CACHE_TOKENS = 10**12
MAX_TUPLE_DEPTH = 4
_TUPLE_CODE = 0x40


class RefusedError(ValueError):
    """The record is not used. The message is the reason: a short name, for counting."""


class ServerRecord(msgspec.Struct, frozen=True):
    """What one server announces for one block, validated. Units as in `ServerReport`."""

    state: PeerState
    throughput: float
    start_block: int | None = None
    end_block: int | None = None
    public_name: str | None = None
    version: str | None = None
    network_rps: float | None = None
    forward_rps: float | None = None
    inference_rps: float | None = None
    adapters: tuple[str, ...] = ()
    torch_dtype: str | None = None
    quant_type: str | None = None
    using_relay: bool | None = None
    cache_tokens_left: int | None = None
    next_pings: dict[str, float] | None = None


_STATES = {
    ServerState.OFFLINE: PeerState.OFFLINE,
    ServerState.JOINING: PeerState.JOINING,
    ServerState.ONLINE: PeerState.ONLINE,
}
_HUB_REPOSITORY = re.compile(r"https://huggingface\.co/[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?/?")
_PREFIX = re.compile(r"[^\s.\"'`\\<>&]+")


def bad_prefix(prefix: str) -> str | None:
    """Say why this is no DHT prefix, None where it is one.

    Petals splits `{prefix}.{block}` at the dot and chains of blocks at spaces, so no client can use a prefix
    that has either.
    """
    if not prefix:
        return "the prefix is empty"
    if len(prefix) > MAX_PREFIX:
        return f"the prefix is longer than {MAX_PREFIX} characters"
    if not _PREFIX.fullmatch(prefix) or clean_text(prefix, MAX_PREFIX) != prefix:
        return "the prefix has dots, spaces, quotes or unprintable characters"
    return None


def read_model(prefix: str, packed: bytes, *, private_swarm: bool) -> Model:
    """Read one entry of `_petals.models`. Raises `RefusedError`."""
    if bad_prefix(prefix):
        raise RefusedError("bad_prefix")
    value = _unpack(packed)
    if not isinstance(value, dict):
        raise RefusedError("model_not_a_dict")
    try:
        # Fields that a later petals adds are ignored, as petals ignores them in server records.
        info = ModelInfo(num_blocks=value.get("num_blocks"), repository=value.get("repository"))
    except (TypeError, ValueError) as error:
        raise RefusedError("bad_model_info") from error
    if info.num_blocks > MAX_BLOCKS:
        raise RefusedError("too_many_blocks")
    repository = info.repository
    if repository is None or len(repository) > MAX_REPOSITORY or not _HUB_REPOSITORY.fullmatch(repository):
        if not private_swarm:
            raise RefusedError("repository_not_on_hub")
        repository = None
    return Model(prefix, info.num_blocks, repository, official=False)


def read_server(packed: bytes) -> ServerRecord:
    """Read one server's value. Raises `RefusedError`."""
    value = _unpack(packed)
    if not isinstance(value, list | tuple):
        raise RefusedError("server_not_a_tuple")
    try:
        info = ServerInfo.from_tuple(tuple(value))
    except Exception as error:  # pydantic's, Enum's and tuple unpacking's errors have no common class
        raise RefusedError("bad_server_info") from error
    if info.start_block is not None and info.end_block is not None and info.start_block >= info.end_block:
        raise RefusedError("reversed_span")
    return ServerRecord(
        state=_STATES[info.state],
        throughput=_number(info.throughput, MAX_RPS),
        start_block=info.start_block,
        end_block=info.end_block,
        public_name=_optional_text(info.public_name, MAX_PUBLIC_NAME),
        version=_optional_text(info.version, MAX_VERSION),
        network_rps=_optional_number(info.network_rps, MAX_RPS),
        forward_rps=_optional_number(info.forward_rps, MAX_RPS),
        inference_rps=_optional_number(info.inference_rps, MAX_RPS),
        adapters=tuple(filter(None, (clean_text(name, MAX_ADAPTER_NAME) for name in info.adapters[:MAX_ADAPTERS]))),
        torch_dtype=_optional_text(info.torch_dtype, MAX_TYPE_NAME),
        quant_type=_optional_text(info.quant_type, MAX_TYPE_NAME),
        using_relay=info.using_relay,
        cache_tokens_left=None if info.cache_tokens_left is None else min(info.cache_tokens_left, MAX_CACHE_TOKENS),
        next_pings=None if info.next_pings is None else _pings(info.next_pings),
    )


def check_peer_id(text: str) -> str:
    """Return a subkey's peer id in its canonical form. Raises `RefusedError`."""
    try:
        return parse_peer_id(text)
    except BadPeerIdError as error:
        raise RefusedError("bad_peer_id") from error


def check_block(record: ServerRecord, block: int) -> None:
    """A record stands under each block that it covers. Raises `RefusedError` for one that does not."""
    if record.start_block is None or record.end_block is None:
        return
    if not record.start_block <= block < record.end_block:
        raise RefusedError("span_excludes_block")


def clean_text(text: str, limit: int) -> str:
    """Drop what is not visible (control, bidi, surrogates, separators), then cut. May return an empty string."""
    text = text[: 4 * limit]
    kept = (char for char in text if char == " " or unicodedata.category(char)[0] not in "CZ")
    return "".join(kept).strip()[:limit]


def _unpack(packed: bytes) -> Any:
    if not isinstance(packed, bytes):
        raise RefusedError("not_bytes")
    if len(packed) > MAX_RECORD_BYTES:
        raise RefusedError("record_too_long")
    try:
        return _unpack_value(packed, 0)
    except RefusedError:
        raise
    except Exception as error:  # msgpack raises its own, ValueError, RecursionError, UnicodeDecodeError, …
        raise RefusedError("undecodable") from error


def _unpack_value(packed: bytes, depth: int) -> Any:
    """Decode as hivemind does, where tuples are an extension that holds msgpack, but not to any depth."""

    def extension(code: int, data: bytes) -> Any:
        if code != _TUPLE_CODE:
            raise RefusedError("unknown_extension")
        if depth >= MAX_TUPLE_DEPTH:
            raise RefusedError("nested_too_deep")
        return tuple(_unpack_value(data, depth + 1))

    return msgpack.unpackb(packed, raw=False, strict_map_key=False, ext_hook=extension)


def _number(value: float, limit: float) -> float:
    if not math.isfinite(value) or value < 0:
        raise RefusedError("bad_number")
    return min(float(value), limit)


def _optional_number(value: float | None, limit: float) -> float | None:
    return None if value is None else _number(value, limit)


def _optional_text(value: str | None, limit: int) -> str | None:
    return None if value is None else clean_text(value, limit) or None


def _pings(announced: dict[str, float]) -> dict[str, float]:
    """Keep pings to peers that can exist; `inf` says that the peer did not answer."""
    pings: dict[str, float] = {}
    for peer_id, seconds in announced.items():
        if len(pings) >= MAX_NEXT_PINGS:
            break
        if math.isnan(seconds) or seconds < 0:
            continue
        try:
            pings[parse_peer_id(peer_id)] = seconds if math.isinf(seconds) else min(seconds, MAX_PING)
        except BadPeerIdError:
            continue
    return pings
