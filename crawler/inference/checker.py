"""This module makes the inference checks of one round: chains through models, and single servers.

Servers with the same input are compared with one another.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crawler.inference.agreement import Group, numbers, precision_of
from crawler.inference.plan import Step, choose_adapter, choose_step
from shared.inference import InferenceOutcome, ServerInference, Usability, UsabilityState
from shared.judgement.usability import DOES_NOT_COMPUTE, not_asked
from shared.p2p.chain import Chain, ChainResult, Link
from shared.p2p.inference import TOKENS, InferenceError, ask_schema, check_server, random_inputs
from shared.p2p.petals import block_key

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from crawler.inference.results import Results
    from shared.p2p.connect import ProberNode
    from shared.snapshot import ModelReport, ServerReport

SCHEMAS_ASKED = 3
"""Servers of a model that are asked for its hidden size: one alone could spoil the chain of all."""
SCHEMA_TRIES = 8
MAX_SIZES = 256
"""Hidden sizes of one round, more than there are models; the input of each is kept, up to 256 KiB."""


@dataclass
class Round:
    """What one round keeps, so that servers' results can be compared."""

    number: int
    hops: dict[str, list[Link]] = field(default_factory=dict)
    """The links of each model's chain."""
    done: set[tuple[str, str]] = field(default_factory=set)
    sizes: defaultdict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    """By DHT prefix: the hidden size that each server named, by its peer id."""
    groups: dict[tuple[str, tuple[int, int], bool, str | None], Group] = field(default_factory=dict)
    """Servers with the same input, by (DHT prefix, blocks, whether the input is that of a hop, adapter)."""
    _inputs: dict[int, tuple[array[float], ...]] = field(default_factory=dict)

    def inputs(self, hidden_size: int) -> tuple[array[float], ...]:
        """Return the random input of all servers in this round. Raises `InferenceError` for one size too many."""
        if hidden_size not in self._inputs:
            if len(self._inputs) >= MAX_SIZES:
                raise InferenceError(InferenceOutcome.UNKNOWN, "too many servers name a hidden size of their own")
            self._inputs[hidden_size] = random_inputs(hidden_size)
        return self._inputs[hidden_size]


