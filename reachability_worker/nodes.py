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
from shared.p2p.daemon import NodeError
from shared.p2p.dht_node import DHTClientNode
from shared.p2p.waiting import any_true, true_within
from shared.reachability import Cause, DialOutcome, Stage
from shared.tasks import Tasks, end, shared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shared.p2p.daemon import Daemon

SELF_TEST_EVERY = 5.0
JOIN_TIMEOUT = 5.0
RECOVER_PAUSES = (0.5, 1, 2, 3)
"""Seconds before the first, second, … attempt to join the swarm again; further ones use the last. Each starts a daemon,
since one that failed to dial a bootstrap peer refuses to dial it again for longer and longer."""
RETIRED_LASTS = 10.0
"""Seconds after which no check can still be using a replaced node."""

log = structlog.get_logger()


class Pair:
    """A DHT node, which finds peers' addresses, and a prober node, which dials them."""

    def __init__(self, dht_node: DHTClientNode, prober_node: ProberNode) -> None:
        self.dht_node = dht_node
        self.prober_node = prober_node
        self.testing: asyncio.Task[bool] | None = None
        """The latest self-test."""
        self._tested_from = 0.0
        """When the last self-test began that passed, in monotonic seconds."""

    async def passes_self_test(self) -> bool:
        """Whether both nodes pass a self-test that begins now or later: one from before the probe proves nothing.

        All checks that need one at the same time share it.
        """
        since = time.monotonic()
        while self._tested_from < since:
            if self.testing is None or self.testing.done():
                self.testing = shared(self._self_test())
            if not await asyncio.shield(self.testing):
                return False
        return True

    async def _self_test(self) -> bool:
        """Whether the DHT node gets an answer, and the prober node reaches one of the joined bootstrap peers."""
        started, peers = time.monotonic(), self.dht_node.bootstrap_peers
        if not (self.dht_node.is_alive and self.prober_node.is_alive):
            return False
        dht_answers, dials_work = await asyncio.gather(
            self.dht_node.reaches_swarm(),
            any_true(self.prober_node.reaches(peer_id, peers[peer_id]) for peer_id in self.dht_node.joined),
        )
        if dht_answers and dials_work:
            self._tested_from = started
        return dht_answers and dials_work


class Nodes:
    """The pair of nodes that checks use now, while it is fit: while it passed its last self-test."""

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
        self._pair: Pair | None = None
        self._replacing = asyncio.Lock()
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
        attempts, joining = 0, None
        try:
            await self._recover()
            while True:
                if await true_within(SELF_TEST_EVERY, self._unfit.wait()):
                    await asyncio.sleep(RECOVER_PAUSES[min(attempts, len(RECOVER_PAUSES) - 1)])
                    attempts += 1
                    await self._recover()
                elif self._pair is not None and await self._pair.passes_self_test():
                    attempts = 0
                    if joining is None or joining.done():
                        joining = self.background.start("join", self._pair.dht_node.join_missing(JOIN_TIMEOUT))
                else:
                    self._become_unfit("no bootstrap peer answers")
        finally:
            await self._close()

    def current(self) -> Pair | None:
        """Return the nodes to probe with; None while they are not fit."""
        return self._pair if self.fit else None

    def unfit_outcome(self, stage: Stage = Stage.QUEUE) -> DialOutcome:
        """Return the outcome of a check while the nodes are not fit: nobody could look."""
        return DialOutcome.unknown(Cause.NODE_UNFIT, stage=stage, error=self.unfit_reason)

    async def confirmed(self, outcome: DialOutcome, used: Pair) -> DialOutcome:
        """Return the outcome of a failed probe, or that nobody could look where the nodes used fail a self-test now.

        Others may have taken their place meanwhile, and prove nothing about them.
        """
        if await used.passes_self_test():
            return outcome
        if used is self._pair:
            self._become_unfit("the self-test failed")
        return self.unfit_outcome(outcome.stage)

    async def replace(self, old: Pair) -> Pair:
        """Return a pair with a fresh prober node, which the next checks use; the old one where none can be had.

        The old prober node stays open for the checks that still use it.
        """
        async with self._replacing:
            if self._pair is not old:
                return self._pair or old
            try:
                fresh = Pair(old.dht_node, await ProberNode.open())
            except NodeError as error:
                log.warning("no fresh prober node", error=str(error))
                return old
            self._on_opened(PROBER_NODE)
            if self._pair is old:
                self._pair = fresh
                self._retire(old.prober_node)
            else:  # the swarm was lost meanwhile, and joined again with other nodes
                self._retire(fresh.prober_node)
            return fresh

    def replace_soon(self, old: Pair) -> None:
        """Replace the prober node in the background: no check waits for a daemon to start while the old one works."""
        if not self._replacing.locked():
            self.background.start("replace", self._replace(old))

    async def _replace(self, old: Pair) -> None:
        await self.replace(old)

    def _become_fit(self, pair: Pair) -> None:
        log.info("fit to probe peers")
        self._pair, self.unfit_reason = pair, None
        self._fit.set()
        self._unfit.clear()

    def _become_unfit(self, reason: str) -> None:
        if self.fit:
            log.warning("unfit to probe peers", reason=reason)
        self.unfit_reason = reason
        self._fit.clear()
        self._unfit.set()

    def _retire(self, node: Daemon) -> None:
        async def close_later() -> None:
            try:
                await asyncio.sleep(RETIRED_LASTS)
            finally:
                await node.close()

        self.background.start("retire", close_later())

    async def _recover(self) -> None:
        """Join the swarm with new nodes, in place of those that ended or lost the swarm."""
        if self._pair is not None:
            self._retire(self._pair.dht_node)
            self._retire(self._pair.prober_node)
            self._pair = None
        async with AsyncExitStack() as opened:  # whatever fails, no daemon is left running
            try:
                dht_node = await opened.enter_async_context(await DHTClientNode.open(self._dial_private))
                self._on_opened(DHT_NODE)
                await dht_node.join(self._bootstrap_peers, JOIN_TIMEOUT)
                if not dht_node.joined:
                    self._become_unfit("no bootstrap peer answers")
                    return
                prober_node = await opened.enter_async_context(await ProberNode.open())
                self._on_opened(PROBER_NODE)
            except NodeError as error:
                self._become_unfit(str(error))
                return
            pair = Pair(dht_node, prober_node)
            if not await pair.passes_self_test():
                self._become_unfit("no bootstrap peer answers")
                return
            opened.pop_all()
        self._become_fit(pair)

    async def _close(self) -> None:
        self._become_unfit("stopping")
        pair, self._pair = self._pair, None
        async with AsyncExitStack() as closing:  # whatever fails or is cancelled, each is closed
            if pair is not None:
                closing.push_async_callback(pair.dht_node.close)
                closing.push_async_callback(pair.prober_node.close)
                closing.push_async_callback(end, pair.testing)
            await self.background.close()
