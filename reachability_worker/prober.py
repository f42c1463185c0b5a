"""This module probes a peer by its id, with a worker's nodes.

A daemon's "dial backoff" is its memory of an earlier failure, not an observation. Where that failure was not seen here
a moment ago, a fresh daemon probes instead.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from reachability_worker.spans import note_outcome
from shared import tracing
from shared.p2p.probe import probe, with_open_connections
from shared.p2p.waiting import true_within
from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from reachability_worker.nodes import Nodes, Pair
    from shared.p2p.connect import ProberNode

PROBER_NODE_LIFETIME = 30.0
"""Seconds. p2pd redials a peer that failed n times only after 5 + n² seconds. A prober node of this age is replaced,
so that a server which requests a check every 15 s is dialled each time."""
RECENT_FAILURE = 10.0
"""Seconds for which an observed failure explains a later "dial backoff"."""


class Prober:
    """Probes peers, `dials_at_once` at a time."""

    def __init__(self, nodes: Nodes, *, check_timeout: float, dials_at_once: int) -> None:
        self._nodes = nodes
        self._check_timeout = check_timeout
        self._slots = asyncio.Semaphore(dials_at_once)
        self._failures: dict[str, tuple[float, DialOutcome]] = {}
        """When each peer's last failure was observed (monotonic seconds), and what it was; the oldest first."""

    async def probe(
        self, peer_id: str, deadline: float, on_stage: Callable[[Stage], None] = lambda _: None
    ) -> DialOutcome:
        """Return what one peer's probe found until `deadline` (monotonic seconds). Never raises for what the peer does.

        `on_stage` is called with each stage as it begins.
        Where no slot becomes free in time, the verdict is unknown: nobody could look.
        """
        if not await true_within(deadline - time.monotonic(), self._slots.acquire()):
            return DialOutcome.unknown(Cause.NO_SLOT)
        try:
            return await self._probe(peer_id, min(deadline, time.monotonic() + self._check_timeout), on_stage)
        finally:
            self._slots.release()

    async def _probe(self, peer_id: str, deadline: float, on_stage: Callable[[Stage], None]) -> DialOutcome:
        nodes = self._nodes.current()
        if nodes is None:
            return self._nodes.unfit_outcome()
        if time.monotonic() - nodes.prober_node.opened_at > PROBER_NODE_LIFETIME:
            self._nodes.replace_soon(nodes)
        outcome = await self._dial(nodes, peer_id, deadline, on_stage)
        if outcome.cause is Cause.BACKOFF:
            failed_at, failure = self._failures.get(peer_id, (-RECENT_FAILURE, outcome))
            if time.monotonic() - failed_at < RECENT_FAILURE:
                outcome = failure  # it explains the daemon's backoff
            else:
                nodes = await self._nodes.replace(nodes)
                outcome = await self._dial(nodes, peer_id, deadline, on_stage)
        if outcome.verdict is not Verdict.REACHABLE:
            outcome = await self._nodes.confirmed(outcome, nodes)
            if outcome.verdict is Verdict.UNREACHABLE:
                self._remember(peer_id, outcome)
            return outcome
        self._failures.pop(peer_id, None)
        if outcome.reached_at is None:  # else through a relay, whose circuit is closed by now
            outcome = await with_open_connections(nodes.prober_node, peer_id, outcome)
            self._nodes.background.start("disconnect", _disconnect(nodes.prober_node, peer_id))
        return outcome

    async def _dial(self, nodes: Pair, peer_id: str, deadline: float, on_stage: Callable[[Stage], None]) -> DialOutcome:
        with tracing.span("dial") as span:
            outcome = await probe(nodes.dht_node, nodes.prober_node, peer_id, deadline=deadline, on_stage=on_stage)
            refused = nodes.dht_node.kademlia.refused_addresses
            self._nodes.on_addresses_refused(refused)
            refused.clear()
            span.stages(outcome.durations)
            note_outcome(span, outcome)
            return outcome

    def _remember(self, peer_id: str, outcome: DialOutcome) -> None:
        seen = self._failures.get(peer_id)
        if seen is not None and seen[1] is outcome:
            return  # the same observation again keeps its time
        now = time.monotonic()
        self._failures.pop(peer_id, None)
        self._failures[peer_id] = (now, outcome)
        while now - next(iter(self._failures.values()))[0] > RECENT_FAILURE:
            del self._failures[next(iter(self._failures))]


async def _disconnect(prober_node: ProberNode, peer_id: str) -> None:
    with suppress(OSError, EOFError):  # the daemon is gone, and its connections with it
        await prober_node.disconnect(peer_id)