@dataclass
class Checker:
    """Makes the checks of one slot of a round, over one daemon."""

    round: Round
    node: ProberNode
    results: Results
    connection: Callable[[ServerReport], AbstractAsyncContextManager[None]]
    """Holds a connection to a server that no other inference check uses. Raises `InferenceError`."""
    fresh_for: float
    """Seconds for which a check need not be made again."""
    count: Callable[[str], None]
    """Gets each server's outcome."""
    now: Callable[[], float]

    async def chain(self, model: ModelReport) -> None:
        """Compute tokens through all blocks of a model."""
        prefix, now = model.dht_prefix, self.now()
        latest = self.results.models.get(prefix)
        if latest is not None and latest.state is not UsabilityState.UNKNOWN and self._is_fresh(latest):
            return
        left_out = {
            server.peer_id: instead
            for server in model.servers
            if server.reached and (instead := not_asked(server, now)) is not None
        }
        error = await self._ask_hidden_sizes(model, left_out)
        if not self.round.sizes[prefix] and error is not None:
            state = UsabilityState.UNKNOWN if error.outcome is InferenceOutcome.UNKNOWN else UsabilityState.UNUSABLE
            self.results.models[prefix] = Usability(state, now, f"no server describes its blocks: {error.detail}")
            return
        size, result = await self._run_chains(model, left_out)
        self.results.models[prefix] = result.usability
        self.round.hops[prefix] = [link for link in result.links if len(link.outputs) == TOKENS]
        is_agreed = size == self._agreed_size(prefix)
        for peer_id, finding in result.findings.items():
            if is_agreed or finding.outcome not in DOES_NOT_COMPUTE:  # the others are checked with their own sizes
                self._found(prefix, peer_id, finding)
                self.round.done.add((prefix, peer_id))
        for link in self.round.hops[prefix]:
            self._compare(prefix, link.leg.server, Step(link.blocks, link, None), link.inputs, link.outputs)
            link.outputs.clear()  # they would be a third of a round's memory

    async def _run_chains(self, model: ModelReport, left_out: dict[str, ServerInference]) -> tuple[int, ChainResult]:
        """Return the chain of the hidden size that most servers name, or of another one that fares better."""
        first, *others = [size for size, _ in Counter(self.round.sizes[model.dht_prefix].values()).most_common()] or [0]
        best = first, await self._run_chain(model, left_out, first)
        for size in others:
            if best[1].usability.state in (UsabilityState.USABLE, UsabilityState.DEGRADED):
                break
            result = await self._run_chain(model, left_out, size)
            if result.usability.state is not UsabilityState.UNUSABLE:
                best = size, result
        return best

    async def _run_chain(self, model: ModelReport, left_out: dict[str, ServerInference], size: int) -> ChainResult:
        chain = Chain(self.node, self.connection, model, not_asked=left_out, now=self.now)
        return await chain.run(self.round.inputs(size))

    async def _ask_hidden_sizes(
        self, model: ModelReport, left_out: dict[str, ServerInference]
    ) -> InferenceError | None:
        """Ask a few servers for the model's hidden size. Return the error of one that did not tell, if any.

        It is one of a server that nobody could ask, if there is any: that one may name it.
        """
        sizes, failed = self.round.sizes[model.dht_prefix], None
        asked = [server for server in model.servers if server.reached and server.peer_id not in left_out]
        for server in random.sample(asked, min(SCHEMA_TRIES, len(asked))):
            if len(sizes) >= SCHEMAS_ASKED:
                break
            try:
                async with self.connection(server):
                    schema = await ask_schema(self.node, server.peer_id, block_key(model.dht_prefix, server.span.start))
            except InferenceError as error:
                if failed is None or error.outcome is InferenceOutcome.UNKNOWN:
                    failed = error
            else:
                sizes[server.peer_id] = schema.hidden_size
        return failed

    def _agreed_size(self, dht_prefix: str) -> int | None:
        """Return the hidden size that more than half of those who were asked name."""
        sizes = Counter(self.round.sizes[dht_prefix].values())
        return next((size for size, count in sizes.items() if 2 * count > sizes.total()), None)

    async def server(self, model: ModelReport, server: ServerReport) -> None:
        """Check one server, unless the chain has."""
        prefix = model.dht_prefix
        adapter = choose_adapter(server, self.round.number)
        if (prefix, server.peer_id) in self.round.done and adapter is None:
            return
        if adapter is None and self._is_fresh(self.results.servers.get((prefix, server.peer_id))):
            return
        if (instead := not_asked(server, self.now())) is not None:
            self._found(prefix, server.peer_id, instead)
            return
        step = choose_step(server, self.round.hops.get(prefix, ()), self.round.number)
        given: list[Sequence[array[float]]] = []

        def inputs(hidden_size: int) -> Sequence[array[float]]:
            nonlocal step
            self._expect(prefix, server.peer_id, hidden_size)
            if step.hop is not None and len(step.hop.inputs[0]) != hidden_size:
                step = step._replace(hop=None)  # a chain of other servers, which name another size
            given.append(step.hop.inputs if step.hop is not None else self.round.inputs(hidden_size))
            return given[0]

        try:
            async with self.connection(server):
                finding, outputs = await check_server(
                    self.node, server.peer_id, prefix, step.blocks, adapter=step.adapter, inputs=inputs, now=self.now
                )
        except InferenceError as error:
            finding = ServerInference(error.outcome, step.blocks, self.now(), detail=error.detail, adapter=step.adapter)
            self._found(prefix, server.peer_id, finding)
            return
        self._found(prefix, server.peer_id, finding)
        if outputs:
            self._compare(prefix, server, step, given[0], outputs)

    def _is_fresh(self, found: ServerInference | Usability | None) -> bool:
        return found is not None and self.now() - found.checked_at < self.fresh_for

    def _found(self, dht_prefix: str, peer_id: str, finding: ServerInference) -> None:
        self.results.add(dht_prefix, peer_id, finding)
        self.count(str(finding.outcome))

    def _expect(self, dht_prefix: str, peer_id: str, hidden_size: int) -> None:
        """Raise `InferenceError` for a hidden size that differs from the one most of the model's servers name."""
        sizes = self.round.sizes[dht_prefix]
        sizes[peer_id] = hidden_size
        if (expected := self._agreed_size(dht_prefix)) not in (hidden_size, None):
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
        self.results.add_agreements(dht_prefix, group.add(server.peer_id, made), step.adapter)
