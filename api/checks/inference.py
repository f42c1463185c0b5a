"""This module decides what a server is asked to compute on demand: two tokens through the blocks that it announces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.checks.admission import NoVerdictError
from shared.inference import MAX_BLOCKS, MAX_PREFIX, InferenceOutcome, InferenceRequest, ServerInference
from shared.judgement.usability import not_asked
from shared.snapshot import PeerState

if TYPE_CHECKING:
    from api.checks.client import CheckClient
    from shared.snapshot import Snapshot


def to_compute(snapshot: Snapshot | None, peer_id: str, now: float) -> InferenceRequest | ServerInference | None:
    """Return what to ask of a server; what is said of one that is never asked; None where it announces no blocks."""
    for model in () if snapshot is None else snapshot.models:
        for server in model.servers:
            if server.peer_id != peer_id or server.announced is not PeerState.ONLINE:
                continue
            if (said := not_asked(server, now)) is not None:
                return said
            start, end = server.span.start, min(server.span.end, MAX_BLOCKS)
            if start < end and 0 < len(model.dht_prefix) <= MAX_PREFIX:
                return InferenceRequest(model.dht_prefix, start, end)
    return None


async def computed(
    checks: CheckClient, peer_id: str, asked: InferenceRequest | ServerInference | None, *, deadline: float, now: float
) -> ServerInference | None:
    """Have a worker ask the server before `deadline` (monotonic seconds); the outcome is unknown where nobody could."""
    if not isinstance(asked, InferenceRequest):
        return asked
    try:
        answer = await checks.infer(peer_id, asked, deadline=deadline)
    except NoVerdictError as error:
        detail = str(error)
    else:
        if answer.inference is not None:
            return answer.inference
        detail = "the peer was not reached"
    return ServerInference(InferenceOutcome.UNKNOWN, (asked.start, asked.end), now, detail=detail)
