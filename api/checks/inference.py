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


def plan_inference(snapshot: Snapshot | None, peer_id: str, now: float) -> InferenceRequest | ServerInference | None:
    """Return the request for a server's blocks; for a server that is never asked, the result to show instead.

    None where the server announces no blocks that it serves. `now` is Unix seconds.
    """
    for model in () if snapshot is None else snapshot.models:
        for server in model.servers:
            if server.peer_id != peer_id or server.announced is not PeerState.ONLINE:
                continue
            if (instead := not_asked(server, now)) is not None:
                return instead
            start, end = server.span.start, min(server.span.end, MAX_BLOCKS)
            if start < end and 0 < len(model.dht_prefix) <= MAX_PREFIX:
                return InferenceRequest(model.dht_prefix, start, end)
    return None


async def run_inference(
    checks: CheckClient, peer_id: str, plan: InferenceRequest | ServerInference | None, *, deadline: float, now: float
) -> ServerInference | None:
    """Have a worker send the request before `deadline` (monotonic seconds); return the result, or the one planned.

    The outcome is unknown where no worker could send it. `now` is Unix seconds.
    """
    if not isinstance(plan, InferenceRequest):
        return plan
    try:
        answer = await checks.infer(peer_id, plan, deadline=deadline)
    except NoVerdictError as error:
        detail = str(error)
    else:
        if answer.inference is not None:
            return answer.inference
        detail = "the peer was not reached"
    return ServerInference(InferenceOutcome.UNKNOWN, (plan.start, plan.end), now, detail=detail)
