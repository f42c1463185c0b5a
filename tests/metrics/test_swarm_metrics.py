"""The swarm's metrics: their names, their values, and that no stranger can break or flood them."""

import gzip
import os
import subprocess
import time
from pathlib import Path

import httpx
import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from api.metrics.legacy import LegacyCollector
from api.metrics.servers import ServerCollector
from api.metrics.swarm import MAX_ADAPTERS, MAX_MODELS, MAX_VERSIONS, OTHER, AgeCollector, SwarmCollector
from crawler.leader import Leadership
from shared.inference import Hop, InferenceOutcome, ServerInference, Usability, UsabilityState
from shared.snapshot import BootstrapPeer, CrawlProgress, CrawlStatus, PeerState, Refusals, Verdict
from shared.store.snapshots import SnapshotWriter
from tests.api.serving import serve
from tests.fakes import model, peer_id, server, snapshot
from tests.metrics.exported import needs
from tests.metrics.hostile import hostile_snapshot

GOLDEN = Path(__file__).with_name("golden.prom")
NOW = 1_763_900_000.0
LEGACY = {
    "update_duration", "peers_per_srv", "pings_inf_share", "servers_num_total", "servers_num_relay", "ping_pct",
    "server_version", "n_blocks", "servers_num", "blocks_total", "blocks_online_min", "blocks", "rps_avg", "rps_min",
}  # fmt: skip


def small_swarm():
    """A healthy model with a thin end, and a broken one that is only announced."""
    rps = {"network_rps": 10.0, "inference_rps": 2.0, "forward_rps": 30.0}
    first = model(
        "Beluga-hf", 4,
        (
            server(1, 0, 4, version="2.2.0", cache_tokens_left=64, using_relay=True, next_pings={"a": 0.04},
                   inference=ServerInference(InferenceOutcome.COMPUTED, (0, 4), NOW - 90, 0.5, 0.25), **rps),
            server(2, 0, 2, version="2.3.0", adapters=("a/lora",), next_pings={"b": 0.2, "c": float("inf")}, **rps),
            server(3, 2, 4, PeerState.UNREACHABLE),
        ),
        official=True, name="petals-team/Beluga",
        usability=Usability(UsabilityState.USABLE, NOW - 90, None, (Hop(peer_id(1), 0, 4),), 0.75, 0.25),
    )  # fmt: skip
    second = model("falcon-hf", 3, (server(4, 1, 2, version="2.2.0", **rps), server(1, 0, 3, PeerState.JOINING)))
    return snapshot(
        first, second,
        taken_at=NOW - 30, unanswered_keys=2, refused=Refusals({"bad_span": 5}),
        bootstrap_peers=(
            BootstrapPeer(peer_id(0), (), Verdict.REACHABLE), BootstrapPeer(peer_id(9), (), Verdict.UNREACHABLE),
        ),
    )  # fmt: skip


def registry_of(made, now=NOW):
    registry = CollectorRegistry()
    registry.register(AgeCollector(made, CrawlStatus(now - 32, ok=True), now, 180.0))
    registry.register(LegacyCollector(made))
    registry.register(SwarmCollector(made))
    return registry


def test_a_crawl_that_has_not_ended_is_no_success():
    """And no failure: the first one says how far it is."""
    collector = AgeCollector(None, CrawlStatus(NOW, ok=True, progress=CrawlProgress("joining")), NOW, 180.0)
    assert "petals_crawl_success" not in {family.name for family in collector.collect()}


