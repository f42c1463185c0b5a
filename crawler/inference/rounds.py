"""This module makes inference checks in rounds, beside the crawl, never two at once on one server.

`InferenceChecks.run` is a loop of its own: the crawl passes it each snapshot, and merges the results known by then.
Each slot of a round starts a daemon of its own and stops it, which frees its memory and its record of failed dials.
Only the leading crawler makes checks.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
import zlib
from array import array
from collections import Counter, defaultdict
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from crawler.inference.agreement import Group, numbers, precision_of
from crawler.inference.plan import Step, choose_adapter, choose_step, slot_of
from crawler.inference.results import Results
from shared.inference import InferenceOutcome, ServerInference, Usability, UsabilityState
from shared.judgement.usability import not_asked
from shared.p2p.addresses import AddressRules
from shared.p2p.chain import Chain, Link, can_be_asked
from shared.p2p.connect import NotConnectedError, ProberNode, connection
from shared.p2p.daemon import NodeError
from shared.p2p.inference import TOKENS, InferenceError, ask_schema, check_server, random_inputs
from shared.p2p.multiaddr import packed
from shared.p2p.petals import block_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from shared.snapshot import ModelReport, ServerReport, Snapshot

SLOTS = 10
"""Parts of a round: the chains of all models in the first, servers in the others."""
SESSIONS_AT_ONCE = 16
CHAINS_AT_ONCE = 2
SERVER_FREE_WITHIN = 30.0
"""Seconds that a check waits for another one of the same server, of another model."""
SNAPSHOT_LASTS = 300.0
"""Seconds: an older snapshot does not say where servers are now."""
SCHEMAS_ASKED = 3
"""Servers of a model that are asked for its hidden size: one alone could spoil the chain of all."""
SCHEMA_TRIES = 8
FRESH = 0.5
"""Share of a period: a check that is younger, of another process, is not made again."""
IDLE = 1.0

log = structlog.get_logger()


@dataclass
class _Round:
    """What one round keeps, so that servers' results can be compared."""

    number: int
    secret: str = field(default_factory=lambda: secrets.token_hex(8))
    """Seeds the round's input, so that no server can know it in advance."""
    hops: dict[str, list[Link]] = field(default_factory=dict)
    """The links of each model's chain."""
    done: set[tuple[str, str]] = field(default_factory=set)
    sizes: defaultdict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    """By DHT prefix: the hidden size that each server named, by its peer id."""
    groups: dict[tuple[str, tuple[int, int], bool, str | None], Group] = field(default_factory=dict)
    """Servers with the same input, by (DHT prefix, blocks, whether the input is that of a hop, adapter)."""
    _inputs: dict[int, tuple[array[float], ...]] = field(default_factory=dict)

    def inputs(self, hidden_size: int) -> tuple[array[float], ...]:
        """Return the random input of all servers in this round."""
        if hidden_size not in self._inputs:
            self._inputs[hidden_size] = random_inputs(hidden_size, self.secret)
        return self._inputs[hidden_size]


