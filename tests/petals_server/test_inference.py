"""Inference checks against genuine Petals servers, beside what the genuine client gets from the same ones."""

from __future__ import annotations

import asyncio
import math
import time
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from msgspec import structs

from crawler.crawl import crawl_once
from crawler.inference.agreement import cosine, lowest_allowed, numbers
from crawler.inference.rounds import InferenceChecks
from crawler.settings import CrawlerSettings
from deploy.demo.simulated_server import Announcement, Model, SimulatedServer
from shared.inference import AgreementOutcome, InferenceOutcome, UsabilityState
from shared.judgement.usability import does_not_compute
from shared.p2p import inference
from shared.p2p.chain import Chain
from shared.p2p.connect import ProberNode
from shared.p2p.dht_node import DHTClientNode
from shared.p2p.inference import InferenceError, check_server, open_session, random_inputs
from shared.snapshot import ServerReport, Snapshot, Verdict
from tests.petals_server.harness import PetalsServer, run_client
from tests.support.announcing import announce

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.petals_server.harness import Bootstrap

TINY, OTHER, NAN, LORA = "tiny-llama-hf", "other", "nan", "tests/tiny-lora"
"""Models and the adapter that conftest.py makes."""
CHAIN, NANS, FULL, LIAR = "chain-hf", "nan-hf", "full-hf", "liar-hf"
MADE_UP = "tests/made-up"
LAYERS, HIDDEN = 4, 64
LIES_LAST = 900.0
TOKENS_GIVEN = random_inputs(HIDDEN)


class Swarm(NamedTuple):
    address: str
    model: Path
    servers: dict[str, PetalsServer]

    @property
    def names(self) -> dict[str, str]:
        return {server.peer_id: name for name, server in self.servers.items()}

    def peers(self, *names: str) -> list[str]:
        return [self.servers[name].peer_id for name in names]


@pytest.fixture(scope="module")
def swarm(folder: Path, bootstrap: Bootstrap, models: dict[str, Path]) -> Iterator[Swarm]:
    """Seven servers: blocks 0:2 with the same weights twice, in bfloat16, and with others; 2:4 with an adapter; NaN; no
    cache left. And records in the name of the first that claim blocks of a model that it does not hold.
    """
    good = models[TINY]
    (folder / LORA).parent.mkdir()
    (folder / LORA).symlink_to(models[LORA])
    made: dict[str, dict[str, Any]] = {
        "first": {"dht_prefix": CHAIN, "model": good, "blocks": (0, 2)},
        "same": {"dht_prefix": CHAIN, "model": good, "blocks": (0, 2)},
        "half": {"dht_prefix": CHAIN, "model": good, "blocks": (0, 2), "torch_dtype": "bfloat16"},
        "other": {"dht_prefix": CHAIN, "model": models[OTHER], "blocks": (0, 2)},
        "second": {"dht_prefix": CHAIN, "model": good, "blocks": (2, 4), "adapters": [LORA]},
        "nan": {"dht_prefix": NANS, "model": models[NAN], "blocks": (0, 4)},
        "full": {"dht_prefix": FULL, "model": good, "blocks": (0, 4), "attn_cache_tokens": 1},
    }
    servers: dict[str, PetalsServer] = {}
    try:
        for name, how in made.items():
            servers[name] = PetalsServer(folder, initial_peers=[bootstrap.address], public_name=name, **how)
        for server in servers.values():
            server.wait_until_started()
        asyncio.run(lie(bootstrap.address, servers["first"].peer_id, Announcement(Model(LIAR, LAYERS), 0, LAYERS)))
        yield Swarm(bootstrap.address, good, servers)
    finally:
        for server in servers.values():
            server.kill()


async def lie(address: str, peer_id: str, announcement: Announcement) -> None:
    """Write records in a server's name that outlast its own."""
    liar = await SimulatedServer.start([address])
    try:
        await announce(liar, peer_id, announcement, lifetime=LIES_LAST)
    finally:
        await liar.close()


@pytest.fixture(scope="module")
def client(swarm: Swarm, folder: Path) -> dict[str, dict[str, Any]]:
    """What the genuine client gets of each model."""
    servers = {
        CHAIN: swarm.peers("first", "second"),
        NANS: swarm.peers("nan"),
        FULL: swarm.peers("full"),
        LIAR: swarm.peers("first"),
    }
    return run_client(folder, swarm.model, swarm.address, servers, TOKENS_GIVEN)


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


async def test_the_table(swarm: Swarm, client: dict[str, dict[str, Any]]) -> None:
    """One round tells every kind of server apart, and a model is usable exactly where the client gets numbers."""
    snapshot = await crawl(swarm, servers=8)
    checks = InferenceChecks(period=60, dial_private=True)
    checks.merged(snapshot)
    await checks.round()
    snapshot = checks.merged(snapshot)

    chained = servers_of(snapshot, swarm, CHAIN)
    found = {
        **{name: server.inference for name, server in chained.items()},
        **{name: server.inference for name, server in servers_of(snapshot, swarm, NANS).items()},
        **{name: server.inference for name, server in servers_of(snapshot, swarm, FULL).items()},
        "liar": servers_of(snapshot, swarm, LIAR)["first"].inference,
    }
    print_table(found, snapshot, client)
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
        NANS: UsabilityState.UNUSABLE,
        FULL: UsabilityState.UNUSABLE,
        LIAR: UsabilityState.UNUSABLE,
    }
    assert {prefix: gets_numbers(told) for prefix, told in client.items()} == {
        prefix: state in (UsabilityState.USABLE, UsabilityState.DEGRADED) for prefix, state in usable.items()
    }, client


