"""Inference checks against genuine Petals servers, beside what the genuine client gets from the same ones."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from crawler.crawl import crawl_once
from crawler.inference.agreement import cosine, lowest_allowed, numbers
from crawler.inference.rounds import InferenceChecks
from crawler.settings import CrawlerSettings
from deploy.demo.simulated_server import Announcement, Model, SimulatedServer
from shared.inference import AgreementOutcome, InferenceOutcome, UsabilityState
from shared.p2p import inference
from shared.p2p.chain import Chain
from shared.p2p.connect import ProberNode
from shared.p2p.dht_node import DHTClientNode
from shared.p2p.inference import InferenceError, check_server, open_session, random_inputs
from shared.snapshot import ServerReport, Snapshot, Verdict
from tests.petals_server.harness import PetalsServer, make_model, run_client
from tests.support.announcing import announce

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.petals_server.harness import Bootstrap

CHAIN, NAN, FULL, LIAR = "chain-hf", "nan-hf", "full-hf", "liar-hf"
LAYERS, HIDDEN = 4, 64
TOKENS_GIVEN = random_inputs(HIDDEN, "genuine")


class Swarm(NamedTuple):
    address: str
    models: dict[str, Path]
    servers: dict[str, PetalsServer]

    @property
    def names(self) -> dict[str, str]:
        return {server.peer_id: name for name, server in self.servers.items()}


@pytest.fixture(scope="module")
def swarm(folder: Path, bootstrap: Bootstrap) -> Iterator[Swarm]:
    """Seven servers: blocks 0:2 with the same weights twice, in bfloat16, and with others; 2:4; NaN; no cache left."""
    models = {kind: make_model(folder / kind, LAYERS, kind) for kind in ("good", "other", "nan")}
    made: dict[str, dict[str, Any]] = {
        "first": {"dht_prefix": CHAIN, "model": models["good"], "blocks": (0, 2)},
        "same": {"dht_prefix": CHAIN, "model": models["good"], "blocks": (0, 2)},
        "half": {"dht_prefix": CHAIN, "model": models["good"], "blocks": (0, 2), "torch_dtype": "bfloat16"},
        "other": {"dht_prefix": CHAIN, "model": models["other"], "blocks": (0, 2)},
        "second": {"dht_prefix": CHAIN, "model": models["good"], "blocks": (2, 4)},
        "nan": {"dht_prefix": NAN, "model": models["nan"], "blocks": (0, 4)},
        "full": {"dht_prefix": FULL, "model": models["good"], "blocks": (0, 4), "attn_cache_tokens": 1},
    }
    servers: dict[str, PetalsServer] = {}
    try:
        for name, how in made.items():
            servers[name] = PetalsServer(folder, initial_peers=[bootstrap.address], public_name=name, **how)
        for server in servers.values():
            server.wait_until_started()
        yield Swarm(bootstrap.address, models, servers)
    finally:
        for server in servers.values():
            server.kill()


async def crawl(swarm: Swarm, *, servers: int) -> Snapshot:
    """Crawl until so many servers are seen and reached: they announce themselves within a second of their start."""
    settings = CrawlerSettings(initial_peers=[swarm.address])
    deadline = time.monotonic() + 30
    while True:
        async with await DHTClientNode.open() as dht_node:
            snapshot = await crawl_once(settings, dht_node)
        seen = [one for model in snapshot.models for one in model.servers if one.verdict is Verdict.REACHABLE]
        if len(seen) >= servers or time.monotonic() > deadline:
            return snapshot
        await asyncio.sleep(1)


def servers_of(snapshot: Snapshot, swarm: Swarm, dht_prefix: str) -> dict[str, ServerReport]:
    (model,) = (one for one in snapshot.models if one.dht_prefix == dht_prefix)
    return {swarm.names[server.peer_id]: server for server in model.servers}


async def test_the_table(swarm: Swarm, folder: Path) -> None:
    """One round tells every kind of server apart, and a model is usable exactly where the client gets numbers."""
    first = swarm.servers["first"].peer_id
    liar = await SimulatedServer.start([swarm.address])
    try:
        await announce(liar, first, Announcement(Model(LIAR, LAYERS), 2, 4, info={"torch_dtype": "float32"}))
        snapshot = await crawl(swarm, servers=8)
    finally:
        await liar.close()
    checks = InferenceChecks(period=60, dial_private=True)
    checks.merged(snapshot)
    await checks.round()
    snapshot = checks.merged(snapshot)

    chained = servers_of(snapshot, swarm, CHAIN)
    found = {
        **{name: server.inference for name, server in chained.items()},
        **{name: server.inference for name, server in servers_of(snapshot, swarm, NAN).items()},
        **{name: server.inference for name, server in servers_of(snapshot, swarm, FULL).items()},
        "liar": servers_of(snapshot, swarm, LIAR)["first"].inference,
    }
    print_table(found, snapshot)
    assert {name: one and one.outcome for name, one in found.items()} == {
        "first": InferenceOutcome.COMPUTED,
        "same": InferenceOutcome.COMPUTED,
        "half": InferenceOutcome.COMPUTED,
        "other": InferenceOutcome.COMPUTED,
        "second": InferenceOutcome.COMPUTED,
        "nan": InferenceOutcome.NOT_FINITE,
        "full": InferenceOutcome.BUSY,
        "liar": InferenceOutcome.REFUSED,
    }
    agreements = {name: server.inference.agreement for name, server in chained.items() if server.inference}
    assert {name: (one.outcome, one.against_majority) for name, one in agreements.items()} == {
        "first": (AgreementOutcome.AGREES, False),
        "same": (AgreementOutcome.AGREES, False),
        "half": (AgreementOutcome.AGREES, False),
        "other": (AgreementOutcome.DISAGREES, True),
        "second": (AgreementOutcome.ALONE, False),
    }
    usable = {model.dht_prefix: model.usability and model.usability.state for model in snapshot.models}
    assert usable == {
        CHAIN: UsabilityState.DEGRADED,  # blocks 2:4 are on one server alone
        NAN: UsabilityState.UNUSABLE,
        FULL: UsabilityState.UNUSABLE,
        LIAR: UsabilityState.UNUSABLE,
    }

    for dht_prefix, names in ((CHAIN, ["first", "second"]), (NAN, ["nan"]), (FULL, ["full"])):
        peers = [swarm.servers[name].peer_id for name in names]
        told = run_client(folder, swarm.models["good"], dht_prefix, swarm.address, peers, TOKENS_GIVEN)
        numbers_came = told["error"] is None and all(math.isfinite(value) for one in told["states"] for value in one)
        print(dht_prefix, "client:", told["error"] or f"tokens {told['tokens']}", "finite:", numbers_came)  # noqa: T201
        assert numbers_came == (usable[dht_prefix] in (UsabilityState.USABLE, UsabilityState.DEGRADED)), told


async def test_a_chain_computes_what_the_client_computes(swarm: Swarm, folder: Path) -> None:
    """The same hidden states after the last block, in about the same time."""
    snapshot = await crawl(swarm, servers=7)
    (model,) = (one for one in snapshot.models if one.dht_prefix == CHAIN)
    peers = [swarm.servers[name].peer_id for name in ("first", "second")]
    model = model.__class__(
        model.dht_prefix, model.num_blocks, model.state, model.name, model.short_name,
        servers=tuple(server for server in model.servers if server.peer_id in peers),
    )  # fmt: skip
    checks = InferenceChecks(period=60, dial_private=True)
    async with await ProberNode.open() as node:
        chain = await Chain(node, lambda server: checks.connection(node, server), model).run(TOKENS_GIVEN)
    told = run_client(folder, swarm.models["good"], CHAIN, swarm.address, peers, TOKENS_GIVEN)
    assert told["error"] is None, told
    assert [hop.peer_id for hop in chain.usability.path] == peers
    for ours, the_clients in zip(chain.links[-1].outputs, told["states"], strict=True):
        assert cosine(ours, the_clients) >= 0.9999
    ours, the_clients = chain.usability.seconds_per_token, sorted(told["seconds"])[len(told["seconds"]) // 2]
    print(f"seconds per token: {ours:.4f}, by the client {the_clients:.4f}")  # noqa: T201


async def test_a_server_that_freezes_between_two_steps(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with a time-out; the server goes on as before when it wakes, with all its cache."""
    monkeypatch.setattr(inference, "STEP_TIMEOUT", 2.0)
    server = swarm.servers["same"]
    snapshot = await crawl(swarm, servers=7)
    report = servers_of(snapshot, swarm, CHAIN)["same"]
    checks = InferenceChecks(period=60, dial_private=True)
    async with await ProberNode.open() as node:
        async with checks.connection(node, report):
            before = await inference.ask_schema(node, server.peer_id, f"{CHAIN}.0")
            async with open_session(node, server.peer_id, CHAIN, (0, 2), hidden_size=HIDDEN) as session:
                await session.step(TOKENS_GIVEN[0])
                with server.paused(), pytest.raises(InferenceError) as raised:
                    await session.step(TOKENS_GIVEN[1])
            assert raised.value.outcome is InferenceOutcome.TIMEOUT
        async with checks.connection(node, report):
            finding, _ = await check_server(node, server.peer_id, CHAIN, (0, 2))
            assert finding.outcome is InferenceOutcome.COMPUTED
            deadline = time.monotonic() + 10
            while (after := await inference.ask_schema(node, server.peer_id, f"{CHAIN}.0")) != before:
                assert time.monotonic() < deadline, (before, after)
                await asyncio.sleep(0.2)


