"""This module validates DHT records, which are hostile until they have passed here.

Records carry no signature, so anyone who reaches one bootstrap peer can write any of them. Each field that passes has a
named limit; a record that does not pass is refused with a reason, which is counted and shown. Petals' own classes
define the wire format.
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgpack

from crawler.models import MAX_BLOCKS, Model
from crawler.text import bad_prefix, clean_text
from shared.p2p.petals import ModelInfo, ServerInfo, ServerState
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.snapshot import Announcement, PeerState

MAX_RECORD_BYTES = 64 * 1024
"""A genuine record takes about 500 bytes; one with pings to 200 servers 12 kB."""
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
    """The record is not used. The message is the reason: a short name that becomes a metric label."""


class ServerRecord(Announcement, frozen=True):
    """What one server announces for one block, validated."""

    state: PeerState
    start_block: int | None = None
    end_block: int | None = None


_STATES = {
    ServerState.OFFLINE: PeerState.OFFLINE,
    ServerState.JOINING: PeerState.JOINING,
    ServerState.ONLINE: PeerState.ONLINE,
}
_HUB_REPOSITORY = re.compile(r"https://huggingface\.co/[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?/?")


def read_model(prefix: str, packed: bytes, *, private_swarm: bool) -> Model:
    """Return the model that one entry of `_petals.models` announces. Raises `RefusedError`."""
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
    """Return the record that one server's value holds. Raises `RefusedError`."""
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
        throughput=min(info.throughput, MAX_RPS),
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
    """Check that the record's span covers the block that it is announced for. Raises `RefusedError`."""
    if record.start_block is None or record.end_block is None:
        return
    if not record.start_block <= block < record.end_block:
        raise RefusedError("span_excludes_block")


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
    """Return the decoded value. As in hivemind, tuples are an extension that holds msgpack; depth is limited."""

    def extension(code: int, data: bytes) -> Any:
        if code != _TUPLE_CODE:
            raise RefusedError("unknown_extension")
        if depth >= MAX_TUPLE_DEPTH:
            raise RefusedError("nested_too_deep")
        return tuple(_unpack_value(data, depth + 1))

    # Keys of maps are text or bytes, as petals reads them: of others a stranger can choose any number with one hash.
    return msgpack.unpackb(packed, ext_hook=extension)


def _optional_number(value: float | None, limit: float) -> float | None:
    return None if value is None else min(value, limit)


def _optional_text(value: str | None, limit: int) -> str | None:
    return None if value is None else clean_text(value, limit) or None


def _pings(announced: dict[str, float]) -> dict[str, float]:
    """Return the pings (seconds) to valid peer ids; `inf` means that the peer did not answer."""
    pings: dict[str, float] = {}
    for peer_id, seconds in announced.items():
        if len(pings) >= MAX_NEXT_PINGS:
            break
        try:
            pings[parse_peer_id(peer_id)] = seconds if math.isinf(seconds) else min(seconds, MAX_PING)
        except BadPeerIdError:
            continue
    return pings
