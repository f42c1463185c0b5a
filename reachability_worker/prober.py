"""This module probes peers for a worker, and keeps its libp2p nodes healthy.

A negative verdict makes a healthy server stop itself. So before one is returned, the worker's nodes must pass a
self-test against a bootstrap peer. A daemon's "dial backoff" is its memory of an earlier failure, not an observation:
a fresh daemon then probes instead.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import structlog

from reachability_worker.metrics import DHT_NODE, PROBER_NODE
from reachability_worker.spans import note_outcome
from shared import tracing
from shared.inference import MAX_DETAIL_CHARS, InferenceOutcome, InferenceRequest, ServerInference
from shared.p2p.addresses import AddressRules, DialPrivate, Kind
from shared.p2p.connect import NotConnectedError, ProberNode, connection
from shared.p2p.daemon import Daemon, NodeError
from shared.p2p.dht_node import DHTClientNode
from shared.p2p.inference import check_server
from shared.p2p.multiaddr import from_text, packed
from shared.p2p.probe import probe, with_connections
from shared.p2p.waiting import any_true
from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import Verdict
from shared.tasks import Tasks, awaited

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shared.given import GivenAddress

PROBER_NODE_LIFETIME = 30.0
"""Seconds. p2pd redials a peer that failed n times only after 5 + n² seconds. A prober node of this age is replaced,
so that a server which requests a check every 15 s is dialled each time."""
RECENT_FAILURE = 10.0
"""Seconds for which an observed failure explains a later "dial backoff"."""
REMEMBERED_FAILURES = 20_000
SELF_TEST_EVERY = 5.0
JOIN_TIMEOUT = 5.0
RECOVER_EVERY = 1.0
INFERENCES_AT_ONCE = 2
"""Each has a daemon of its own."""
GIVEN_AT_ONCE = 4
"""Given addresses that are dialled at a time, each over a daemon of its own."""
GIVEN_HELD = 40
"""Given addresses that are dialled or wait; more get "no slot" at once, so that they do not delay checks of peers."""
LEAST_DIAL = 2.0
"""Seconds that the dial of a given address gets at least: with less, a slow peer would seem to be away."""
RETIRED_LASTS = 10.0
"""Seconds after which no check can still be using a replaced prober node."""

log = structlog.get_logger()
_NOT_DIALLED = {
    Kind.PRIVATE: "it is no public address",
    Kind.THROUGH_ITSELF: "its relay is the peer itself",
    Kind.THROUGH_US: "its relay is this monitor",
    Kind.NAME: "its host name stands for no public address",
    Kind.MALFORMED: "its relay is named by a host name",
}
"""Why an address is not dialled, of those that `GivenAddress.read` takes."""


class Prober:
    """Owns a DHT node, which finds peers' addresses, and a prober node, which dials them; replaces both as needed."""

    def __init__(
        self,
        bootstrap_peers: Mapping[str, list[str]],
        *,
        check_timeout: float,
        dials_at_once: int,
        dial_private: DialPrivate = DialPrivate.AUTO,
        on_node_opened: Callable[[str], None] = lambda _: None,
        on_addresses_refused: Callable[[Mapping[str, int]], None] = lambda _: None,
    ) -> None:
        """`on_node_opened` gets the role of each new node, `on_addresses_refused` counts of addresses by reason."""
        self._bootstrap_peers = bootstrap_peers
        self._check_timeout = check_timeout
        self._slots = asyncio.Semaphore(dials_at_once)
        self._dial_private = dial_private
        self._inferences = asyncio.Semaphore(INFERENCES_AT_ONCE)
        self._given = asyncio.Semaphore(GIVEN_AT_ONCE)
        self._given_held = 0
        self._on_node_opened = on_node_opened
        self._on_addresses_refused = on_addresses_refused
        self._dht_node: DHTClientNode | None = None
        self._prober_node: ProberNode | None = None
        self._joined: list[str] = []
        self._replacing = asyncio.Lock()
        self._testing: asyncio.Task[bool] | None = None
        self._tested_from = 0.0
        """When the last self-test began that passed, in monotonic seconds."""
        self._failures: OrderedDict[str, tuple[float, DialOutcome]] = OrderedDict()
        self._background = Tasks()
        self._fit = asyncio.Event()
        self.unfit_reason: str | None = "starting"

    @property
    def fit(self) -> bool:
        """Whether the nodes passed their last self-test, so that probes can be trusted."""
        return self._fit.is_set()

    async def until_fit(self, timeout: float) -> bool:  # noqa: ASYNC109 - returns whether, instead of raising
        """Wait until the nodes are fit, for `timeout` seconds at most. Return whether they are."""
        try:
            async with asyncio.timeout(timeout):
                return await self._fit.wait()
        except TimeoutError:
            return False

    async def run(self) -> None:
        """Open the nodes, and keep them fit until cancelled."""
        try:
            while True:
                if not self.fit:
                    await self._recover()
                elif not await self._passes_self_test():
                    self._set_fit("no bootstrap peer answers")
                await asyncio.sleep(SELF_TEST_EVERY if self.fit else RECOVER_EVERY)
        finally:
            await self._close()

    async def probe(
        self, peer_id: str, deadline: float, on_stage: Callable[[Stage], None] = lambda _: None
    ) -> DialOutcome:
        """Return what one peer's probe found until `deadline` (monotonic seconds). Never raises for what the peer does.

        `on_stage` is called with each stage as it begins.
        Where no slot becomes free in time, the verdict is unknown: nobody could look.
        """
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._slots.acquire()
        except TimeoutError:
            return DialOutcome.unknown(Cause.NO_SLOT)
        try:
            return await self._probe_in_slot(peer_id, min(deadline, time.monotonic() + self._check_timeout), on_stage)
        finally:
            self._slots.release()

    async def probe_at(
        self, given: GivenAddress, deadline: float, on_stage: Callable[[Stage], None] = lambda _: None
    ) -> DialOutcome:
        """Return whether a peer proves its id at an address that somebody gave. Never raises for what is found there.

        The verdict is about that address alone, and holds no text from the remote end. It is unknown where nobody could
        dial the address, or where `AddressRules` forbid it. A daemon of its own dials: the shared one would also dial
        the peer's other addresses, and would remember the given one.
        """
        dht_node, prober_node = self._dht_node, self._prober_node
        if dht_node is None or prober_node is None or not self.fit:
            return DialOutcome.unknown(Cause.NODE_UNFIT, error=self.unfit_reason)
        kind = dht_node.rules(prober_node.peer_id).kind(given.peer_id, from_text(given.address))
        if not kind.is_dialled:
            self._on_addresses_refused({kind: 1})
            return DialOutcome.unknown(Cause.NOT_DIALABLE, stage=Stage.LOOKUP, error=_NOT_DIALLED.get(kind))
        if self._given_held >= GIVEN_HELD:
            return DialOutcome.unknown(Cause.NO_SLOT)
        self._given_held += 1
        try:
            async with asyncio.timeout(max(0.0, deadline - LEAST_DIAL - time.monotonic())):
                await self._given.acquire()
        except TimeoutError:
            return DialOutcome.unknown(Cause.NO_SLOT)
        else:
            try:
                return await self._probe_at(dht_node, given, kind, deadline, on_stage)
            except NodeError as error:
                return DialOutcome.unknown(Cause.NODE_UNFIT, error=str(error))
            finally:
                self._given.release()
        finally:
            self._given_held -= 1

    async def _probe_at(
        self,
        dht_node: DHTClientNode,
        given: GivenAddress,
        kind: Kind,
        deadline: float,
        on_stage: Callable[[Stage], None],
    ) -> DialOutcome:
        address = from_text(given.address)
        async with await ProberNode.open() as node:
            if deadline - time.monotonic() < LEAST_DIAL:
                return DialOutcome.unknown(Cause.NO_SLOT)  # the daemon was slow to start
            deadline = min(deadline, time.monotonic() + self._check_timeout)
            found = await probe(dht_node, node, given.peer_id, deadline=deadline, at=address, on_stage=on_stage)
        if found.cause is Cause.NOT_DIALABLE:
            return DialOutcome.unknown(Cause.NOT_DIALABLE, stage=Stage.LOOKUP, error=_NOT_DIALLED.get(kind))
        if found.verdict is Verdict.UNREACHABLE and not await self._passes_self_test():
            self._set_fit("the self-test failed")
            return DialOutcome.unknown(Cause.NODE_UNFIT, stage=found.stage, error=self.unfit_reason)
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

    async def infer(
        self, peer_id: str, reached: DialOutcome, asked: InferenceRequest, deadline: float
    ) -> ServerInference:
        """Take two tokens through blocks of a peer that was reached, over a daemon of its own."""
        blocks = (asked.start, asked.end)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())), self._inferences:
                return await self._infer(peer_id, reached, asked, blocks)
        except TimeoutError:
            return ServerInference(
                InferenceOutcome.TIMEOUT, blocks, time.time(), detail="no numbers within the time of a check"
            )
        except (NodeError, NotConnectedError) as error:
            return ServerInference(InferenceOutcome.UNKNOWN, blocks, time.time(), detail=str(error)[:MAX_DETAIL_CHARS])

    async def _infer(
        self, peer_id: str, reached: DialOutcome, asked: InferenceRequest, blocks: tuple[int, int]
    ) -> ServerInference:
        private = self._dial_private.allows(self._bootstrap_peers)
        addresses = packed(reached.addresses)
        async with await ProberNode.open() as node:
            rules = AddressRules(private, frozenset((node.peer_id,)))
            async with connection(node, peer_id, addresses, rules, within=self._check_timeout):
                finding, _ = await check_server(node, peer_id, asked.dht_prefix, blocks)
        return finding

    async def _probe_in_slot(self, peer_id: str, deadline: float, on_stage: Callable[[Stage], None]) -> DialOutcome:
        dht_node, prober_node = self._dht_node, self._prober_node
        if dht_node is None or prober_node is None or not self.fit:
            return DialOutcome.unknown(Cause.NODE_UNFIT, error=self.unfit_reason)
        if time.monotonic() - prober_node.opened_at > PROBER_NODE_LIFETIME:
            prober_node = await self._replace(prober_node)
        outcome = await self._dial(dht_node, prober_node, peer_id, deadline, on_stage)
        if outcome.cause is Cause.BACKOFF:
            failed_at, failure = self._failures.get(peer_id, (-RECENT_FAILURE, outcome))
            if time.monotonic() - failed_at < RECENT_FAILURE:
                outcome = failure  # it explains the daemon's backoff
            else:
                prober_node = await self._replace(prober_node)
                outcome = await self._dial(dht_node, prober_node, peer_id, deadline, on_stage)
        if outcome.verdict is Verdict.REACHABLE:
            self._failures.pop(peer_id, None)
            if outcome.reached_at is not None:
                return outcome  # through a relay, whose circuit is closed by now
            outcome = with_connections(outcome, await self._connections(prober_node, peer_id))
            self._background.start("disconnect", _disconnect(prober_node, peer_id))
            return outcome
        if not await self._passes_self_test():
            self._set_fit("the self-test failed")
            return DialOutcome.unknown(Cause.NODE_UNFIT, stage=outcome.stage, error=self.unfit_reason)
        if outcome.verdict is Verdict.UNREACHABLE:
            self._remember(peer_id, outcome)
        return outcome

    async def _dial(
        self,
        dht_node: DHTClientNode,
        prober_node: ProberNode,
        peer_id: str,
        deadline: float,
        on_stage: Callable[[Stage], None],
    ) -> DialOutcome:
        with tracing.span("dial") as span:
            outcome = await probe(dht_node, prober_node, peer_id, deadline=deadline, on_stage=on_stage)
            self._on_addresses_refused(dht_node.kademlia.refused_addresses)
            dht_node.kademlia.refused_addresses.clear()
            span.stages(outcome.durations)
            note_outcome(span, outcome)
            return outcome

    def _remember(self, peer_id: str, outcome: DialOutcome) -> None:
        seen = self._failures.get(peer_id)
        if seen is not None and seen[1] is outcome:
            return  # the same observation again keeps its time
        self._failures[peer_id] = (time.monotonic(), outcome)
        self._failures.move_to_end(peer_id)
        if len(self._failures) > REMEMBERED_FAILURES:
            self._failures.popitem(last=False)

    async def _connections(self, prober_node: ProberNode, peer_id: str) -> tuple[bytes, ...]:
        try:
            async with asyncio.timeout(1):
                return await prober_node.connections_to(peer_id)
        except (TimeoutError, NodeError, OSError, EOFError):
            return ()

    async def _passes_self_test(self) -> bool:
        """Whether both nodes pass a self-test that begins now or later: one from before the probe proves nothing.

        All checks that need one at the same time share it.
        """
        since = time.monotonic()
        while self._tested_from < since:
            if self._testing is None or self._testing.done():
                self._testing = awaited(self._self_test())
            if not await asyncio.shield(self._testing):
                return False
        return True

    async def _self_test(self) -> bool:
        """Whether the DHT node gets an answer, and the prober node reaches a bootstrap peer."""
        started, dht_node, prober_node = time.monotonic(), self._dht_node, self._prober_node
        if dht_node is None or prober_node is None or not (dht_node.is_alive and prober_node.is_alive):
            return False
        dht_answers, dials_work = await asyncio.gather(
            dht_node.reaches_swarm(),
            any_true(
                prober_node.reaches(peer_id, map(from_text, self._bootstrap_peers[peer_id])) for peer_id in self._joined
            ),
        )
        if dht_answers and dials_work:
            self._tested_from = started
        return dht_answers and dials_work

    def _set_fit(self, reason: str | None) -> None:
        if reason is None and not self.fit:
            log.info("fit to probe peers")
            self._fit.set()
        elif reason is not None:
            if self.fit:
                log.warning("unfit to probe peers", reason=reason)
            self._fit.clear()
        self.unfit_reason = reason

    async def _replace(self, old: ProberNode) -> ProberNode:
        """Return a fresh prober node in place of the old one, which stays open for the checks that still use it."""
        async with self._replacing:
            if self._prober_node is not None and self._prober_node is not old:
                return self._prober_node
            try:
                self._prober_node = await ProberNode.open()
            except NodeError as error:
                log.warning("no fresh prober node", error=str(error))
                return old
            self._on_node_opened(PROBER_NODE)
            self._retire(old)
            return self._prober_node

    def _retire(self, node: Daemon) -> None:
        async def close_later() -> None:
            try:
                await asyncio.sleep(RETIRED_LASTS)
            finally:
                await node.close()

        self._background.start("retire", close_later())

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
                prober_node = await opened.enter_async_context(await ProberNode.open())
            except NodeError as error:
                self._set_fit(str(error))
                return
            self._on_node_opened(DHT_NODE)
            errors = await dht_node.join(self._bootstrap_peers, JOIN_TIMEOUT)
            opened.pop_all()
        self._joined = [peer_id for peer_id, error in errors.items() if error is None]
        self._dht_node, self._prober_node = dht_node, prober_node
        self._set_fit(None if self._joined and await self._self_test() else "no bootstrap peer answers")

    async def _close(self) -> None:
        self._set_fit("stopping")
        await self._background.close()
        for node in (self._dht_node, self._prober_node):
            if node is not None:
                await node.close()


async def _disconnect(prober_node: ProberNode, peer_id: str) -> None:
    with suppress(OSError, EOFError):  # the daemon is gone, and its connections with it
        await prober_node.disconnect(peer_id)
