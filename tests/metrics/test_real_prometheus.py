"""A real Prometheus scrapes the running monitor with the configuration that ships; a real Alertmanager delivers.

Changed are only addresses, and times that would make the tests long.
"""

import asyncio
import json
import subprocess
import threading
import time
from contextlib import asynccontextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import msgspec
import pytest
import yaml

from deploy.embedded_redis import free_port
from reachability_worker.metrics import WorkerMetrics
from shared.inference import (
    Agreement,
    AgreementOutcome,
    Hop,
    InferenceOutcome,
    ServerInference,
    Usability,
    UsabilityState,
)  # fmt: skip
from shared.snapshot import PeerState, Refusals
from shared.store.connection import connect
from tests.fakes import FakeProber, model, peer_id, server, snapshot
from tests.metrics.exported import needs
from tests.metrics.simulated_monitor import (
    REACHED,
    REFUSED,
    api_process,
    crawled,
    crawler_metrics,
    publish,
    worker_on,
)
from tests.metrics.test_dashboards import BOARDS, queries
from tests.support.local_prometheus import command, write_configuration

FOLDER = Path(__file__).parents[2] / "deploy/prometheus"
pytestmark = [pytest.mark.end_to_end, needs("prometheus"), needs("promtool")]


@asynccontextmanager
async def running(*command):
    """A program, and its end; what it says is shown if the test fails."""
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


async def until(condition, within, what):
    """Return the first true result of a coroutine function."""
    deadline = time.monotonic() + within
    while True:
        with suppress(httpx.HTTPError):
            if result := await condition():
                return result
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.25)


@asynccontextmanager
async def prometheus(folder, targets, *, alertmanager=None, hold=None):
    """Run it on the shipped configuration, with other addresses and a scrape a second; `hold` seconds for each rule."""
    ports = {job: [port] for job, port in targets.items()}
    held = {} if hold is None else {"duration": lambda _: hold}
    write_configuration(folder, ports, alertmanager=alertmanager, **held)
    port = free_port()
    async with (
        running(*command(folder, port)),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30) as client,
    ):

        async def ready():
            return (await client.get(f"http://127.0.0.1:{port}/-/ready")).status_code == 200

        await until(ready, 60, "Prometheus did not start")
        yield client


def busy_swarm():
    """Two models, one of them thin, with everything in it that a panel shows."""
    now = time.time()
    differs = Agreement(AgreementOutcome.DISAGREES, (peer_id(2),), (0, 4), 0.1)
    proved = ServerInference(InferenceOutcome.COMPUTED, (0, 4), now, 0.5, 0.25, differs)
    rps = {
        "network_rps": 9.0, "inference_rps": 2.0, "forward_rps": 30.0, "version": "2.2.0", "cache_tokens_left": 64,
        "inference": proved,
    }  # fmt: skip
    usable = Usability(UsabilityState.USABLE, now, None, (Hop(peer_id(1), 0, 8),), 0.75, 0.25)
    servers = (server(1, 0, 8, next_pings={"a": 0.1}, **rps), server(2, 0, 4, **rps))
    return snapshot(
        model("Beluga-hf", 8, servers, official=True, usability=usable),
        model("falcon-hf", 4, (server(3, 0, 4, PeerState.UNREACHABLE, adapters=("a/lora",)),)),
        refused=Refusals({"bad_span": 4}),
    )


