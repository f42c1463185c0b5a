"""This module defines the results of inference checks, which prove that a server computes.

A server *announces* blocks, a probe *finds* that it answers, an inference check *proves* that it computes. No display
text but `detail` and `reason`. Times are Unix seconds; durations are seconds, measured from this monitor.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

MAX_DETAIL_CHARS = 300
MAX_BLOCKS = 1000
"""That one request may name."""
MAX_PREFIX = 200


class InferenceOutcome(StrEnum):
    """How an inference check of one server ended."""

    COMPUTED = "computed"
    """Finite numbers of the right shape came back, for each step."""
    BUSY = "busy"
    """No attention cache left, by its answer or by its own record (then it was not asked)."""
    REFUSED = "refused"
    """It does not serve these blocks, or no inference at all."""
    NOT_FINITE = "not_finite"
    """NaN or infinity among the numbers."""
    WRONG_SHAPE = "wrong_shape"
    """Another number of values, or none that can be read as its own schema says."""
    FAILED = "failed"
    """It raised an error, closed the stream without an answer, or sent what is no answer."""
    TIMEOUT = "timeout"
    UNKNOWN = "unknown"
    """Not known: no connection, or tensors in a form that this monitor cannot read."""


class AgreementOutcome(StrEnum):
    """How a server's numbers compare with those of others that were given the same input for the same blocks."""

    AGREES = "agrees"
    DISAGREES = "disagrees"
    ALONE = "alone"
    """Nobody else computed the same blocks in the same round."""
    UNKNOWN = "unknown"
    """Not compared."""


class Agreement(msgspec.Struct, frozen=True, gc=False):
    """How a server's numbers compare with those of others."""

    outcome: AgreementOutcome = AgreementOutcome.UNKNOWN
    peers: tuple[str, ...] = ()
    """Those that it agrees with; where it disagrees, those that it disagrees with."""
    blocks: tuple[int, int] | None = None
    """The blocks `start <= block < end` that were compared."""
    lowest_cosine: float | None = None
    """Of what the blocks added to the input, over `peers`. 1 is the same."""
    against_majority: bool = False
    """Whether it disagrees with most of three or more; where two disagree, nobody is blamed."""


class ServerInference(msgspec.Struct, frozen=True, gc=False):
    """The latest inference check of one server's blocks of one model."""

    outcome: InferenceOutcome
    blocks: tuple[int, int]
    """The blocks `start <= block < end` that the step went through."""
    checked_at: float
    seconds_first_step: float | None = None
    """From opening the session to the first answer, over a connection that stood."""
    seconds_per_step: float | None = None
    """Of a later step in the same session."""
    agreement: Agreement = Agreement()
    detail: str | None = None
    """What went wrong, in the server's words where it had some: hostile text of bounded length."""
    adapter: str | None = None
    """The adapter that the step was made with, one of those that the server announces; None: none."""


class UsabilityState(StrEnum):
    """Whether a client that asks now gets tokens from a model."""

    USABLE = "usable"
    DEGRADED = "degraded"
    """Tokens come, but a hop is slow, relayed, or the only one for its blocks."""
    UNUSABLE = "unusable"
    UNKNOWN = "unknown"


class Hop(msgspec.Struct, frozen=True, gc=False):
    """One server of a path, and the blocks `start <= block < end` that it computes."""

    peer_id: str
    start: int
    end: int
    relayed: bool = False
    seconds_per_step: float | None = None


class Usability(msgspec.Struct, frozen=True, gc=False):
    """The latest chain through all blocks of one model, over a path as Petals' client would choose it."""

    state: UsabilityState
    checked_at: float
    reason: str | None = None
    """Why it is not `usable`."""
    path: tuple[Hop, ...] = ()
    """As far as the chain came."""
    seconds_first_token: float | None = None
    seconds_per_token: float | None = None


ON_DEMAND_REUSE = 60.0
"""Seconds for which an inference check that somebody asked for answers all who ask for the same."""


class InferenceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a queued check is asked to compute beside the probe: blocks `start <= block < end` of a model."""

    dht_prefix: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PREFIX)]
    start: Annotated[int, msgspec.Meta(ge=0, lt=MAX_BLOCKS)]
    end: Annotated[int, msgspec.Meta(gt=0, le=MAX_BLOCKS)]
