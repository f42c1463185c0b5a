"""This module makes inference checks in rounds, beside the crawl, never two at once on one server.

`InferenceChecks.run` is a loop of its own: the crawl passes it each snapshot, and merges the results known by then.
Each slot of a round starts a daemon of its own and stops it, which frees its memory and its record of failed dials.
Only the leading crawler makes checks.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import structlog

from crawler.inference.checker import Checker, Round
from crawler.inference.plan import slot_of
from crawler.inference.results import Results
from shared.inference import InferenceOutcome
from shared.judgement.freshness import stale_after
from shared.p2p.addresses import AddressRules
from shared.p2p.connect import NotConnectedError, ProberNode, connection
from shared.p2p.daemon import NodeError
from shared.p2p.inference import InferenceError
from shared.p2p.multiaddr import packed
from shared.snapshot import ModelState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from shared.snapshot import ModelReport, ServerReport, Snapshot

SLOTS = 10
"""Parts of a round: the chains of all models in the first, servers in the others."""
SESSIONS_AT_ONCE = 16
CHAINS_AT_ONCE = 2
SERVER_FREE_WITHIN = 30.0
"""Seconds that a check waits for another one of the same server, of another model."""
SNAPSHOT_LASTS, SNAPSHOT_PERIODS = 300.0, 2
"""Seconds, or crawl periods if these are longer: an older snapshot does not say where servers are now."""
FRESH = 0.5
"""Share of a period: a check that is younger, of another process, is not made again."""
IDLE = 1.0

log = structlog.get_logger()


@dataclass(kw_only=True)
class InferenceChecks:
    """The inference checks of one crawler."""

    period: float
    """Seconds from one check of a server, and of a model, to the next one."""
    models: frozenset[str] | None = None
    """DHT prefixes of those that are checked; None: all."""
    dial_timeout: float = 5.0
    dial_private: bool = False
    identity: Path | None = None
    """A file that keeps the peer id of the daemons; None: a new id with each start."""
    leads: Callable[[], bool] = lambda: True
    count: Callable[[str], None] = lambda _: None
    """Gets each server's outcome."""
    now: Callable[[], float] = time.time
    turn: Callable[[str], AbstractAsyncContextManager[bool]] = lambda _: nullcontext(enter_result=True)
    """Yields whether a server, by its peer id, is not checked by another process."""
    results: Results = field(init=False)
    _snapshot: Snapshot | None = None
    _peer_id: str | None = None
    _number: int = 0
    _busy: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    """By peer id: held by the check that uses the server."""

    def __post_init__(self) -> None:
        self.results = Results(self.period, self.models)

    def merged(self, snapshot: Snapshot) -> Snapshot:
        """Take a new snapshot, and return it with what is known of its servers and models."""
        merged = self.results.merged(snapshot, peer_id=self._peer_id)
        self._snapshot = merged
        return merged

    async def run(self) -> None:
        """Check in rounds until cancelled."""
        with tempfile.TemporaryDirectory(prefix="petals-monitor-") as folder:
            identity = self.identity or Path(folder) / "identity"
            while True:
                if self._current() is None:
                    await asyncio.sleep(IDLE)
                    continue
                began = time.monotonic()
                if await self.round(identity, began):
                    await asyncio.sleep(max(0.0, began + self.period - time.monotonic()))

    def _current(self) -> Snapshot | None:
        """Return the latest snapshot; None where this crawler does not lead, or the snapshot is too old."""
        snapshot = self._snapshot
        if snapshot is None or not self.leads():
            return None
        lasts = max(SNAPSHOT_LASTS, stale_after(snapshot, SNAPSHOT_PERIODS))
        return snapshot if snapshot.age(self.now()) <= lasts else None

    async def round(self, identity: Path | None = None, began: float | None = None) -> bool:
        """Check every model and every server that takes part once; `began` is in monotonic seconds, None: at once.

        Return False where it is broken off, because this crawler does not lead any more or the snapshot is too old.
        """
        current, self._number = Round(self._number), self._number + 1
        for slot in range(SLOTS):
            if began is not None:
                await asyncio.sleep(max(0.0, began + self.period * slot / SLOTS - time.monotonic()))
            snapshot = self._current()
            if snapshot is None:
                return False
            models = [model for model in snapshot.models if self.models is None or model.dht_prefix in self.models]
            due = _due(models, slot)
            if not due:
                continue
            try:
                async with await ProberNode.open(identity) as node:
                    self._peer_id = node.peer_id
                    await self._check(current, node, due)
            except NodeError as error:
                log.warning("no inference checks: the node does not start", error=str(error))
        log.info(
            "inference round",
            models=dict(Counter(str(one.state) for one in self.results.models.values())),
            servers=dict(Counter(str(one.outcome) for one in self.results.servers.values())),
        )
        return True

    async def _check(
        self, current: Round, node: ProberNode, due: Sequence[tuple[ModelReport, ServerReport | None]]
    ) -> None:
        """Make the checks of a slot: a chain where no server is named."""
        hold, fresh_for = partial(self.connection, node), FRESH * self.period
        checker = Checker(current, node, self.results, hold, fresh_for, self.count, self.now)
        await _all(CHAINS_AT_ONCE, [partial(checker.chain, model) for model, server in due if server is None])
        steps = [partial(checker.server, model, server) for model, server in due if server is not None]
        await _all(SESSIONS_AT_ONCE, steps)

    @asynccontextmanager
    async def connection(self, node: ProberNode, server: ServerReport) -> AsyncIterator[None]:
        """Hold a connection to a server that no other inference check uses. Raises `InferenceError`."""
        lock = self._busy.setdefault(server.peer_id, asyncio.Lock())
        try:
            async with asyncio.timeout(SERVER_FREE_WITHIN):
                await lock.acquire()
        except TimeoutError:
            raise InferenceError(InferenceOutcome.UNKNOWN, "another check of it goes on") from None
        try:
            rules = AddressRules(self.dial_private, frozenset((node.peer_id,)))
            addresses = packed(server.multiaddrs)
            async with self.turn(server.peer_id) as mine:
                if not mine:
                    raise InferenceError(InferenceOutcome.UNKNOWN, "another check of it goes on")
                async with connection(node, server.peer_id, addresses, rules, within=self.dial_timeout):
                    yield
        except NotConnectedError as error:
            raise InferenceError(InferenceOutcome.UNKNOWN, f"not connected: {error}") from error
        finally:
            lock.release()


def _due(models: Sequence[ModelReport], slot: int) -> list[tuple[ModelReport, ServerReport | None]]:
    """Return what a slot of a round checks: the first one each whole model's chain, the others each some servers."""
    if slot == 0:
        whole = (model for model in models if model.state is ModelState.HEALTHY)
        return [(model, None) for model in whole if any(server.reached for server in model.servers)]
    return [
        (model, server)
        for model in models
        for server in model.servers
        if server.reached and slot_of(server.peer_id, SLOTS - 1) == slot - 1
    ]


async def _all(at_once: int, work: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run all of `work`, at most `at_once` concurrently. An unexpected error costs one check."""
    left = iter(work)

    async def some() -> None:
        for one in left:
            try:
                await one()
            except Exception:
                log.exception("inference check failed")

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, len(work))):
            group.create_task(some())
