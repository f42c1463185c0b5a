"""What stands in for the network where a test is about something else; never for Redis, never for HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING

import base58
import msgspec

from shared.inference import InferenceOutcome, ServerInference
from shared.judgement.coverage import coverage
from shared.reachability import Cause, DialOutcome, Stage
from shared.resolve import Directory
from shared.snapshot import (
    SCHEMA_VERSION,
    BootstrapPeer,
    ModelReport,
    ModelState,
    PeerState,
    ServerReport,
    Snapshot,
    Span,
    Verdict,
)
from shared.store import stored

if TYPE_CHECKING:
    from collections.abc import Callable


def peer_id(number: int) -> str:
    """A valid peer id for each number."""
    return base58.b58encode(b"\x12\x20" + hashlib.sha256(str(number).encode()).digest()).decode()


REACHED = DialOutcome(
    Verdict.REACHABLE, Stage.ANSWERED, addresses=("/ip4/127.0.0.1/tcp/1",), rtt=0.001, protocol_ok=True
)
REFUSED = DialOutcome(Verdict.UNREACHABLE, Stage.DIAL, Cause.REFUSED, "connection refused")


class FakeProber:
    """Answers after a delay, as told for each peer, and not before `free` is set; counts what it was asked.

    It stands for a worker's nodes, too, and for what probes given addresses and inference.
    """

    def __init__(self, outcome: DialOutcome = REACHED, delay: float = 0.0) -> None:
        self.fit = True
        self.outcome = outcome
        self.delay = delay
        self.outcomes: dict[str, tuple[DialOutcome, float]] = {}
        self.looks: list[str] = []
        self.looking = 0
        self.most_at_once = 0
        self.inferences: list[tuple[str, int, int]] = []
        self.free = asyncio.Event()
        self.free.set()

    async def probe(
        self, peer: str, deadline: float, on_stage: Callable[[Stage], None] = lambda _: None
    ) -> DialOutcome:
        self.looks.append(peer)
        on_stage(Stage.DIAL)
        self.looking += 1
        self.most_at_once = max(self.most_at_once, self.looking)
        outcome, delay = self.outcomes.get(peer, (self.outcome, self.delay))
        try:
            await asyncio.sleep(delay)
            await self.free.wait()
        finally:
            self.looking -= 1
        return outcome

    async def probe_at(self, given, deadline, on_stage):
        return await self.probe(str(given), deadline, on_stage)

    async def infer(self, peer, outcome, asked, deadline):
        self.inferences.append((asked.dht_prefix, asked.start, asked.end))
        return ServerInference(InferenceOutcome.COMPUTED, (asked.start, asked.end), 1.0, 0.02, 0.01)


def server(number: int, start: int, end: int, state: PeerState = PeerState.ONLINE, **more: object) -> ServerReport:
    announced = PeerState.ONLINE if state is PeerState.UNREACHABLE else state
    report = ServerReport(
        peer_id=peer_id(number), state=state, announced=announced, span=Span(start, end), show_public_name=False,
        throughput=100.0,
    )  # fmt: skip
    return msgspec.structs.replace(report, **more)


def model(
    prefix: str = "demo-model", blocks: int = 8, servers: tuple[ServerReport, ...] = (), **more: object
) -> ModelReport:
    report = ModelReport(
        dht_prefix=prefix, num_blocks=blocks, state=ModelState.BROKEN, name=prefix, short_name=prefix, servers=servers
    )
    return msgspec.structs.replace(report, state=coverage(report).state, **more)


def snapshot(*models: ModelReport, taken_at: float | None = None, **more: object) -> Snapshot:
    document = Snapshot(
        schema=SCHEMA_VERSION,
        taken_at=time.time() if taken_at is None else taken_at,
        update_period=60.0,
        update_duration=1.5,
        bootstrap_peers=(BootstrapPeer(peer_id(0), ("/ip4/127.0.0.1/tcp/4001",), Verdict.REACHABLE),),
        models=models or (model(servers=(server(1, 0, 8),)),),
    )
    return msgspec.structs.replace(document, **more)


def refused(kind):
    """How many entries of Redis of this kind were refused by now."""
    return stored.REFUSED.labels(kind)._value.get()


def resolve(text, snapshot):
    """What a text names in one snapshot."""
    return Directory.of(snapshot).resolve(text)
