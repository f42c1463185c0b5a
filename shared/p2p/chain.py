"""This module takes tokens through all blocks of a model, from server to server, as Petals' client does.

One session on each server of the path; each server is given what the one before it answered. Where a server fails,
its blocks are tried on the next best one, which is given all tokens so far, as the client does. The client sends a
server's answer to the next server itself, too, and so do we; it also lets servers push answers to each other, which
spares it some waiting.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from shared.inference import Hop, InferenceOutcome, ServerInference, Usability, UsabilityState
from shared.judgement.coverage import coverage
from shared.judgement.path import find_path
from shared.p2p.inference import InferenceError, Session, open_session
from shared.peer_id import named_peer
from shared.snapshot import PeerState, Verdict
from shared.words import blocks

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from shared.judgement.path import Leg
    from shared.p2p.daemon import Daemon
    from shared.snapshot import ModelReport, ServerReport

SLOW_STEP = 1.0
"""Seconds per token on one server from which a model counts as degraded."""
CHAIN_TIMEOUT = 120.0
"""Seconds for all of it."""
MAX_FAILURES = 8
"""Servers of a model that may fail before a chain is given up. Petals' client tries for ever."""


@dataclass(slots=True)
class Link:
    """One server of a chain."""

    leg: Leg
    inputs: list[array[float]] = field(default_factory=list)
    """What it was given, one for each token."""
    outputs: list[array[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    session: Session | None = None
    connected: bool = False

    @property
    def blocks(self) -> tuple[int, int]:
        return self.leg.start, self.leg.end


@dataclass(slots=True)
class ChainResult:
    usability: Usability
    findings: dict[str, ServerInference]
    """Of the servers that were tried, by peer id; those of the path computed."""
    links: list[Link]
    """The path as far as it came."""


class _BrokenChainError(Exception):
    def __init__(self, state: UsabilityState, reason: str) -> None:
        super().__init__(reason)
        self.state = state


class Chain:
    """One pass of a model's chain. Use once: `await Chain(...).run(inputs)`.

    `connection` gives a context manager that holds a connection to a server and raises `InferenceError` where there
    is none; nobody else uses the server meanwhile.
    """

    def __init__(
        self,
        daemon: Daemon,
        connection: Callable[[ServerReport], AbstractAsyncContextManager[None]],
        model: ModelReport,
        *,
        not_asked: Mapping[str, ServerInference] = MappingProxyType({}),
        now: Callable[[], float] = time.time,
    ) -> None:
        """`not_asked` are servers that are left out, and what is known of them instead."""
        self._daemon = daemon
        self._connection = connection
        self._model = model
        self._now = now
        self._findings: dict[str, ServerInference] = dict(not_asked)
        self._failures = 0
        self._links: list[Link] = []
        self._stack = AsyncExitStack()

    async def run(self, inputs: Sequence[array[float]]) -> ChainResult:
        """Take each input, one token, through all blocks. Never raises for what servers do."""
        began = self._now()
        tokens: list[float] = []
        try:
            async with asyncio.timeout(CHAIN_TIMEOUT), self._stack:
                self._links = [Link(leg) for leg in self._route(0, self._model.num_blocks)]
                await self._connect_all()
                for token, values in enumerate(inputs):
                    started = time.perf_counter()
                    await self._take(token, values)
                    tokens.append(time.perf_counter() - started)
        except _BrokenChainError as broken:
            return self._result(Usability(broken.state, began, str(broken), self._path()))
        except TimeoutError:
            return self._result(
                Usability(UsabilityState.UNUSABLE, began, f"no token within {CHAIN_TIMEOUT:g} s", self._path())
            )
        weaknesses = self._weaknesses()
        return self._result(
            Usability(
                UsabilityState.DEGRADED if weaknesses else UsabilityState.USABLE,
                began,
                "; ".join(weaknesses) or None,
                self._path(),
                seconds_first_token=tokens[0],
                seconds_per_token=tokens[-1],
            )
        )

    def _result(self, usability: Usability) -> ChainResult:
        links = [link for link in self._links if link.outputs and link.leg.server.peer_id not in self._findings]
        for link in links:
            link.session = None  # it is closed; links are kept for a round
            self._findings[link.leg.server.peer_id] = ServerInference(
                InferenceOutcome.COMPUTED,
                link.blocks,
                usability.checked_at,
                seconds_first_step=link.seconds[0],
                seconds_per_step=link.seconds[-1],
            )
        return ChainResult(usability, self._findings, links)

    def _path(self) -> tuple[Hop, ...]:
        return tuple(
            Hop(
                link.leg.server.peer_id,
                *link.blocks,
                relayed=bool(link.leg.server.relayed),
                seconds_per_step=link.seconds[-1],
            )
            for link in self._links
            if link.seconds and link.leg.server.peer_id not in self._findings
        )

    def _route(self, start: int, end: int) -> tuple[Leg, ...]:
        """Return the best legs over servers that have not failed. Raises `_BrokenChainError`."""
        asked = [server for server in self._model.servers if server.reached and server.peer_id not in self._findings]
        if (legs := find_path(asked, start, end)) is not None:
            return legs
        failed = [
            (server, self._findings[server.peer_id])
            for server in self._model.servers
            if server.peer_id in self._findings and server.span.start < end and start < server.span.end
        ]
        unseen = [
            server
            for server in self._model.servers
            if server.state is PeerState.ONLINE and server.verdict is Verdict.UNKNOWN
        ]
        undecided = [server for server, one in failed if one.outcome is InferenceOutcome.UNKNOWN] + unseen
        state = UsabilityState.UNUSABLE
        if undecided and find_path([*asked, *undecided], start, end) is not None:
            state = UsabilityState.UNKNOWN
        reason = "; ".join(
            f"{blocks([one.blocks])} at {named_peer(server.peer_id)}: {one.outcome}"
            + (f" ({one.detail})" if one.detail else "")
            for server, one in failed[-3:]
        )
        raise _BrokenChainError(state, reason or f"no server that answers holds all of {blocks([(start, end)])}")

    async def _connect_all(self) -> None:
        """Connect before the clock runs: a client that generates is connected, too."""
        place = 0
        while place < len(self._links):
            try:
                await self._connect(self._links[place])
            except InferenceError as error:
                self._replace(place, error)
            else:
                place += 1

    async def _connect(self, link: Link) -> None:
        if not link.connected:
            await self._stack.enter_async_context(self._connection(link.leg.server))
            link.connected = True

    async def _take(self, token: int, values: array[float]) -> None:
        """Take one token through all links, and all tokens so far through those that are new."""
        states, place = [values], 0
        while place < len(self._links):
            link = self._links[place]
            if not link.inputs:
                link.inputs = list(states)
            elif len(link.inputs) == token:
                link.inputs.append(states[-1])
            try:
                states = await self._step(link)
            except InferenceError as error:
                self._replace(place, error)
            else:
                place += 1

    async def _step(self, link: Link) -> list[array[float]]:
        """Return what the link made of the inputs that it has not had. Raises `InferenceError`."""
        await self._connect(link)
        started = time.perf_counter()
        if link.session is None:
            link.session = await self._stack.enter_async_context(
                open_session(
                    self._daemon,
                    link.leg.server.peer_id,
                    self._model.dht_prefix,
                    link.blocks,
                    hidden_size=len(link.inputs[0]),
                )
            )
        before = len(link.outputs)
        for values in link.inputs[before:]:
            link.outputs.append(await link.session.step(values))
            link.seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
        return link.outputs[before:]

    def _replace(self, place: int, error: InferenceError) -> None:
        """Put other servers in a failed one's place, with what it was given. Raises `_BrokenChainError`."""
        link = self._links[place]
        self._findings[link.leg.server.peer_id] = ServerInference(
            error.outcome, link.blocks, self._now(), detail=error.detail
        )
        self._failures += 1
        if self._failures > MAX_FAILURES:
            unseen = any(one.outcome is InferenceOutcome.UNKNOWN for one in self._findings.values())
            raise _BrokenChainError(
                UsabilityState.UNKNOWN if unseen else UsabilityState.UNUSABLE,
                f"{self._failures} servers failed, the last one with: {error.detail}",
            )
        replacing = [Link(leg) for leg in self._route(*link.blocks)]
        replacing[0].inputs = link.inputs
        self._links[place : place + 1] = replacing

    def _weaknesses(self) -> list[str]:
        found = []
        redundancy = coverage(self._model).redundancy
        for link in self._links:
            name, (start, end) = named_peer(link.leg.server.peer_id), link.blocks
            if link.leg.server.relayed:
                found.append(f"{name} is reached through a relay")
            if link.seconds[-1] > SLOW_STEP:
                found.append(f"{name} takes {link.seconds[-1]:.1f} s per token")
            if min(redundancy[start:end]) == 1:
                found.append(f"{name} alone holds some of {blocks([(start, end)])}")
        return found
