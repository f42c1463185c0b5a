"""This module dials addresses that clients give: a verdict on the address, never on the peer.

Each dial has a daemon of its own. The worker's prober node would also dial the peer's other addresses, and would
remember the given one.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from shared.p2p.addresses import Kind
from shared.p2p.connect import ProberNode
from shared.p2p.daemon import NodeError
from shared.p2p.multiaddr import from_text
from shared.p2p.probe import probe
from shared.p2p.waiting import true_within
from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from reachability_worker.nodes import Nodes
    from shared.given import GivenAddress
    from shared.p2p.dht_node import DHTClientNode

DIALLED_AT_ONCE = 4
HELD = 40
"""Addresses that are dialled or wait; more get "no slot" at once, so that they do not delay checks of peers."""
LEAST_DIAL = 2.0
"""Seconds that a dial gets at least: with less, a slow peer would seem to be away."""
_NOT_DIALLED = {
    Kind.PRIVATE: "it is no public address",
    Kind.THROUGH_ITSELF: "its relay is the peer itself",
    Kind.THROUGH_US: "its relay is this monitor",
    Kind.NAME: "its host name stands for no public address",
    Kind.MALFORMED: "its relay is named by a host name",
}
"""Why an address is not dialled, of those that `GivenAddress.read` takes."""


class AddressProber:
    """Dials given addresses, `DIALLED_AT_ONCE` at a time."""

    def __init__(self, nodes: Nodes, *, check_timeout: float) -> None:
        self._nodes = nodes
        self._check_timeout = check_timeout
        self._slots = asyncio.Semaphore(DIALLED_AT_ONCE)
        self._held = 0

    async def probe_at(
        self, given: GivenAddress, deadline: float, on_stage: Callable[[Stage], None] = lambda _: None
    ) -> DialOutcome:
        """Return whether the peer proves its id at the address. Never raises for what is found there.

        The verdict is unknown where nobody could dial the address, or where `AddressRules` forbid it.
        """
        nodes = self._nodes.current()
        if nodes is None:
            return self._nodes.unfit_outcome()
        kind = nodes.dht_node.rules(nodes.prober_node.peer_id).kind(given.peer_id, from_text(given.address))
        if not kind.is_dialled:
            self._nodes.on_addresses_refused({kind: 1})
            return _not_dialled(kind)
        if self._held >= HELD:
            return DialOutcome.unknown(Cause.NO_SLOT)
        self._held += 1
        try:
            outcome = await self._dial(nodes.dht_node, given, deadline, on_stage)
        finally:
            self._held -= 1
        if outcome.cause is Cause.NOT_DIALABLE:
            return _not_dialled(kind)
        return await self._nodes.confirmed(outcome, nodes) if outcome.verdict is Verdict.UNREACHABLE else outcome

    async def _dial(
        self, dht_node: DHTClientNode, given: GivenAddress, deadline: float, on_stage: Callable[[Stage], None]
    ) -> DialOutcome:
        if not await true_within(deadline - LEAST_DIAL - time.monotonic(), self._slots.acquire()):
            return DialOutcome.unknown(Cause.NO_SLOT)
        try:
            async with await ProberNode.open() as node:
                if deadline - time.monotonic() < LEAST_DIAL:
                    return DialOutcome.unknown(Cause.NO_SLOT)  # the daemon was slow to start
                deadline = min(deadline, time.monotonic() + self._check_timeout)
                address = from_text(given.address)
                found = await probe(dht_node, node, given.peer_id, deadline=deadline, at=address, on_stage=on_stage)
        except NodeError as error:
            return DialOutcome.unknown(Cause.NODE_UNFIT, error=str(error))
        finally:
            self._slots.release()
        # The client chose the port, so whatever answers there is reported by its cause, never in its own words.
        return DialOutcome(
            found.verdict,
            found.stage,
            found.cause,
            relayed=found.relayed,
            relay=found.relay,
            rtt=found.rtt,
            durations=found.durations,
        )


def _not_dialled(kind: Kind) -> DialOutcome:
    return DialOutcome.unknown(Cause.NOT_DIALABLE, stage=Stage.LOOKUP, error=_NOT_DIALLED.get(kind))
