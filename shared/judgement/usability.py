"""This module judges whether a model can be used, and what inference checks prove about a model or a server."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from shared.inference import AgreementOutcome, InferenceOutcome, ServerInference, UsabilityState
from shared.judgement.coverage import coverage
from shared.snapshot import ModelState, PeerState

if TYPE_CHECKING:
    from shared.snapshot import ModelReport, ServerReport

DOES_NOT_COMPUTE = frozenset(
    {
        InferenceOutcome.REFUSED,
        InferenceOutcome.NOT_FINITE,
        InferenceOutcome.WRONG_SHAPE,
        InferenceOutcome.FAILED,
        InferenceOutcome.TIMEOUT,
    }
)
"""Outcomes of a server that answers and gives no right numbers. One that is busy computes for others."""

OPT_OUT = "#no-inference-checks"
"""A server whose public name holds this is never checked."""
MIN_CACHE_TOKENS = 16
"""Tokens per block: a server that announces fewer needs them for its users."""


class ModelUsability(StrEnum):
    """Whether a client finds servers for all blocks of a model in a row, and gets tokens from them."""

    USABLE = "usable"
    DEGRADED = "degraded"
    """Usable, but some blocks depend on a single server."""
    BROKEN = "broken"
    """Some blocks have no online server that the monitor could reach."""
    UNUSABLE = "unusable"
    """Each block has an online server, but the latest chain of inference gave no token."""
    UNSERVED = "unserved"
    """No server announces any block."""


def model_usability(model: ModelReport) -> ModelUsability:
    if not model.servers:
        return ModelUsability.UNSERVED
    least = coverage(model).min_redundancy
    if not least:
        return ModelUsability.BROKEN
    if gives_tokens(model) is False:
        return ModelUsability.UNUSABLE
    return ModelUsability.DEGRADED if least == 1 else ModelUsability.USABLE


def path_stands(model: ModelReport) -> bool:
    """Return whether the servers of the latest chain are still online and hold their blocks; True without any."""
    if model.usability is None:
        return True
    held = {server.peer_id: server.span for server in model.servers if server.state is PeerState.ONLINE}
    spans = ((held.get(hop.peer_id), hop) for hop in model.usability.path)
    return all(span is not None and span.start <= hop.start and hop.end <= span.end for span, hop in spans)


def gives_tokens(model: ModelReport) -> bool | None:
    """Return whether a client gets tokens from the model, as the latest chain proved.

    None where no chain was tried, where its result is unknown, and where a server of the path has left since then.
    """
    if model.usability is None or model.usability.state is UsabilityState.UNKNOWN:
        return None
    if model.usability.state is UsabilityState.UNUSABLE:
        return False
    return True if path_stands(model) else None


def is_usable(model: ModelReport) -> bool:
    """Return whether a model counts as usable: each block is served, and its latest computation did not fail."""
    return model.state is ModelState.HEALTHY and gives_tokens(model) is not False


def does_not_compute(server: ServerReport) -> bool:
    """Return whether the server is online and its latest inference check gave no right numbers."""
    return (
        server.state is PeerState.ONLINE
        and server.inference is not None
        and server.inference.outcome in DOES_NOT_COMPUTE
    )


def against_majority(server: ServerReport) -> bool:
    """Return whether the server computes other numbers than most of three or more."""
    found = server.inference
    return (
        found is not None and found.agreement.outcome is AgreementOutcome.DISAGREES and found.agreement.against_majority
    )


def not_asked(server: ServerReport, now: float) -> ServerInference | None:
    """Return the result recorded for a server that is not to be asked (opted out, no free cache); None if it may be."""
    span = (server.span.start, server.span.end)
    if server.public_name is not None and OPT_OUT in server.public_name:
        return ServerInference(InferenceOutcome.UNKNOWN, span, now, detail="not asked: its operator opted out")
    left = server.cache_tokens_left_per_block
    if left is not None and left < MIN_CACHE_TOKENS:
        detail = f"not asked: it announces {left} tokens of attention cache per block"
        return ServerInference(InferenceOutcome.BUSY, span, now, detail=detail)
    return None
