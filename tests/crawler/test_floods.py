"""Floods: whatever number of models, servers and records anyone announces, a crawl ends and honest ones are seen."""

import tracemalloc
from types import SimpleNamespace

import pytest

from crawler.judge import judge
from crawler.models import Model
from crawler.observe import blocks, model_index, probes, record_reader
from crawler.observe.observation import SwarmUnavailableError
from shared.snapshot import MAX_ENCODED_BYTES, ModelState, PeerState, Span, Verdict, decode, encode
from tests.crawler.synthetic_swarm import SyntheticSwarm
from tests.fakes import peer_id

HONEST = "honest-hf"


@pytest.fixture
def flooded():
    """A swarm with one honest announced model and one honest server."""
    synthetic = SyntheticSwarm()
    synthetic.announce_model(HONEST, 4)
    synthetic.announce_server(HONEST, peer_id(1), 0, 4)
    return synthetic


def judged(observation):
    return judge(observation, 60.0)


def end_the_time(module, when, monkeypatch):
    """Let the time that a module may take be over `when` the test says so: not when the machine was slow."""
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 1e9 if when() else 0.0))


async def crawl(synthetic, monkeypatch, **options):
    return judged(await synthetic.crawl(monkeypatch, **options).run())


async def test_a_flood_of_model_names_costs_a_bounded_number_of_lookups(flooded, monkeypatch):
    """Ten thousand models of the largest size, that nobody serves: a sample is probed, what is served is chosen."""
    monkeypatch.setattr(model_index, "MAX_SAMPLED_MODELS", 20_000)
    for number in range(10_000):
        flooded.announce_model(f"fake-{number}", 1024)
    snapshot = await crawl(flooded, monkeypatch)
    assert HONEST in {model.dht_prefix for model in snapshot.models}
    assert len(snapshot.models) <= model_index.MAX_ANNOUNCED_MODELS
    assert snapshot.refused.by_reason["too_many_models"] == 10_001 - len(snapshot.models)
    sampled = 10_001 * model_index.SAMPLED_BLOCKS
    assert flooded.looked_up.total() <= 1 + sampled + model_index.MAX_ANNOUNCED_BLOCKS


async def test_a_model_served_before_is_not_displaced_by_any_flood(flooded, monkeypatch):
    """Not by larger models with servers of their own, and not where the sample leaves it out."""
    before = await crawl(flooded, monkeypatch)
    for number in range(5_000):
        flooded.announce_model(f"fake-{number}", 1024)
        flooded.values[f"fake-{number}.7"] = {peer_id(number + 10): b"\x92\x02\xca\x3f\x80\x00\x00"}
    after = await crawl(flooded, monkeypatch, last=before)
    model = next(model for model in after.models if model.dht_prefix == HONEST)
    assert model.state is ModelState.HEALTHY
    assert flooded.looked_up.total() <= 2 * 5 + 2_000 + model_index.MAX_ANNOUNCED_BLOCKS


async def test_models_served_before_are_looked_up_where_the_index_does_not_answer(flooded, monkeypatch):
    """Its dictionary can be filled by anyone until no answer fits into a message."""
    before = await crawl(flooded, monkeypatch)
    flooded.unanswered.add("_petals.models")
    after = await crawl(flooded, monkeypatch, last=before)
    assert [model.dht_prefix for model in after.models] == [HONEST]
    assert after.models[0].repository == "https://huggingface.co/a/b"
    assert after.unanswered_keys == 1


@pytest.mark.parametrize("blocks", [3, 1024])
async def test_a_node_that_answers_first_with_an_old_index_makes_no_second_model(flooded, monkeypatch, blocks):
    """Nor one that is broken: anyone can write to a single node. The latest of all nodes' entries counts."""
    flooded.announce_model("shrunk-hf", blocks)
    flooded.first_answers["_petals.models"] = {HONEST: flooded.values["_petals.models"].pop("shrunk-hf")}
    snapshot = await crawl(flooded, monkeypatch)
    assert [(model.dht_prefix, model.num_blocks, model.state) for model in snapshot.models] == [
        (HONEST, 4, ModelState.HEALTHY)
    ]


async def test_a_swarm_that_answers_nothing_is_no_empty_swarm(flooded, monkeypatch):
    """Bootstrap peers that connect and stay silent to lookups: nobody answered."""
    flooded.unanswered.update(flooded.values)
    with pytest.raises(SwarmUnavailableError, match="no node of the swarm answered"):
        await crawl(flooded, monkeypatch)


async def test_servers_of_blocks_that_never_answered_in_full_are_seen(flooded, monkeypatch):
    """A DHT node that names silent ones without end keeps every search going. What the others hold is seen."""
    flooded.unanswered.update(flooded.values)
    flooded.in_part = {key: flooded.values[key] for key in ("_petals.models", f"{HONEST}.0", f"{HONEST}.1")}
    snapshot = await crawl(flooded, monkeypatch)
    (model,) = snapshot.models
    assert [(server.peer_id, server.span, server.state) for server in model.servers] == [
        (peer_id(1), Span(0, 4), PeerState.ONLINE)
    ]
    assert snapshot.unanswered_keys == 5


async def test_an_entry_of_an_index_that_was_not_read_in_full_may_be_an_old_one(flooded, monkeypatch):
    """So what was served before counts more, and others come beside it."""
    before = await crawl(flooded, monkeypatch)
    flooded.announce_model(HONEST, 3)
    flooded.announce_model("new-hf", 2)
    flooded.announce_server("new-hf", peer_id(2), 0, 2)
    flooded.unanswered.add("_petals.models")
    flooded.in_part["_petals.models"] = flooded.values["_petals.models"]
    after = await crawl(flooded, monkeypatch, last=before)
    assert [(model.dht_prefix, model.num_blocks) for model in after.models] == [(HONEST, 4), ("new-hf", 2)]