class InferenceChecks:
    """The inference checks of one crawler."""

    def __init__(
        self,
        *,
        period: float,
        models: frozenset[str] | None = None,
        dial_timeout: float = 5.0,
        dial_private: bool = False,
        identity: Path | None = None,
        leads: Callable[[], bool] = lambda: True,
        count: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.time,
        turn: Callable[[str], AbstractAsyncContextManager[bool]] = lambda _: nullcontext(enter_result=True),
    ) -> None:
        """`models` are the DHT prefixes that are checked, all where None; `count` gets each server's outcome.

        `turn` yields whether a server, by its peer id, is not checked by another process.
        """
        self.results = Results(period)
        self._period = period
        self._models = models
        self._dial_timeout = dial_timeout
        self._dial_private = dial_private
        self._identity = identity
        self._leads = leads
        self._count = count
        self.now = now
        self._turn = turn
        self._snapshot: Snapshot | None = None
        self._peer_id: str | None = None
        self._number = 0
        self._busy: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def merged(self, snapshot: Snapshot) -> Snapshot:
        """Take a new snapshot, and return it with what is known of its servers and models."""
        merged = self.results.merged(snapshot, peer_id=self._peer_id)
        self._snapshot = merged
        return merged

    async def run(self) -> None:
        """Check in rounds until cancelled."""
        with tempfile.TemporaryDirectory(prefix="petals-monitor-") as folder:
            identity = self._identity or Path(folder) / "identity"
            while True:
                self._busy.clear()  # nobody holds one between rounds
                if self._current() is None:
                    await asyncio.sleep(IDLE)
                    continue
                began = time.monotonic()
                await self.round(identity, began)
                await asyncio.sleep(max(0.0, began + self._period - time.monotonic()))

    def _current(self) -> Snapshot | None:
        """Return the latest snapshot; None where this crawler does not lead, or the snapshot is too old."""
        snapshot = self._snapshot
        if snapshot is None or not self._leads() or snapshot.age(self.now()) > SNAPSHOT_LASTS:
            return None
        return snapshot

    async def round(self, identity: Path | None = None, began: float | None = None) -> None:
        """Check every model and every server that takes part once; `began` is in monotonic seconds, None: at once."""
        current, self._number = _Round(self._number), self._number + 1
        for slot in range(SLOTS):
            if began is not None:
                await asyncio.sleep(max(0.0, began + self._period * slot / SLOTS - time.monotonic()))
            snapshot = self._current()
            if snapshot is None:
                return
            models = [model for model in snapshot.models if self._models is None or model.dht_prefix in self._models]
            self._without_servers(models)
            due = _due(models, slot)
            if not due:
                continue
            try:
                async with await ProberNode.open(identity) as node:
                    self._peer_id = node.peer_id
                    await self._slot(_Checker(self, current, node), due)
            except NodeError as error:
                log.warning("no inference checks: the node does not start", error=str(error))
        log.info(
            "inference round",
            models=dict(Counter(str(one.state) for one in self.results.models.values())),
            servers=dict(Counter(str(one.outcome) for one in self.results.servers.values())),
        )

    @staticmethod
    async def _slot(checker: _Checker, due: Sequence[tuple[ModelReport, ServerReport | None]]) -> None:
        """Make the checks of a slot: a chain where no server is named."""
        chains = [partial(checker.chain, model) for model, server in due if server is None]
        steps = [partial(checker.server, model, server) for model, server in due if server is not None]
        await _all(CHAINS_AT_ONCE, chains)
        await _all(SESSIONS_AT_ONCE, steps)

    def _without_servers(self, models: Iterable[ModelReport]) -> None:
        """Record models without any server to ask as unusable."""
        for model in models:
            if not any(map(can_be_asked, model.servers)):
                self.results.models[model.dht_prefix] = Usability(
                    UsabilityState.UNUSABLE, self.now(), "no server that answers holds its blocks"
                )

    def is_fresh(self, checked_at: float | None) -> bool:
        """Whether a check need not be made again yet."""
        return checked_at is not None and self.now() - checked_at < FRESH * self._period

    def found(self, dht_prefix: str, peer_id: str, finding: ServerInference) -> None:
        self.results.add(dht_prefix, peer_id, finding)
        self._count(str(finding.outcome))

    @asynccontextmanager
    async def connection(self, node: ProberNode, server: ServerReport) -> AsyncIterator[None]:
        """Hold a connection to a server that no other inference check uses. Raises `InferenceError`."""
        lock = self._busy[server.peer_id]
        try:
            async with asyncio.timeout(SERVER_FREE_WITHIN):
                await lock.acquire()
        except TimeoutError:
            raise InferenceError(InferenceOutcome.UNKNOWN, "another check of it goes on") from None
        try:
            rules = AddressRules(self._dial_private, frozenset((node.peer_id,)))
            addresses = packed(server.multiaddrs)
            async with self._turn(server.peer_id) as mine:
                if not mine:
                    raise InferenceError(InferenceOutcome.UNKNOWN, "another check of it goes on")
                async with connection(node, server.peer_id, addresses, rules, within=self._dial_timeout):
                    yield
        except NotConnectedError as error:
            raise InferenceError(InferenceOutcome.UNKNOWN, f"not connected: {error}") from error
        finally:
            lock.release()


