"""Inference checks in a private swarm of real hivemind nodes that compute, each in its way."""

import asyncio

import msgspec
import pytest

from crawler.crawl import crawl_once
from crawler.inference.rounds import InferenceChecks
from crawler.settings import CrawlerSettings
from deploy.demo.simulated_inference import Computation
from deploy.demo.simulated_server import Announcement, Model
from shared.inference import AgreementOutcome, InferenceOutcome, UsabilityState
from shared.p2p import chain, inference
from shared.p2p.connect import ProberNode
from shared.p2p.dht_node import DHTClientNode
from shared.p2p.inference import random_inputs
from shared.public.state import state_document
from shared.snapshot import decode, encode

pytestmark = pytest.mark.swarm

MODEL = Model("demo-model", 8, "https://huggingface.co/demo/model")
FULL_PRECISION = {"torch_dtype": "float32", "quant_type": "none"}


def announcement(start, end, **info):
    return Announcement(MODEL, start, end, info=FULL_PRECISION | info)


async def crawl(swarm):
    settings = CrawlerSettings(initial_peers=swarm.initial_peers, dial_timeout=4)
    async with await DHTClientNode.open() as dht_node:
        return await crawl_once(settings, dht_node)


async def checked(swarm, checks=None):
    """Return the snapshot after a crawl and one round, its model, and its servers by peer id."""
    snapshot = await crawl(swarm)
    checks = checks or new_checks()
    checks.merged(snapshot)
    await checks.round()
    snapshot = checks.merged(snapshot)
    (model,) = snapshot.models
    return snapshot, model, {server.peer_id: server for server in model.servers}


def new_checks(**more):
    return InferenceChecks(**{"period": 60.0, "dial_private": True} | more)


async def test_a_model_that_computes_is_usable(swarm):
    """Over both hops, with the numbers in the snapshot, in the JSON, and after both were packed and read again."""
    servers = [swarm.start(announcement(*span)) for span in ((0, 4), (0, 4), (4, 8), (4, 8))]
    snapshot, model, reports = await checked(swarm)
    assert model.usability.state is UsabilityState.USABLE, model.usability
    assert [(hop.start, hop.end) for hop in model.usability.path] == [(0, 4), (4, 8)]
    assert model.usability.seconds_first_token > 0 < model.usability.seconds_per_token
    assert {one.inference.outcome for one in reports.values()} == {InferenceOutcome.COMPUTED}
    assert {one.inference.agreement.outcome for one in reports.values()} == {AgreementOutcome.AGREES}
    assert [one.handler.sessions for one in servers] == [1, 1, 1, 1], "one session per server per round"

    assert decode(encode(snapshot)) == snapshot
    (shown,) = msgspec.json.decode(msgspec.json.encode(state_document(snapshot)))["model_reports"]
    assert shown["usability"]["state"] == "usable"
    assert shown["usability"]["path"][0].keys() == {"peer_id", "start", "end", "relayed", "seconds_per_step"}
    assert shown["server_rows"][0]["inference"].keys() >= {
        "outcome", "blocks", "seconds_first_step", "seconds_per_step", "checked_at", "agreement", "detail"
    }  # fmt: skip


FAULTS = {
    ("nan", 1): InferenceOutcome.NOT_FINITE,
    ("nan", 2): InferenceOutcome.NOT_FINITE,
    ("wrong_shape", 2): InferenceOutcome.WRONG_SHAPE,
    ("no_tensor", 1): InferenceOutcome.WRONG_SHAPE,
    ("huge", 1): InferenceOutcome.WRONG_SHAPE,
    ("raises", 2): InferenceOutcome.FAILED,
    ("closes", 1): InferenceOutcome.FAILED,
    ("refuses", 1): InferenceOutcome.REFUSED,
    ("busy", 1): InferenceOutcome.BUSY,
    ("silent", 2): InferenceOutcome.TIMEOUT,
}
"""By what a server does, and from which step on."""


async def test_every_fault_is_told_apart(swarm, monkeypatch):
    """Where one server alone holds some blocks, the model is unusable, and the reason names it; others are not hurt."""
    monkeypatch.setattr(inference, "STEP_TIMEOUT", 1.0)
    bad = {
        f"{fault}-{step}": swarm.start(
            Announcement(Model(f"{fault}-{step}", 2), 0, 2, info=FULL_PRECISION),
            computation=Computation(fault=fault, from_step=step),
        ).peer_id
        for fault, step in FAULTS
    }
    good = swarm.start(Announcement(Model("nan-1", 2), 0, 1, info=FULL_PRECISION))
    checks, crawled = new_checks(), await crawl(swarm)
    checks.merged(crawled)
    await checks.round()
    models = {model.dht_prefix: model for model in checks.merged(crawled).models}
    for (fault, step), outcome in FAULTS.items():
        model = models[f"{fault}-{step}"]
        reports = {server.peer_id: server for server in model.servers}
        peer_id = bad[model.dht_prefix]
        assert reports[peer_id].inference.outcome is outcome, reports[peer_id].inference
        assert model.usability.state is UsabilityState.UNUSABLE
        assert peer_id[-6:] in model.usability.reason
        assert str(outcome) in model.usability.reason
        if good.peer_id in reports:
            assert reports[good.peer_id].inference.outcome is InferenceOutcome.COMPUTED