def samples(text, parse=parse_text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def value(found, name, **labels):
    return found[name, *sorted(labels.items())]


def test_every_name_label_and_value_is_pinned():
    """Dashboards elsewhere read these: whoever changes one sees it here first (UPDATE_GOLDEN=1 writes the file)."""
    text = generate_latest(registry_of(small_swarm())).decode()
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_a_model_that_nobody_could_check_is_not_unusable():
    """A chain that could not be tried, or whose servers have left since, says neither 1 nor 0."""
    known = snapshot(
        model("unknown", usability=Usability(UsabilityState.UNKNOWN, NOW)),
        model("left", usability=Usability(UsabilityState.USABLE, NOW, None, (Hop(peer_id(1), 0, 8),), 0.5, 0.25)),
        model("unusable", servers=(server(1, 0, 8),), usability=Usability(UsabilityState.UNUSABLE, NOW, "why")),
        taken_at=NOW,
    )
    found = samples(generate_latest(registry_of(known)).decode())
    assert {key: found[key] for key in found if key[0] == "petals_model_usable"} == {
        ("petals_model_usable", ("model", "unusable")): 0
    }
    assert not any(name == "petals_model_seconds_per_token" for name, *_ in found)


def test_the_predecessors_metrics_are_all_there():
    """Each old name, with its old labels and meaning."""
    found = samples(generate_latest(registry_of(small_swarm())).decode())
    assert {name for name, *_ in found if not name.startswith("petals_")} == LEGACY
    assert value(found, "blocks", model="Beluga-hf", state="online") == 6
    assert value(found, "blocks", model="Beluga-hf", state="unreachable") == 2
    assert value(found, "blocks_online_min", model="Beluga-hf") == 1
    assert value(found, "rps_min", model="Beluga-hf", rps="inference") == 2.0
    assert value(found, "rps_avg", model="Beluga-hf", rps="inference") == 3.0
    assert value(found, "server_version", version_number="2.2.0") == 2
    assert value(found, "pings_inf_share") == pytest.approx(1 / 3)
    assert value(found, "ping_pct", pct="50") == pytest.approx(0.12)


def test_a_server_of_two_models_is_one_server():
    """Per-model numbers count it in each model, totals once."""
    found = samples(generate_latest(registry_of(small_swarm())).decode())
    assert value(found, "petals_servers") == 4
    assert value(found, "petals_model_servers", model="falcon-hf", state="joining") == 1
    assert sum(v for (name, *_), v in found.items() if name == "petals_servers_by_version") == 4


def test_hostile_text_stays_inside_its_label():
    """Quotes, newlines, backslashes and bidi marks come back as they were sent; no line of theirs becomes a sample."""
    registry = registry_of(hostile_snapshot())
    for generate, parse in ((generate_latest, parse_text), (generate_openmetrics, parse_openmetrics)):
        found = samples(generate(registry).decode(), parse)
        assert not any(name == "fake_metric" for name, *_ in found)
        assert value(found, "petals_model_servers", model='quote" } 1\nfake_metric{a="b"} 1', state="online") == 2
        assert value(found, "petals_model_healthy", model="back\\slash\\") == 1
        assert all(v == v for v in found.values()), "no NaN from a NaN that was announced"  # noqa: PLR0124


@needs("promtool")
@pytest.mark.parametrize("made", [small_swarm, hostile_snapshot])
@pytest.mark.real_parts
def test_promtool_accepts_the_text(made):
    """Two complaints are known: old names of gauges end as counters should."""
    text = generate_latest(registry_of(made()))
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    complaints = (checked.stdout + checked.stderr).decode().splitlines()
    assert complaints == [
        f'{name} non-counter metrics should not have "_total" suffix' for name in ("blocks_total", "servers_num_total")
    ]


@needs("promtool")
@pytest.mark.real_parts
def test_promtool_accepts_the_per_server_text():
    """The opt-in path has nothing to complain about."""
    registry = CollectorRegistry()
    registry.register(ServerCollector(hostile_snapshot()))
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=generate_latest(registry), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_strangers_cannot_add_series_without_end():
    """Whatever is announced, the number of series is bounded, and what is left out is counted and shown."""
    flood = [model(f"spam-{n}", 4, (server(n, 0, 4, PeerState.OFFLINE, version=f"v{n}"),)) for n in range(500)]
    flood += [
        model("spam", 9, tuple(server(1000 + n, 0, 9, adapters=tuple(f"{n}/{m}" for m in range(9))) for n in range(99)))
    ]
    flooded = snapshot(*flood, model("mine", 2, (server(9999, 0, 2),)), model("own", 2, (), official=True))
    found = samples(generate_latest(registry_of(flooded)).decode())
    assert value(found, "petals_models_overflow") == 503 - MAX_MODELS
    assert value(found, "petals_versions_overflow") == 501 - MAX_VERSIONS
    assert value(found, "petals_adapters_overflow") == 99 * 9 - MAX_ADAPTERS
    assert value(found, "petals_model_servers", model=OTHER, state="offline") == 503 - MAX_MODELS
    assert value(found, "petals_model_healthy", model="mine") == 1, "a server that answered outranks any that is said"
    assert value(found, "petals_model_healthy", model="own") == 0, "official models keep their series"
    assert len(found) < 2700


def test_nobody_can_pose_as_the_overflow():
    """A model, version or adapter of that very name is counted with the others: no series stands twice."""
    posing = snapshot(model(OTHER, 2, (server(1, 0, 2, version=OTHER, adapters=(OTHER,)),)))
    text = generate_latest(registry_of(posing)).decode()
    lines = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines))
    assert value(samples(text), "petals_models_overflow") == 1


