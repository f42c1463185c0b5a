"""The eyes of a worker: nodes of its own, kept fit, and one look at one peer through them.

A negative verdict makes a healthy server stop itself. So before one is given, the nodes prove that they
themselves can reach a bootstrap peer; and a daemon's "dial backoff", which is its memory of an earlier failure
and not an observation, is never passed on as one: a fresh daemon looks instead.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog

from reachability_worker.spans import note_outcome
from shared import tracing
from shared.p2p.addresses import DialPrivate
from shared.p2p.dial import dial
from shared.p2p.node import Dialler, NodeError, SwarmNode, any_true
from shared.reachability import Cause, DialOutcome
from shared.snapshot import Verdict
from shared.tasks import Tasks, awaited

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DIALLER_LIFETIME = 30.0
"""Seconds. p2pd dials a peer that failed n times again only after 5 + n² seconds; a dialler of this age is
replaced, so that a server which asks every 15 s is dialled each time."""
RECENT_FAILURE = 10.0
"""Seconds for which an observed failure explains a later "dial backoff"."""
REMEMBERED_FAILURES = 20_000
SELF_TEST_EVERY = 5.0
JOIN_TIMEOUT = 5.0
RECOVER_EVERY = 1.0
RETIRED_LASTS = 10.0
"""Seconds after which no check can still be using a replaced dialler."""

log = structlog.get_logger()


class Looks(Protocol):
    """Anything that can look at a peer: the real prober, or a simulated one in benchmarks."""

    @property
    def fit(self) -> bool:
        """Whether looks are to be trusted now."""

    async def look(self, peer_id: str, deadline: float) -> DialOutcome:
        """Look at one peer until `deadline` (monotonic seconds). Never raises for what the peer does."""


class Prober:
    """Owns a guide, which knows where peers are, and a dialler, which dials them; replaces both as needed."""

    def __init__(
        self,
        bootstrap_peers: Mapping[str, list[str]],
        *,
        check_timeout: float,
        dials_at_once: int,
        dial_private: DialPrivate = DialPrivate.AUTO,
        on_node_opened: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._bootstrap_peers = bootstrap_peers
        self._check_timeout = check_timeout
        self._slots = asyncio.Semaphore(dials_at_once)
        self._dial_private = dial_private
        self._on_node_opened = on_node_opened
        self._guide: SwarmNode | None = None
        self._dialler: Dialler | None = None
        self._joined: list[str] = []
        self._replacing = asyncio.Lock()
        self._proving: asyncio.Task[bool] | None = None
        self._proved_from = 0.0
        self._failures: OrderedDict[str, tuple[float, DialOutcome]] = OrderedDict()
        self._background = Tasks()
        self._fit = asyncio.Event()
        self.unfit_reason: str | None = "starting"

    @property
    def fit(self) -> bool:
        """Whether looks are to be trusted now."""
        return self._fit.is_set()

    async def until_fit(self, timeout: float) -> bool:  # noqa: ASYNC109 - returns whether, instead of raising
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
                elif not await self._prove():
                    self._set_fit("no bootstrap peer answers")
                await asyncio.sleep(SELF_TEST_EVERY if self.fit else RECOVER_EVERY)
        finally:
            await self._close()

    async def look(self, peer_id: str, deadline: float) -> DialOutcome:
        """Look at a peer. Waiting for a slot until the deadline is "nobody could look", never "unreachable"."""
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._slots.acquire()
        except TimeoutError:
            return DialOutcome.unknown(Cause.NO_SLOT)
        try:
            return await self._look(peer_id, min(deadline, time.monotonic() + self._check_timeout))
        finally:
            self._slots.release()

    async def _look(self, peer_id: str, deadline: float) -> DialOutcome:
        guide, dialler = self._guide, self._dialler
        if guide is None or dialler is None or not self.fit:
            return DialOutcome.unknown(Cause.NODE_UNFIT, error=self.unfit_reason)
        if time.monotonic() - dialler.opened_at > DIALLER_LIFETIME:
            dialler = await self._replace(dialler)
        outcome = await self._dial(guide, dialler, peer_id, deadline)
        if outcome.cause is Cause.BACKOFF:
            outcome = await self._look_afresh(guide, dialler, peer_id, deadline)
        if outcome.verdict is Verdict.REACHABLE:
            used = await self._used_addresses(dialler, peer_id)
            self._background.start("disconnect", _disconnect(dialler, peer_id))
            self._failures.pop(peer_id, None)
            return msgspec.structs.replace(
                outcome,
                addresses=used or outcome.addresses,
                relayed=all("/p2p-circuit" in address for address in used) if used else None,
            )
        if not await self._prove():
            self._set_fit("the self-test failed")
            return DialOutcome.unknown(Cause.NODE_UNFIT, stage=outcome.stage, error=self.unfit_reason)
        if outcome.verdict is Verdict.UNREACHABLE:
            self._remember(peer_id, outcome)
        return outcome

    async def _look_afresh(self, guide: SwarmNode, dialler: Dialler, peer_id: str, deadline: float) -> DialOutcome:
        seen = self._failures.get(peer_id)
        if seen is not None and time.monotonic() - seen[0] < RECENT_FAILURE:
            return seen[1]
        dialler = await self._replace(dialler)
        return await self._dial(guide, dialler, peer_id, deadline)

    async def _dial(self, guide: SwarmNode, dialler: Dialler, peer_id: str, deadline: float) -> DialOutcome:
        with tracing.span("dial") as span:
            outcome = await dial(guide, dialler, peer_id, deadline=deadline)
            span.stages(outcome.durations)
            note_outcome(span, outcome)
            return outcome

    def _remember(self, peer_id: str, outcome: DialOutcome) -> None:
        seen = self._failures.get(peer_id)
        if seen is not None and seen[1] is outcome:
            return  # the same observation again: it does not get younger by being repeated
        self._failures[peer_id] = (time.monotonic(), outcome)
        self._failures.move_to_end(peer_id)
        if len(self._failures) > REMEMBERED_FAILURES:
            self._failures.popitem(last=False)

    async def _used_addresses(self, dialler: Dialler, peer_id: str) -> tuple[str, ...]:
        try:
            async with asyncio.timeout(1):
                return (await dialler.connections()).get(peer_id, ())
        except (TimeoutError, NodeError, OSError, EOFError):
            return ()

    async def _prove(self) -> bool:
        """Self-test both nodes against a bootstrap peer, from now on: what was true before the look proves nothing.

        All checks that need it at one time share one test.
        """
        asked_at = time.monotonic()
        while self._proved_from < asked_at:
            if self._proving is None or self._proving.done():
                self._proving = awaited(self._self_test())
            if not await asyncio.shield(self._proving):
                return False
        return True

    async def _self_test(self) -> bool:
        started, guide, dialler = time.monotonic(), self._guide, self._dialler
        if guide is None or dialler is None or not (guide.is_alive and dialler.is_alive):
            return False
        heard, reached = await asyncio.gather(
            guide.hears(),
            any_true(dialler.reaches(peer_id, self._bootstrap_peers[peer_id]) for peer_id in self._joined),
        )
        if heard and reached:
            self._proved_from = started
        return heard and reached

    def _set_fit(self, reason: str | None) -> None:
        if reason is None and not self.fit:
            log.info("fit to look at peers")
            self._fit.set()
        elif reason is not None:
            if self.fit:
                log.warning("unfit to look at peers", reason=reason)
            self._fit.clear()
        self.unfit_reason = reason

    async def _replace(self, old: Dialler) -> Dialler:
        """Return a fresh dialler in place of the old one, which lives on for the checks that still use it."""
        async with self._replacing:
            if self._dialler is not None and self._dialler is not old:
                return self._dialler
            try:
                self._dialler = await Dialler.open()
            except NodeError as error:
                log.warning("no fresh dialler", error=str(error))
                return old
            self._on_node_opened("dialler")
            self._retire(old)
            return self._dialler

    def _retire(self, node: Dialler) -> None:
        async def close_later() -> None:
            try:
                await asyncio.sleep(RETIRED_LASTS)
            finally:
                await node.close()

        self._background.start("retire", close_later())

    async def _recover(self) -> None:
        """Join the swarm, with new nodes where the old ones died or went deaf."""
        if self._guide is not None:
            self._retire(self._guide)
        if self._dialler is not None:
            self._retire(self._dialler)
        self._guide = self._dialler = None
        async with AsyncExitStack() as opened:  # whatever fails on the way, no daemon is left behind
            try:
                guide = await opened.enter_async_context(await SwarmNode.open(self._dial_private))
                dialler = await opened.enter_async_context(await Dialler.open())
            except NodeError as error:
                self._set_fit(str(error))
                return
            self._on_node_opened("guide")
            errors = await guide.join(self._bootstrap_peers, JOIN_TIMEOUT)
            opened.pop_all()
        self._joined = [peer_id for peer_id, error in errors.items() if error is None]
        self._guide, self._dialler = guide, dialler
        self._set_fit(None if self._joined and await self._self_test() else "no bootstrap peer answers")

    async def _close(self) -> None:
        self._set_fit("stopping")
        await self._background.close()
        for node in (self._guide, self._dialler):
            if node is not None:
                await node.close()


async def _disconnect(dialler: Dialler, peer_id: str) -> None:
    with suppress(OSError, EOFError):  # the daemon is gone, and its connections with it
        await dialler.disconnect(peer_id)