async def test_where_a_hop_fails_the_next_candidate_takes_its_place(swarm):
    """Also at the second token, which the new server is given with all tokens before."""
    monkey = swarm.start(announcement(0, 4, inference_rps=900.0), computation=Computation(fault="raises", from_step=2))
    spare = swarm.start(announcement(0, 4, inference_rps=100.0))
    last = swarm.start(announcement(4, 8))
    checks = new_checks()
    _, model, reports = await checked(swarm, checks)
    assert model.usability.state is UsabilityState.DEGRADED
    assert [hop.peer_id for hop in model.usability.path] == [spare.peer_id, last.peer_id]
    assert reports[monkey.peer_id].inference.outcome is InferenceOutcome.FAILED
    assert [one.handler.sessions for one in (monkey, spare, last)] == [1, 1, 1]


async def test_a_chain_gives_what_one_server_gives(swarm):
    """Hidden states are passed on as they are, in the order of the tokens."""
    for span in ((0, 3), (3, 5), (5, 8)):
        swarm.start(announcement(*span))
    whole = swarm.start(Announcement(Model("whole", 8), 0, 8, info=FULL_PRECISION))
    snapshot = await crawl(swarm)
    models = {model.dht_prefix: model for model in snapshot.models}
    checks, inputs = new_checks(), random_inputs(64)
    async with await ProberNode.open() as node:
        results = [
            await chain.Chain(node, lambda server: checks.connection(node, server), models[name]).run(inputs)
            for name in ("demo-model", "whole")
        ]
    assert len(results[0].links) == 3
    assert results[1].links[0].leg.server.peer_id == whole.peer_id
    assert results[0].links[-1].outputs == results[1].links[-1].outputs


async def test_other_weights_stand_out(swarm):
    """Of three that hold the same blocks the odd one is named; the others agree."""
    honest = [swarm.start(announcement(0, 8)) for _ in range(2)]
    odd = swarm.start(announcement(0, 8), computation=Computation(weights=1))
    _, model, reports = await checked(swarm)
    assert model.usability.state is UsabilityState.USABLE
    agreement = reports[odd.peer_id].inference.agreement
    assert (agreement.outcome, agreement.against_majority) == (AgreementOutcome.DISAGREES, True)
    assert set(agreement.peers) == {one.peer_id for one in honest}
    for one in honest:
        its = reports[one.peer_id].inference.agreement
        assert (its.outcome, its.against_majority) == (AgreementOutcome.AGREES, False)


async def test_who_opted_out_or_is_full_is_not_asked(swarm):
    """Neither by a step nor by a chain; a model that needs them is unknown, or unusable for want of cache."""
    out = swarm.start(announcement(0, 8, public_name="mine #no-inference-checks"))
    _, model, reports = await checked(swarm)
    assert out.handler.sessions == 0
    assert model.usability.state is UsabilityState.UNKNOWN
    assert "opted out" in reports[out.peer_id].inference.detail
    swarm.close_server(out)
    full = swarm.start(announcement(0, 8, cache_tokens_left=100))
    _, model, reports = await checked(swarm)
    assert full.handler.sessions == 0
    assert reports[full.peer_id].inference.outcome is InferenceOutcome.BUSY
    assert model.usability.state in (UsabilityState.UNUSABLE, UsabilityState.UNKNOWN)


async def test_a_slow_hop_degrades(swarm):
    """More than a second per token on one server."""
    for _ in range(2):
        swarm.start(announcement(0, 8), computation=Computation(fault="slow"))
    _, model, _ = await checked(swarm)
    assert model.usability.state is UsabilityState.DEGRADED
    assert "s per token" in model.usability.reason


async def test_a_hidden_size_that_is_not_the_models_spoils_no_chain(swarm):
    """Most servers' word counts; the one that says otherwise is told."""
    for _ in range(3):
        swarm.start(announcement(0, 8))
    wrong = swarm.start(announcement(0, 8), computation=Computation(hidden_size=32))
    _, model, reports = await checked(swarm)
    assert model.usability.state is UsabilityState.USABLE, model.usability
    assert reports[wrong.peer_id].inference.outcome in (InferenceOutcome.WRONG_SHAPE, InferenceOutcome.FAILED)


async def test_results_keep_their_own_age_and_pass_on_to_the_next_leader(swarm):
    """A crawl does not wait for them; who takes over shows them, and does not check again at once."""
    server = swarm.start(announcement(0, 8))
    checks = new_checks()
    snapshot, model, _ = await checked(swarm, checks)
    checked_at = model.usability.checked_at
    other = new_checks()
    other.results.restore(snapshot)
    bare = msgspec.structs.replace(snapshot, models=(msgspec.structs.replace(model, usability=None),))
    assert other.merged(bare).models[0].usability.checked_at == checked_at
    await other.round()
    assert server.handler.sessions == 1
    later = msgspec.structs.replace(bare, taken_at=snapshot.taken_at + 1000)
    assert other.merged(later).models[0].usability.state is UsabilityState.UNKNOWN


async def test_nobody_checks_who_does_not_lead(swarm):
    """Or who has not seen the swarm lately."""
    server = swarm.start(announcement(0, 8))
    await checked(swarm, new_checks(leads=lambda: False))
    await checked(swarm, new_checks(now=lambda: 4e9))
    await checked(swarm, new_checks(models=frozenset(("another",))))
    assert server.handler.sessions == 0


async def test_one_server_never_has_two_checks_at_once(swarm):
    """Not even where records of two models name it."""
    server = swarm.start(announcement(0, 8))
    checks = new_checks()
    _, _, reports = await checked(swarm, checks)
    report = reports[server.peer_id]
    inside = 0

    async def use(node):
        nonlocal inside
        async with checks.connection(node, report):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0.05)
            inside -= 1

    async with await ProberNode.open() as node:
        await asyncio.gather(*(use(node) for _ in range(5)))
