"""This module parses RQ jobs, which are hostile text: JSON with the one known call, and nothing that is imported."""

from __future__ import annotations

import json
import time
import zlib
from typing import NamedTuple

import msgspec

from shared import request_id, tracing
from shared.given import BadAddressError, GivenAddress
from shared.inference import InferenceRequest
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.reachability import CHECK_FUNCTION, address_subject, job_subject

MAX_JOB_BYTES = 16 * 1024
ANSWER_RESERVE = 0.3
"""Seconds of a check's time that are reserved for its answer's way back."""


PackedJob = tuple[bytes, bytes, int, bytes, bytes]
"""A job that was taken: its id, the packed call, milliseconds left, request id and traceparent."""


class BadJobError(ValueError):
    """The job is not a check."""


class Check(NamedTuple):
    """A check that this worker has taken. `deadline` is monotonic seconds."""

    job_id: str
    peer_id: str
    deadline: float
    request_id: str = ""
    traceparent: str = ""
    """Of the request's span."""
    inference: InferenceRequest | None = None
    """What the peer shall compute, where it is reached."""
    given: GivenAddress | None = None
    """The one address at which it is dialled, in place of what the swarm knows."""


def read_check(job: PackedJob) -> Check:
    """Return the check of a job. Raises `BadJobError`. A malformed request id or traceparent is dropped."""
    raw_id, packed, left_ms, raw_request_id, traceparent = job
    if not raw_id.isascii():
        raise BadJobError("its id is not ASCII")
    job_id = raw_id.decode()
    peer_id, inference, given = read_job(job_id, packed)
    return Check(
        job_id,
        peer_id,
        time.monotonic() + left_ms / 1000 - ANSWER_RESERVE,
        request_id.sane(raw_request_id.decode(errors="replace")) or "",
        tracing.sane(traceparent.decode(errors="replace")),
        inference,
        given,
    )


def read_job(job_id: str, packed: bytes) -> tuple[str, InferenceRequest | None, GivenAddress | None]:
    """Return a job's peer id, the blocks that the peer shall compute, and the address to dial it at.

    RQ packs a call as zlib-compressed JSON, `[function, instance, args, kwargs]`. The arguments of a check are
    `[peer_id]`, `[peer_id, {"dht_prefix", "start", "end"}]` or `[multiaddr]`. Raises `BadJobError` for anything else.
    """
    try:
        unpacked = zlib.decompressobj().decompress(packed, MAX_JOB_BYTES)
        function, instance, args, kwargs = json.loads(unpacked)
    except (zlib.error, ValueError, TypeError, RecursionError) as error:
        raise BadJobError("not RQ's JSON") from error
    if function != CHECK_FUNCTION or instance is not None or kwargs:
        raise BadJobError("not a call of the known function")
    if not isinstance(args, list) or [type(one) for one in args] not in ([str], [str, dict]):
        raise BadJobError("not one peer id")
    if args[0].startswith("/") and len(args) == 1:
        return _read_given(job_id, args[0])
    try:
        inference = msgspec.convert(args[1], InferenceRequest) if len(args) > 1 else None
        peer_id = parse_peer_id(args[0])
    except BadPeerIdError as error:
        raise BadJobError(str(error)) from error
    except msgspec.ValidationError as error:
        raise BadJobError(f"not one peer id and blocks: {error}") from error
    if inference is not None and inference.start >= inference.end:
        raise BadJobError("no blocks to compute")
    if job_id.rpartition("-")[0] != job_subject(peer_id, inference=inference is not None):
        raise BadJobError("the job's id names another peer")
    return peer_id, inference, None


def _read_given(job_id: str, text: str) -> tuple[str, None, GivenAddress]:
    try:
        given = GivenAddress.read(text)
    except BadAddressError as error:
        raise BadJobError(str(error)) from error
    if job_id.rpartition("-")[0] != address_subject(str(given)):
        raise BadJobError("the job's id names another address")
    return given.peer_id, None, given