async def test_lookups_end_in_time_however_slow_the_swarm_is(flooded, monkeypatch):
    """What was not reached counts as unanswered: its servers are not missing, they are unknown."""
    official = (Model("official", 1024), Model("official-2", 1024))
    end_the_time(blocks, lambda: flooded.looked_up.total() >= 500, monkeypatch)
    snapshot = await crawl(flooded, monkeypatch, official=official)
    # Of the 2,048 keys some were never asked for.
    assert 500 <= flooded.looked_up.total() < 500 + blocks.KEYS_PER_BATCH * blocks.MAX_BATCHES
    assert snapshot.unanswered_keys > 0


@pytest.mark.slow
async def test_a_flood_of_fake_servers_costs_bounded_work_and_memory(flooded, monkeypatch):
    """Records of strangers are read up to a limit; the honest server, known from before, keeps its place.

    A quarter of the limit, and of a flood that is eight times as large: what memory they take goes with their number.
    """
    monkeypatch.setattr(record_reader, "MAX_RECORDS", record_reader.MAX_RECORDS // 4)
    before = await crawl(flooded, monkeypatch)
    for number in range(10_000):
        flooded.announce_server(HONEST, peer_id(number + 10), 0, 4, reached=False)
    flooded.goes_last(HONEST, peer_id(1))
    flooded.dials.clear()
    tracemalloc.start()
    snapshot = await crawl(flooded, monkeypatch, last=before)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20  # 5.5 of what is kept; all of it would be 21
    servers = {server.peer_id: server for server in snapshot.models[0].servers}
    assert servers[peer_id(1)].state is PeerState.ONLINE
    assert len(servers) <= record_reader.MAX_RECORDS
    assert len(flooded.dials) == len(set(flooded.dials)) <= record_reader.MAX_RECORDS
    assert snapshot.refused.by_reason["too_many_records"] > 0


async def test_dials_end_in_time_and_known_servers_go_first(flooded, monkeypatch):
    """The time ends; who was reached before was dialled, those that it ended for are unknown, not unreachable."""
    before = await crawl(flooded, monkeypatch)
    monkeypatch.setattr(probes, "MAX_IN_FLIGHT", 20)
    flooded.dial_seconds = 0.02
    for number in range(500):
        flooded.announce_server(HONEST, peer_id(number + 10), 0, 4, reached=False)
    flooded.goes_last(HONEST, peer_id(1))
    flooded.dials.clear()
    end_the_time(probes, lambda: len(flooded.dials) >= 200, monkeypatch)
    snapshot = await crawl(flooded, monkeypatch, last=before)
    assert 200 <= len(flooded.dials) < 200 + probes.MAX_IN_FLIGHT
    servers = {server.peer_id: server for server in snapshot.models[0].servers}
    assert servers[peer_id(1)].verdict is Verdict.REACHABLE
    unknown = [server for server in servers.values() if server.verdict is Verdict.UNKNOWN]
    assert len(unknown) == snapshot.undialled_servers > 0
    assert {server.state for server in unknown} == {PeerState.ONLINE}


async def test_a_flooded_model_does_not_keep_other_models_servers_from_their_dial(flooded, monkeypatch):
    """Nobody is known yet: models take turns."""
    monkeypatch.setattr(probes, "MAX_IN_FLIGHT", 5)
    flooded.dial_seconds = 0.02
    flooded.announce_model("flooded", 8)
    for number in range(500):
        flooded.announce_server("flooded", peer_id(number + 10), 0, 8, reached=False)
    end_the_time(probes, lambda: len(flooded.dials) >= 100, monkeypatch)
    snapshot = await crawl(flooded, monkeypatch)
    assert len(flooded.dials) < 100 + probes.MAX_IN_FLIGHT
    honest = next(model for model in snapshot.models if model.dht_prefix == HONEST)
    assert honest.servers[0].verdict is Verdict.REACHABLE


async def test_the_same_peer_in_hundreds_of_spans_is_dialled_once(flooded, monkeypatch):
    """It has one row a model, whatever stands under each block."""
    for number in range(60):
        flooded.announce_model(f"m{number}", 10)
        for block in range(10):
            flooded.announce_server(f"m{number}", peer_id(2), block, block + 1)
    snapshot = await crawl(flooded, monkeypatch)
    rows = [server for model in snapshot.models for server in model.servers if server.peer_id == peer_id(2)]
    assert len(rows) == 60
    assert flooded.dials.count(peer_id(2)) == 1


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_the_worst_snapshot_can_still_be_read(monkeypatch):
    """Records as fat as the limits allow: what the crawler publishes, the api can unpack."""
    fat = SyntheticSwarm()
    fat.announce_model(HONEST, 2)
    pings = {peer_id(number): 1 for number in range(256)}
    for number in range(4_000):
        adapters = [f"{'ж' * 128}"] * 32
        more = {"next_pings": pings} if number % 2 else {"adapters": adapters}
        fat.announce_server(HONEST, peer_id(number), 0, 1, reached=False, public_name="ж" * 100, **more)
    for number in range(10_000, 40_000):
        fat.announce_server(HONEST, peer_id(number), 1, 2, reached=False, public_name="ж" * 100)
    snapshot = await crawl(fat, monkeypatch)
    document = encode(snapshot)
    assert decode(document) == snapshot
    assert len(document) < MAX_ENCODED_BYTES
