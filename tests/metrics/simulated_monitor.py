"""The monitor's processes for tests of what they export: real ones, but for the swarm, which is made up."""

import asyncio
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress

import httpx

from crawler.leader import Leadership
from crawler.metrics import CrawlerMetrics
from crawler.observe.observation import Observation
from deploy.embedded_redis import free_port
from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import CrawlStatus, Refusals, Verdict
from shared.store.snapshots import SnapshotWriter
from shared.tasks import end
from tests.fakes import FakeProber
from tests.reachability_worker import simulated_worker

REACHED = DialOutcome(
    Verdict.REACHABLE, Stage.ANSWERED, addresses=("/ip4/127.0.0.1/tcp/1",), rtt=0.002, relayed=False, protocol_ok=True,
    durations={"lookup": 0.001, "dial": 0.002, "protocol": 0.003},
)  # fmt: skip
REFUSED = DialOutcome(
    Verdict.UNREACHABLE, Stage.DIAL, Cause.REFUSED, "connection refused", durations={"lookup": 0.001, "dial": 0.002}
)


def worker_on(redis_url, prober=None, metrics=None, **more):
    """A worker in this loop, whose peers are simulated, each stage of their checks timed."""
    prober = prober or FakeProber(REACHED)
    return simulated_worker.worker_on(redis_url, prober, metrics=metrics, verdict_reuse=0.5, **more)


async def publish(redis, made, lease=None):
    """Write a snapshot as the leading crawler would."""
    if lease is None:
        leadership = Leadership(redis, "test")
        await leadership.hold()
        lease = leadership.lease
    writer = SnapshotWriter(redis)
    await writer.publish(made, lease)
    status = CrawlStatus(made.taken_at - made.update_duration, ok=True, snapshot_taken_at=made.taken_at)
    await writer.report(status, lease)


def crawled(metrics, made):
    """Tell the crawler's metrics of a crawl as the crawl loop does."""
    dials = {server.peer_id: REACHED for model in made.models for server in model.servers}
    phases = {"join": 0.1, "look_up": 1.0, "dial": 0.4}
    metrics.observed(Observation((), (), dials, {}, Refusals({"bad_span": 1}), 2, "QmCrawler", phases, 100))
    metrics.crawled(made)
    for phase in ("publish", "record"):
        with metrics.phase(phase):
            pass


@asynccontextmanager
async def api_process(redis_url, **environment):
    """`python -m api` as a process; yields its public and its private port."""
    public, private = free_port(), free_port()
    variables = {
        "REDIS_URL": redis_url, "API_PORT": str(public), "API_METRICS_PORT": str(private), **environment,
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "api"], env={"PATH": "/usr/bin:/bin", **variables})
    try:
        async with httpx.AsyncClient() as client:
            deadline = time.monotonic() + 60
            while True:
                with suppress(httpx.HTTPError):
                    if (await client.get(f"http://127.0.0.1:{public}/readyz")).status_code == 200:
                        break
                assert time.monotonic() < deadline, "the api did not start"
                assert process.poll() is None
                await asyncio.sleep(0.1)
        yield public, private
    finally:
        process.terminate()
        process.wait(20)


@asynccontextmanager
async def crawler_metrics(redis):
    """A crawler's endpoint on a free port; yields its metrics and the port."""
    metrics, port = CrawlerMetrics(), free_port()
    metrics.serve(port)
    metrics.leading.set(1)
    watching = asyncio.create_task(metrics.watch_redis(redis))
    try:
        yield metrics, port
    finally:
        await end(watching)
