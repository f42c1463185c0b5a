"""This module keeps a worker's two libp2p nodes, and replaces those that end, grow old or lose the swarm.

A negative verdict makes a healthy server stop itself. So before one is returned, the nodes must pass a self-test
against a bootstrap peer: `Nodes.confirmed`.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import structlog

from reachability_worker.metrics import DHT_NODE, PROBER_NODE
from shared.p2p.addresses import DialPrivate
from shared.p2p.connect import ProberNode
from shared.p2p.daemon import Daemon, NodeError
from shared.p2p.dht_node import DHTClientNode
from shared.p2p.multiaddr import from_text
from shared.p2p.waiting import any_true, true_within
from shared.reachability import Cause, DialOutcome, Stage
from shared.tasks import Tasks, awaited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

SELF_TEST_EVERY = 5.0
JOIN_TIMEOUT = 5.0
RECOVER_PAUSES = (0.5, 1, 2, 3)
"""Seconds before the first, second, … attempt to join the swarm again; further ones use the last. Each starts a daemon,
since one that failed to dial a bootstrap peer refuses to dial it again for longer and longer."""
RETIRED_LASTS = 10.0
"""Seconds after which no check can still be using a replaced node."""

log = structlog.get_logger()


class Nodes:
    """A DHT node, which finds peers' addresses, and a prober node, which dials them."""

    def __init__(
        self,
        bootstrap_peers: Mapping[str, list[str]],
        dial_private: DialPrivate = DialPrivate.AUTO,
        on_opened: Callable[[str], None] = lambda _: None,
        on_addresses_refused: Callable[[Mapping[str, int]], None] = lambda _: None,
    ) -> None:
        """`on_opened` gets the role of each new node, `on_addresses_refused` counts of addresses by reason."""
        self._bootstrap_peers = bootstrap_peers
        self._dial_private = dial_private
        self._on_opened = on_opened
        self.on_addresses_refused = on_addresses_refused
        self._dht_node: DHTClientNode | None = None
        self._prober_node: ProberNode | None = None
        self._joined: list[str] = []
        self._replacing = asyncio.Lock()
        self._testing: asyncio.Task[bool] | None = None
        self._tested_from = 0.0
        """When the last self-test began that passed, in monotonic seconds."""
        self.background = Tasks()
        """What goes on after a check, until `run` ends."""
        self._fit, self._unfit = asyncio.Event(), asyncio.Event()
        """One of them is set."""
        self._unfit.set()
        self.unfit_reason: str | None = "starting"

    @property
    def fit(self) -> bool:
        """Whether the nodes passed their last self-test, so that probes can be trusted."""
        return self._fit.is_set()

    async def until_fit(self, seconds: float) -> bool:
        """Wait until the nodes are fit, for so long at most. Return whether they are."""
        return await true_within(seconds, self._fit.wait())

    async def run(self) -> None:
        """Open the nodes, and keep them fit until cancelled."""
        attempts = 0
        try:
            await self._recover()
            while True:
                if await true_within(SELF_TEST_EVERY, self._unfit.wait()):
                    await asyncio.sleep(RECOVER_PAUSES[min(attempts, len(RECOVER_PAUSES) - 1)])
                    attempts += 1
                    await self._recover()
                elif await self._passes_self_test():
                    attempts = 0
                else:
                    self._set_unfit_reason("no bootstrap peer answers")
        finally:
            await self._close()

    def current(self) -> tuple[DHTClientNode, ProberNode] | None:
        """Return the DHT node and the prober node; None while they are not fit."""
        if self._dht_node is None or self._prober_node is None or not self.fit:
            return None
        return self._dht_node, self._prober_node

    def unfit(self, stage: Stage = Stage.QUEUE) -> DialOutcome:
        """Return the outcome of a check while the nodes are not fit: nobody could look."""
        return DialOutcome.unknown(Cause.NODE_UNFIT, stage=stage, error=self.unfit_reason)

    async def confirmed(self, outcome: DialOutcome) -> DialOutcome:
        """Return the outcome of a failed probe, or that nobody could look where the nodes fail a self-test now."""
        if await self._passes_self_test():
            return outcome
        self._set_unfit_reason("the self-test failed")
        return self.unfit(outcome.stage)

    async def replace(self, old: ProberNode) -> ProberNode:
        """Return a fresh prober node in place of the old one, which stays open for the checks that still use it."""
        async with self._replacing:
            if self._prober_node is not None and self._prober_node is not old:
                return self._prober_node
            try:
                self._prober_node = await ProberNode.open()
            except NodeError as error:
                log.warning("no fresh prober node", error=str(error))
                return old
            self._on_opened(PROBER_NODE)
            self._retire(old)
            return self._prober_node

    async def _passes_self_test(self) -> bool:
        """Whether both nodes pass a self-test that begins now or later: one from before the probe proves nothing.

        All checks that need one at the same time share it.
        """
        since = time.monotonic()
        while self._tested_from < since:
            if self._testing is None or self._testing.done():
                self._testing = awaited(self._self_test(self._dht_node, self._prober_node, self._joined))
            if not await asyncio.shield(self._testing):
                return False
        return True

    async def _self_test(
        self, dht_node: DHTClientNode | None, prober_node: ProberNode | None, joined: Iterable[str]
    ) -> bool:
        """Whether the DHT node gets an answer, and the prober node reaches one of the joined bootstrap peers."""
        started = time.monotonic()
        if dht_node is None or prober_node is None or not (dht_node.is_alive and prober_node.is_alive):
            return False
        dht_answers, dials_work = await asyncio.gather(
            dht_node.reaches_swarm(),
            any_true(
                prober_node.reaches(peer_id, map(from_text, self._bootstrap_peers[peer_id])) for peer_id in joined
            ),
        )
        if dht_answers and dials_work:
            self._tested_from = started
        return dht_answers and dials_work

    def _set_unfit_reason(self, reason: str | None) -> None:
        if reason is None and not self.fit:
            log.info("fit to probe peers")
            self._fit.set()
            self._unfit.clear()
        elif reason is not None:
            if self.fit:
                log.warning("unfit to probe peers", reason=reason)
            self._fit.clear()
            self._unfit.set()
        self.unfit_reason = reason

    def _retire(self, node: Daemon) -> None:
        async def close_later() -> None:
            try:
                await asyncio.sleep(RETIRED_LASTS)
            finally:
                await node.close()

        self.background.start("retire", close_later())

    async def _recover(self) -> None:
        """Join the swarm with new nodes, in place of those that ended or lost the swarm."""
        if self._dht_node is not None:
            self._retire(self._dht_node)
        if self._prober_node is not None:
            self._retire(self._prober_node)
        self._dht_node = self._prober_node = None
        async with AsyncExitStack() as opened:  # whatever fails, no daemon is left running
            try:
                dht_node = await opened.enter_async_context(await DHTClientNode.open(self._dial_private))
                self._on_opened(DHT_NODE)
                failures = await dht_node.join(self._bootstrap_peers, JOIN_TIMEOUT)
                joined = [peer_id for peer_id, failure in failures.items() if failure is None]
                prober_node = await opened.enter_async_context(await ProberNode.open()) if joined else None
            except NodeError as error:
                self._set_unfit_reason(str(error))
                return
            if not await self._self_test(dht_node, prober_node, joined):
                self._set_unfit_reason("no bootstrap peer answers")
                return
            self._on_opened(PROBER_NODE)
            opened.pop_all()
        self._dht_node, self._prober_node, self._joined = dht_node, prober_node, joined
        self._set_unfit_reason(None)

    async def _close(self) -> None:
        self._set_unfit_reason("stopping")
        async with AsyncExitStack() as closing:  # whatever fails or is cancelled, each is closed
            for node in (self._dht_node, self._prober_node):
                if node is not None:
                    closing.push_async_callback(node.close)
            await self.background.close()