@dataclass
class _Checker:
    """Makes the checks of one slot."""

    checks: InferenceChecks
    round: _Round
    node: ProberNode

    async def chain(self, model: ModelReport) -> None:
        """Compute tokens through all blocks of a model."""
        prefix, checks, now = model.dht_prefix, self.checks, self.checks.now()
        known = checks.results.models.get(prefix)
        if known is not None and checks.is_fresh(known.checked_at):
            return
        left_out = {
            server.peer_id: instead
            for server in model.servers
            if can_be_asked(server) and (instead := not_asked(server, now)) is not None
        }
        size, error = await self._hidden_size(model, left_out)
        if size is None and error is not None:
            state = UsabilityState.UNKNOWN if error.outcome is InferenceOutcome.UNKNOWN else UsabilityState.UNUSABLE
            checks.results.models[prefix] = Usability(state, now, f"no server describes its blocks: {error.detail}")
            return
        chain = Chain(self.node, partial(checks.connection, self.node), model, not_asked=left_out, now=checks.now)
        result = await chain.run(self.round.inputs(size or 1))
        checks.results.models[prefix] = result.usability
        self.round.hops[prefix] = [link for link in result.links if len(link.outputs) == TOKENS]
        for peer_id, finding in result.findings.items():
            checks.found(prefix, peer_id, finding)
            self.round.done.add((prefix, peer_id))
        for link in self.round.hops[prefix]:
            self._compare(prefix, link.leg.server, Step(link.blocks, link, None), link.inputs, link.outputs)
        for link in self.round.hops[prefix]:
            link.outputs = [array("f")] * TOKENS  # they would be a third of a round's memory

    async def _hidden_size(
        self, model: ModelReport, left_out: dict[str, ServerInference]
    ) -> tuple[int | None, InferenceError | None]:
        """Return the hidden size that most of a few servers name (None where none answers), and the last error."""
        sizes, failed = self.round.sizes[model.dht_prefix], None
        asked = [server for server in model.servers if can_be_asked(server) and server.peer_id not in left_out]
        for server in sorted(asked, key=self._shuffled)[:SCHEMA_TRIES]:
            if len(sizes) >= SCHEMAS_ASKED:
                break
            try:
                async with self.checks.connection(self.node, server):
                    schema = await ask_schema(self.node, server.peer_id, block_key(model.dht_prefix, server.span.start))
            except InferenceError as error:
                failed = error
            else:
                sizes[server.peer_id] = schema.hidden_size
        return (Counter(sizes.values()).most_common(1)[0][0] if sizes else None), failed

    def _shuffled(self, server: ServerReport) -> int:
        return zlib.crc32((self.round.secret + server.peer_id).encode())

    async def server(self, model: ModelReport, server: ServerReport) -> None:
        """Check one server, unless the chain has."""
        prefix, checks = model.dht_prefix, self.checks
        adapter = choose_adapter(server, self.round.number)
        if (prefix, server.peer_id) in self.round.done and adapter is None:
            return
        known = checks.results.servers.get((prefix, server.peer_id))
        if adapter is None and known is not None and checks.is_fresh(known.checked_at):
            return
        if (instead := not_asked(server, checks.now())) is not None:
            checks.found(prefix, server.peer_id, instead)
            return
        step = choose_step(server, self.round.hops.get(prefix, ()), self.round.number)
        given: list[Sequence[array[float]]] = []

        def inputs(hidden_size: int) -> Sequence[array[float]]:
            self._expect(prefix, server.peer_id, hidden_size)
            given.append(step.hop.inputs if step.hop is not None else self.round.inputs(hidden_size))
            return given[0]

        try:
            async with checks.connection(self.node, server):
                finding, steps = await check_server(
                    self.node, server.peer_id, prefix, step.blocks, adapter=step.adapter, inputs=inputs, now=checks.now
                )
        except InferenceError as error:
            finding = ServerInference(
                error.outcome, step.blocks, checks.now(), detail=error.detail, adapter=step.adapter
            )
            steps = None
        checks.found(prefix, server.peer_id, finding)
        if steps is not None:
            self._compare(prefix, server, step, given[0], steps.outputs)

    def _expect(self, dht_prefix: str, peer_id: str, hidden_size: int) -> None:
        """Raise `InferenceError` for a hidden size that differs from the one most of the model's servers name."""
        sizes = self.round.sizes[dht_prefix]
        sizes[peer_id] = hidden_size
        expected, count = Counter(sizes.values()).most_common(1)[0]
        if expected != hidden_size and 2 * count > len(sizes):
            detail = f"its hidden size is {hidden_size}, that of other servers of the model {expected}"
            raise InferenceError(InferenceOutcome.WRONG_SHAPE, detail)

    def _compare(
        self,
        dht_prefix: str,
        server: ServerReport,
        step: Step,
        inputs: Sequence[array[float]],
        outputs: Sequence[array[float]],
    ) -> None:
        """Compare a server's outputs with those of all servers with the same input in this round."""
        key = dht_prefix, step.blocks, step.hop is not None, step.adapter
        made = numbers(inputs, outputs, precision_of(server.torch_dtype, server.quant_type))
        group = self.round.groups.setdefault(key, Group(step.blocks))
        self.checks.results.add_agreements(dht_prefix, group.add(server.peer_id, made), step.adapter)


def _due(models: Sequence[ModelReport], slot: int) -> list[tuple[ModelReport, ServerReport | None]]:
    """Return what a slot of a round checks: the first one each model's chain, the others each some servers."""
    if slot == 0:
        return [(model, None) for model in models if any(map(can_be_asked, model.servers))]
    return [
        (model, server)
        for model in models
        for server in model.servers
        if can_be_asked(server) and slot_of(server.peer_id, SLOTS - 1) == slot - 1
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