def gets_numbers(told: dict[str, Any]) -> bool:
    """Whether the client got numbers, and not only no error."""
    return told["error"] is None and all(math.isfinite(value) for one in told["states"] for value in one)


async def test_a_chain_computes_what_the_client_computes(swarm: Swarm, client: dict[str, dict[str, Any]]) -> None:
    """The same hidden states after the last block, over the same servers. Printed: the time, which nobody can promise
    of a machine that does other things, too. Of some tokens the quickest counts for both; one alone says nothing.
    """
    snapshot, told = await crawl(swarm, servers=7), client[CHAIN]
    (model,) = (one for one in snapshot.models if one.dht_prefix == CHAIN)
    path = swarm.peers("first", "second")
    model = structs.replace(model, servers=tuple(server for server in model.servers if server.peer_id in path))
    checks, seconds = InferenceChecks(period=60, dial_private=True), []
    async with await ProberNode.open() as node:
        for _ in told["seconds"]:
            chain = await Chain(node, lambda server: checks.connection(node, server), model).run(TOKENS_GIVEN)
            assert [hop.peer_id for hop in chain.usability.path] == path
            for ours, the_clients in zip(chain.links[-1].outputs, told["states"], strict=True):
                assert cosine(ours, the_clients) >= 0.9999
            assert chain.usability.seconds_per_token is not None
            seconds.append(chain.usability.seconds_per_token)
    ours, the_clients = min(seconds), min(told["seconds"])
    near = ours <= max(2 * the_clients, the_clients + 0.01)
    print(  # noqa: T201
        f"seconds per token: {ours:.4f} (of {len(seconds)}, median {median(seconds):.4f}), by the client "
        f"{the_clients:.4f} (median {median(told['seconds']):.4f}); within 2 times or 10 ms: {near}"
    )


async def test_adapters_take_their_turns(swarm: Swarm) -> None:
    """One that the server holds computes, and changes what comes out; one that its record makes up is refused. Neither
    is said of the server without an adapter.
    """
    checks = InferenceChecks(period=60, dial_private=True)
    snapshot = await crawl(swarm, servers=7)
    server = servers_of(snapshot, swarm, CHAIN)["second"]
    assert LORA in server.adapters
    async with await ProberNode.open() as node, checks.connection(node, server):
        plain, adapted = [
            (await check_server(node, server.peer_id, CHAIN, (2, 4), adapter=adapter, inputs=lambda _: TOKENS_GIVEN))[1]
            for adapter in (None, LORA)
        ]
    assert plain
    assert adapted
    kept = [numbers(TOKENS_GIVEN, one, "float32").added[0] for one in (plain, adapted)]
    assert cosine(*kept) < lowest_allowed("float32", "float32")

    info = {"torch_dtype": "float32", "adapters": [LORA, MADE_UP]}
    await lie(swarm.address, server.peer_id, Announcement(Model(CHAIN, LAYERS), 2, 4, info=info))
    while servers_of(snapshot, swarm, CHAIN)["second"].adapters != (LORA, MADE_UP):
        snapshot = await crawl(swarm, servers=7)
    told = {}
    for _ in range(4):
        checks.merged(snapshot)
        await checks.round()
        server = servers_of(checks.merged(snapshot), swarm, CHAIN)["second"]
        assert server.inference is not None
        assert (server.inference.outcome, server.inference.adapter) == (InferenceOutcome.COMPUTED, None)
        assert not does_not_compute(server)
        if (found := server.adapter_inference) is not None:
            told[found.adapter] = found.outcome
            print("adapter", found.adapter, found.outcome, found.detail or "")  # noqa: T201
    assert told == {LORA: InferenceOutcome.COMPUTED, MADE_UP: InferenceOutcome.REFUSED}


async def test_a_server_that_freezes_between_two_steps(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers no ping either, so nothing is said of it; it goes on as before when it wakes, with all its cache."""
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
            assert raised.value.outcome is InferenceOutcome.UNKNOWN
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
                peer_id = reports[name].peer_id
                _, outputs = await check_server(node, peer_id, CHAIN, (0, 2), inputs=lambda _: TOKENS_GIVEN)
            assert outputs
            added[name] = numbers(TOKENS_GIVEN, outputs, "float32").added
    cosines = {name: min(map(cosine, added["first"], added[name])) for name in ("same", "half", "other")}
    print("cosine with first:", {name: f"{value:.6f}" for name, value in cosines.items()})  # noqa: T201
    assert cosines["same"] >= 0.999999
    assert cosines["half"] >= lowest_allowed("float32", "half")
    assert cosines["other"] < 0.5


def print_table(found: dict[str, Any], snapshot: Snapshot, client: dict[str, dict[str, Any]]) -> None:
    """For `pytest -s`, and for the documentation."""
    for name, one in found.items():
        speed = f"{1e3 * one.seconds_per_step:.0f} ms" if one.seconds_per_step else ""
        low = one.agreement.lowest_cosine
        print(  # noqa: T201
            f"{name:8} {one.outcome:11} {one.blocks} {speed:7} {one.agreement.outcome:10}"
            f" {'' if low is None else f'{low:.4f}':7} {one.detail or ''}"
        )
    for model in snapshot.models:
        state, told = model.usability and model.usability.state, client[model.dht_prefix]
        print(  # noqa: T201
            f"{model.dht_prefix}: {state} ({model.usability and model.usability.reason}); the client: "
            f"{told['error'] or ('tokens ' + str(told['tokens']))}, finite numbers: {gets_numbers(told)}"
        )