async def ask_for_a_while(public, stop):
    """Traffic, so that every counter counts: verdicts of both kinds, pages, a page that is not there."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{public}", timeout=10) as client:
        number = 0
        while not stop.is_set():
            number += 1
            peer = peer_id(number % 8)
            for path in (f"/api/v1/is_reachable/{peer}", "/", "/metrics", f"/servers/{peer}", "/nothing"):
                with suppress(httpx.TimeoutException):  # on a busy machine
                    await client.get(path)
            await asyncio.sleep(0.1)


async def has_data(client, expression):
    answer = (await client.get("/query", params={"query": expression})).json()
    assert answer["status"] == "success", (expression, answer)
    return bool(answer["data"]["result"])


async def empty_panels(client):
    asked = [(board, *query) for board, made in BOARDS.items() for query in queries(made)]
    return [query for query in asked if not await has_data(client, query[2])]


@pytest.mark.timeout(180)
@pytest.mark.xdist_group("prometheus")
async def test_every_panel_finds_data_in_a_real_prometheus(redis_url, tmp_path):
    """All four jobs are up, all rules evaluate, and each query of each dashboard returns something."""
    redis, metrics, stop = connect(redis_url, "test"), WorkerMetrics(), asyncio.Event()
    prober, worker_port = FakeProber(REACHED), free_port()
    prober.outcomes.update({peer_id(number): (REFUSED, 0.0) for number in range(4)})
    metrics.serve(worker_port)
    for role in ("guide", "dialler"):
        metrics.nodes_opened.labels(role).inc()
    await publish(redis, busy_swarm())
    async with (
        api_process(redis_url) as (public, private),
        worker_on(redis_url, prober, metrics),
        crawler_metrics(redis) as (crawler, crawler_port),
    ):
        targets = {
            "petals-swarm": public, "petals-api": private, "petals-crawler": crawler_port, "petals-worker": worker_port,
        }  # fmt: skip
        asking = asyncio.create_task(ask_for_a_while(public, stop))
        async with prometheus(tmp_path, targets) as client:

            async def all_up():
                found = (await client.get("/targets")).json()["data"]["activeTargets"]
                return len(found) == len(targets) and all(target["health"] == "up" for target in found)

            await until(all_up, 60, "not all targets came up")
            deadline = time.monotonic() + 60
            while empty := await empty_panels(client):
                assert time.monotonic() < deadline, empty
                crawled(crawler, busy_swarm())
                await asyncio.sleep(1)
            rules = [rule for group in (await client.get("/rules")).json()["data"]["groups"] for rule in group["rules"]]
            assert {rule["health"] for rule in rules} == {"ok"}
            assert not [rule["name"] for rule in rules if rule.get("state") == "firing"]
        stop.set()
        await asking
    await redis.aclose()


class Webhook(BaseHTTPRequestHandler):
    """Where Alertmanager delivers."""

    received: list = []  # noqa: RUF012 - one a process, emptied by the test

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@asynccontextmanager
async def alertmanager(folder, webhook_port):
    """Run it on the shipped configuration; changed are the receiver's address and the waiting."""
    config = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())
    config["route"].update(group_wait="1s", group_interval="1s")
    config["receivers"][0]["webhook_configs"][0]["url"] = f"http://127.0.0.1:{webhook_port}/alerts"
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    async with running(
        "prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/alerts",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=", "--log.level=warn",
    ):  # fmt: skip
        yield port


@needs("prometheus-alertmanager")
@pytest.mark.timeout(180)
async def test_a_snapshot_that_gets_stale_reaches_an_operator(redis_url, tmp_path):
    """The crawler dies: the swarm's gauges end, the age goes on, the alert fires and is delivered; then it resolves."""
    Webhook.received.clear()
    webhook = ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=webhook.serve_forever, daemon=True).start()
    redis, dead = connect(redis_url, "test"), free_port()
    short = msgspec.structs.replace(busy_swarm(), update_period=1.0, taken_at=time.time() - 60)
    await publish(redis, short, lease=await held_lease(redis))

    def delivered(status):
        async def look():
            alerts = [alert for group in Webhook.received for alert in group["alerts"]]
            stale = (alert for alert in alerts if alert["labels"]["alertname"] == "PetalsSnapshotStale")
            return next((alert for alert in stale if alert["status"] == status), None)

        return look

    async with api_process(redis_url) as (public, private), crawler_metrics(redis) as (_, crawler_port):
        targets = {
            "petals-swarm": public, "petals-api": private, "petals-crawler": crawler_port, "petals-worker": dead,
        }  # fmt: skip
        async with (
            alertmanager(tmp_path, webhook.server_port) as manager,
            prometheus(tmp_path, targets, alertmanager=manager, hold=1) as client,
        ):
            alert = await until(delivered("firing"), 60, "the alert was not delivered")
            assert alert["annotations"]["runbook"] == "docs/runbooks.md#petalssnapshotstale"
            assert await has_data(client, "petals_snapshot_age_seconds > 60")
            assert not await has_data(client, "petals_models")
            assert not await has_data(client, "servers_num")
            fresh = msgspec.structs.replace(busy_swarm(), update_period=60.0)
            await publish(redis, fresh, lease=await held_lease(redis))
            await until(delivered("resolved"), 60, "the end of the alert was not delivered")
            assert await has_data(client, "petals_models == 2")
    webhook.shutdown()
    webhook.server_close()
    await redis.aclose()


async def held_lease(redis):
    """A crawler's lease that nobody disputes."""
    await redis.set("petals:crawler:lease", "1:test")
    return "1:test"