async def test_a_full_server_says_so_itself(swarm: Swarm) -> None:
    """Where its record does not tell, its answer does; and one that lacks an adapter refuses."""
    snapshot = await crawl(swarm, servers=7)
    full = servers_of(snapshot, swarm, FULL)["full"]
    first = servers_of(snapshot, swarm, CHAIN)["first"]
    checks = InferenceChecks(period=60, dial_private=True)
    async with await ProberNode.open() as node:
        async with checks.connection(node, full):
            finding, _ = await check_server(node, full.peer_id, FULL, (0, 4))
        assert (finding.outcome, "allocate" in (finding.detail or "")) == (InferenceOutcome.BUSY, True)
        async with checks.connection(node, first):
            finding, _ = await check_server(node, first.peer_id, CHAIN, (0, 2), adapter="nobody/has-this")
        assert finding.outcome is InferenceOutcome.REFUSED


async def test_the_tolerances_hold(swarm: Swarm) -> None:
    """Measured between genuine servers: float32 twice, float32 beside bfloat16, and other weights."""
    snapshot = await crawl(swarm, servers=7)
    reports = servers_of(snapshot, swarm, CHAIN)
    checks = InferenceChecks(period=60, dial_private=True)
    added = {}
    async with await ProberNode.open() as node:
        for name in ("first", "same", "half", "other"):
            async with checks.connection(node, reports[name]):
                _, steps = await check_server(node, reports[name].peer_id, CHAIN, (0, 2), inputs=lambda _: TOKENS_GIVEN)
            assert steps is not None
            added[name] = numbers(TOKENS_GIVEN, steps.outputs, "float32").added
    cosines = {name: min(map(cosine, added["first"], added[name])) for name in ("same", "half", "other")}
    print("cosine with first:", {name: f"{value:.6f}" for name, value in cosines.items()})  # noqa: T201
    assert cosines["same"] >= 0.999999
    assert cosines["half"] >= lowest_allowed("float32", "half")
    assert cosines["other"] < 0.5


def print_table(found: dict[str, Any], snapshot: Snapshot) -> None:
    """For `pytest -s`, and for the documentation."""
    for name, one in found.items():
        speed = f"{1e3 * one.seconds_per_step:.0f} ms" if one.seconds_per_step else ""
        low = one.agreement.lowest_cosine
        print(  # noqa: T201
            f"{name:8} {one.outcome:11} {one.blocks} {speed:7} {one.agreement.outcome:10}"
            f" {'' if low is None else f'{low:.4f}':7} {one.detail or ''}"
        )
    for model in snapshot.models:
        print(model.dht_prefix, model.usability)  # noqa: T201