async def publish(redis, made):
    leadership = Leadership(redis, "test")
    await leadership.hold()
    await SnapshotWriter(redis).publish(made, leadership.lease)


async def get_when(client, path, condition, **headers):
    deadline = time.monotonic() + 10
    while True:
        answer = await client.get(path, headers=headers)
        if condition(answer) or time.monotonic() > deadline:
            assert condition(answer), answer.text[:2000]
            return answer


async def test_formats_and_encodings_by_negotiation(redis, redis_url):
    """Text 0.0.4 by default, OpenMetrics where asked for, gzip for those that take it, at both addresses."""
    await publish(redis, small_swarm_now())
    async with serve(redis_url) as url, httpx.AsyncClient(base_url=url) as client:
        text = await get_when(client, "/metrics", lambda answer: "petals_models 2.0" in answer.text)
        assert text.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert text.headers["cache-control"] == "no-store"
        openmetrics = await client.get(
            "/api/prometheus",
            headers={"accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"},
        )
        assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert openmetrics.text.endswith("# EOF\n")
        assert samples(openmetrics.text, parse_openmetrics)
        async with client.stream("GET", "/metrics", headers={"accept-encoding": "gzip"}) as zipped:
            raw = b"".join([chunk async for chunk in zipped.aiter_raw()])
        assert zipped.headers["content-encoding"] == "gzip"
        assert b"petals_models 2.0" in gzip.decompress(raw)
        assert (await client.get("/metrics", params={"x": "1"})).text.startswith("# HELP")


def small_swarm_now():
    return msgspec.structs.replace(small_swarm(), taken_at=time.time())


async def test_a_stale_snapshot_shows_its_age_and_nothing_else(redis, redis_url):
    """A dead crawler must not look like a calm swarm: the swarm's gauges end, the age goes on."""
    await publish(redis, msgspec.structs.replace(small_swarm(), taken_at=time.time() - 1000))
    async with serve(redis_url, stale_after_periods=3.0, per_server_metrics="on") as url:
        async with httpx.AsyncClient(base_url=url) as client:
            stale = await get_when(client, "/metrics", lambda answer: "petals_snapshot_age_seconds" in answer.text)
            servers = await client.get("/metrics/servers")
    found = samples(stale.text)
    assert {name for name, *_ in found} <= {
        "petals_snapshot_age_seconds", "petals_snapshot_stale_after_seconds",
        "petals_crawl_last_success_timestamp_seconds", "petals_crawl_success",
        "petals_crawl_last_attempt_timestamp_seconds",
    }  # fmt: skip
    assert value(found, "petals_snapshot_age_seconds") >= 1000
    assert value(found, "petals_snapshot_stale_after_seconds") == 180
    assert servers.text == ""


async def test_before_the_first_snapshot_there_is_no_age(redis_url):
    """Nothing is claimed about a swarm that nobody has seen; `absent()` alerts."""
    async with serve(redis_url) as url, httpx.AsyncClient(base_url=url) as client:
        found = samples((await client.get("/metrics")).text)
    assert {name for name, *_ in found} == {"petals_snapshot_stale_after_seconds"}


async def test_series_for_each_server_are_opt_in(redis, redis_url):
    """They stand on a path of their own, and only where the operator says so."""
    await publish(redis, small_swarm_now())
    async with serve(redis_url) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/metrics/servers")).status_code == 404
    async with serve(redis_url, per_server_metrics="on") as url, httpx.AsyncClient(base_url=url) as client:
        answer = await get_when(client, "/metrics/servers", lambda answer: peer_id(1) in answer.text)
        swarm = (await client.get("/metrics")).text
    assert peer_id(1) not in swarm
    found = samples(answer.text)
    labels = {"model": "Beluga-hf", "peer_id": peer_id(3)}
    assert value(found, "petals_server_state", **labels, state="unreachable") == 1
    assert value(found, "petals_server_first_block", **labels) == 2
    assert value(found, "petals_servers_overflow") == 0
