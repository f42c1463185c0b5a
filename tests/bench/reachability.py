"""How fast the reachability path is, as ratios to references that run in the same minutes on the same machine.

`make bench-reachability` prints a table and JSON. References: RQ's own SimpleWorker, bare redis-py pipelines (the
limit for anything that keeps a job in Redis), a bare connect. Peers are simulated where Redis, RQ and HTTP are
measured, and real where p2pd is. All on 127.0.0.1, bounded in time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import base58
import redis as sync_redis
from rq import Queue, SimpleWorker
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from deploy import embedded_redis
from shared import logs
from shared.reachability import CHECK_FUNCTION, Cause, DialOutcome, Stage, queue_name
from shared.settings import Settings
from shared.snapshot import Verdict
from shared.store import keys
from shared.store.connection import connect
from tests.bench.processes import cpu_seconds, process, rss_mb, until
from tests.support.synthetic import peer_id

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from shared.inference import ServerInference

VANTAGE = "default"
QUEUE = queue_name(VANTAGE)
FROZEN_SECONDS = 5.0
JOBS = 5_000
SIMPLE_JOBS = 400
CALLERS = 1_000
MANY_CALLERS, FEW_PEERS = 10_000, 100
OPEN_AT_ONCE = 1_500


class SimulatedProber:
    """Peers whose number (its hash's last byte) is odd are frozen for the whole dial time; others answer at once."""

    fit = True

    def __init__(self, frozen_seconds: float) -> None:
        self._frozen_seconds = frozen_seconds
        self.probes = 0

    async def probe(self, peer: str, deadline: float, on_stage: object = None) -> DialOutcome:
        self.probes += 1
        if self._frozen_seconds and base58.b58decode(peer)[-1] % 2:
            await asyncio.sleep(min(self._frozen_seconds, max(0.0, deadline - time.monotonic())))
            return DialOutcome(Verdict.UNREACHABLE, Stage.SECURITY, Cause.FROZEN)
        return DialOutcome(Verdict.REACHABLE, Stage.ANSWERED, rtt=0.001, protocol_ok=True)

    async def probe_at(self, *_: object) -> DialOutcome:
        raise NotImplementedError("the benchmark gives no addresses")

    async def infer(self, *_: object) -> ServerInference:
        raise NotImplementedError("the benchmark asks for none")


def check_peer(peer: str, frozen_seconds: float) -> str:
    """The same check as a function, for SimpleWorker."""
    if frozen_seconds and base58.b58decode(peer)[-1] % 2:
        time.sleep(frozen_seconds)
    return peer


async def _worker(url: str, frozen_seconds: float) -> None:
    from reachability_worker.metrics import WorkerMetrics
    from reachability_worker.worker import ConcurrentWorker

    logs.configure(Settings(log_level="error"), "bench")
    prober = SimulatedProber(frozen_seconds)
    worker = ConcurrentWorker(
        VANTAGE, prober, prober, prober, prober,  # type: ignore[arg-type] # it has all that a worker calls
        connection=sync_redis.Redis.from_url(url), redis=connect(url, "worker"), metrics=WorkerMetrics(),
        checks_at_once=2000, verdict_reuse=5.0, shutdown_grace=0.5,
    )  # fmt: skip
    worker.install_signal_handlers()
    await worker.run()


def _simple_worker(url: str) -> None:
    connection = sync_redis.Redis.from_url(url)
    queue = Queue("simple", connection=connection, serializer=JSONSerializer)
    SimpleWorker([queue], connection=connection, serializer=JSONSerializer, log_job_description=False).work(
        burst=True, logging_level="WARNING"
    )


@contextmanager
def _running_worker(url: str, frozen_seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    connection = sync_redis.Redis.from_url(url)
    connection.flushall()
    with process(sys.executable, "-m", "tests.bench.reachability", "--worker", url, str(frozen_seconds)) as worker:
        until(lambda: connection.zcard(keys.workers(VANTAGE)))
        yield worker


@contextmanager
def _running_api(url: str) -> Iterator[tuple[str, int, subprocess.Popen[bytes]]]:
    port = embedded_redis.free_port()
    with process(
        sys.executable, "-m", "api", REDIS_URL=url, API_PORT=str(port), RATE_LIMIT="0", LOG_LEVEL="error"
    ) as api:
        until(lambda: _http_status(port, "/readyz") == 200)
        yield "127.0.0.1", port, api


def _http_status(port: int, path: str) -> int:
    async def ask() -> int:
        try:
            return (await _get(port, path))[0]
        except OSError:
            return 0

    return asyncio.run(ask())


async def _get(port: int, path: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n".encode())
        answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body


def bench_jobs(url: str) -> dict[str, float]:
    """No-op jobs a second: this worker, RQ's SimpleWorker, and bare pipelines that do as little as a job must."""
    connection = sync_redis.Redis.from_url(url)
    with _running_worker(url, 0.0):
        _enqueue_checks(connection, range(200))
        until(lambda: connection.xlen(keys.REPLIES) == 200)
        connection.delete(keys.REPLIES)
        _enqueue_checks(connection, range(JOBS), hold=True)
        started = time.monotonic()
        connection.rename("held", f"rq:queue:{QUEUE}")
        until(lambda: connection.xlen(keys.REPLIES) >= JOBS, 60)
        ours = JOBS / (time.monotonic() - started)

    connection.flushall()
    queue = Queue("simple", connection=connection, serializer=JSONSerializer)
    for number in range(SIMPLE_JOBS):
        queue.enqueue(f"{__package__}.reachability.check_peer", peer_id(number), 0.0, result_ttl=0)
    started = time.monotonic()
    _simple_worker(url)
    simple = SIMPLE_JOBS / (time.monotonic() - started)
    return {"jobs_per_s": ours, "simple_worker_jobs_per_s": simple, "bare_pipeline_jobs_per_s": _bare(connection)}


def _enqueue_checks(connection: sync_redis.Redis, numbers: range, *, hold: bool = False) -> None:
    queue = "held" if hold else f"rq:queue:{QUEUE}"
    ends = int((time.time() + 60) * 1000)
    pipeline = connection.pipeline(transaction=False)
    for number in numbers:
        peer = peer_id(number)
        job = Job.create(CHECK_FUNCTION, args=[peer], id=f"{peer}-{number}", connection=connection,
                         serializer=JSONSerializer, origin=QUEUE, status=JobStatus.QUEUED)  # fmt: skip
        pipeline.hset(job.key, mapping={**job.to_dict(), "deadline_ms": ends})
        pipeline.expire(job.key, 90)
        pipeline.rpush(queue, job.id)
    pipeline.execute()


def _bare(connection: sync_redis.Redis) -> float:
    """Pop, mark as started, answer, delete: four commands a job, 250 jobs a pipeline, nothing else."""
    connection.flushall()
    connection.rpush("bare", *range(JOBS))
    started, done = time.monotonic(), 0
    while ids := cast("list[bytes] | None", connection.lpop("bare", 250)):
        pipeline = connection.pipeline(transaction=False)
        for job_id in ids:
            pipeline.hset(f"job:{job_id!r}", mapping={"status": "started", "worker_name": "bare"})
        pipeline.execute()
        pipeline = connection.pipeline(transaction=False)
        for job_id in ids:
            pipeline.xadd(keys.REPLIES, {"answer": b"x" * 250}, maxlen=20_000, approximate=True)
            pipeline.delete(f"job:{job_id!r}")
        pipeline.execute()
        done += len(ids)
    return done / (time.monotonic() - started)


async def _ask(port: int, peer: str) -> tuple[int, float, bool | None]:
    started = time.monotonic()
    status, body = await _get(port, f"/api/v1/is_reachable/{peer}")
    success = json.loads(body)["success"] if status == 200 else None
    return status, time.monotonic() - started, success


async def _crowd(port: int, peers: list[str]) -> list[tuple[int, float, bool | None]]:
    slots = asyncio.Semaphore(OPEN_AT_ONCE)

    async def one(peer: str) -> tuple[int, float, bool | None]:
        async with slots:
            return await _ask(port, peer)

    return await asyncio.gather(*(one(peer) for peer in peers))


def bench_crowd(url: str) -> dict[str, float]:
    """1,000 callers, half of them about frozen peers; meanwhile the page; then 10,000 callers about 100 peers."""
    connection = sync_redis.Redis.from_url(url)
    result: dict[str, float] = {}
    with _running_worker(url, FROZEN_SECONDS) as worker, _running_api(url) as (_, port, api):
        idle = [asyncio.run(_ask(port, peer_id(2 * n)))[1] for n in range(20)]
        trips = [asyncio.run(_ask(port, _even(100_000 + n)))[1] for n in range(100)]
        result["idle_round_trip_p50_ms"] = statistics.median(trips) * 1000
        del idle
        page_idle = _page_latency(port)

        async def crowd_and_page() -> tuple[list[tuple[int, float, bool | None]], float, float]:
            started = time.monotonic()
            asking = asyncio.create_task(_crowd(port, [peer_id(n) for n in range(CALLERS)]))
            await asyncio.sleep(2.5)
            page = await asyncio.to_thread(_page_latency, port)
            return await asking, time.monotonic() - started, page

        cpu_before, redis_before = cpu_seconds(worker.pid) + cpu_seconds(api.pid), _redis_work(connection)
        answers, took, page_busy = asyncio.run(crowd_and_page())
        redis_commands, redis_bytes = (
            after - before for before, after in zip(redis_before, _redis_work(connection), strict=True)
        )
        live = sorted(seconds for status, seconds, success in answers if success)
        result |= {
            "half_frozen_answered": sum(status == 200 for status, _, _ in answers),
            "half_frozen_seconds": took,
            "half_frozen_live_p99_s": live[int(len(live) * 0.99)],
            "half_frozen_checks_per_s": CALLERS / took,
            "cpu_ms_per_check": (cpu_seconds(worker.pid) + cpu_seconds(api.pid) - cpu_before) * 1000 / CALLERS,
            "redis_commands_per_check": redis_commands / CALLERS,
            "redis_bytes_per_check": redis_bytes / CALLERS,
            "page_idle_ms": page_idle * 1000,
            "page_while_1000_hang_ms": page_busy * 1000,
            "api_rss_mb": rss_mb(api.pid),
            "api_redis_connections": _connections(connection, "api"),
        }
        connection.flushdb()
        until(lambda: connection.zcard(keys.workers(VANTAGE)))
        asked = [_even(200_000 + n % FEW_PEERS) for n in range(MANY_CALLERS)]
        started = time.monotonic()
        crowd = asyncio.run(_crowd(port, asked))
        result |= {
            "many_callers_answered": sum(status == 200 for status, _, _ in crowd),
            "many_callers_probes": connection.xinfo_stream(keys.REPLIES)["entries-added"],  # one verdict per probe
            "many_callers_per_s": MANY_CALLERS / (time.monotonic() - started),
        }
    # SimpleWorker on the same half-frozen peers, for as long as it takes to see its rate.
    connection.flushall()
    queue = Queue("simple", connection=connection, serializer=JSONSerializer)
    sample = 8
    for number in range(sample):
        queue.enqueue(f"{__package__}.reachability.check_peer", peer_id(number), FROZEN_SECONDS, result_ttl=0)
    started = time.monotonic()
    _simple_worker(url)
    result["simple_worker_half_frozen_per_s"] = sample / (time.monotonic() - started)
    return result


def _even(number: int) -> str:
    """A live peer, near a number."""
    return next(p for p in (peer_id(number * 64 + n) for n in range(64)) if base58.b58decode(p)[-1] % 2 == 0)


def _page_latency(port: int) -> float:
    async def measure() -> float:
        times = []
        for _ in range(60):
            started = time.monotonic()
            await _get(port, "/")
            times.append(time.monotonic() - started)
        return statistics.median(times)

    return asyncio.run(measure())


def _redis_work(connection: sync_redis.Redis) -> tuple[int, int]:
    """Return the commands that Redis has run, those inside scripts too, and the bytes that went in and out."""
    stats: Any = connection.info("stats")
    traffic = stats["total_net_input_bytes"] + stats["total_net_output_bytes"]
    return int(stats["total_commands_processed"]), int(traffic)


def _connections(connection: sync_redis.Redis, name: str) -> int:
    return sum(client["name"] == name for client in connection.client_list())


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(30)
    writer.close()


async def bench_silent_peers(count: int = 1_000) -> dict[str, float]:
    """Real dials: a live peer is checked while 1,000 others accept TCP and stay silent; and the bare connect alone."""
    from deploy.demo.simulated_server import Announcement, Model, SimulatedServer
    from reachability_worker.nodes import Nodes
    from reachability_worker.prober import Prober
    from shared.p2p.address_search import Search
    from shared.p2p.multiaddr import from_text
    from shared.p2p.swarm_settings import bootstrap_peers

    listener = await asyncio.start_server(_say_nothing, "127.0.0.1", 0, backlog=4096)
    address = f"/ip4/127.0.0.1/tcp/{listener.sockets[0].getsockname()[1]}"
    bootstrap = await SimulatedServer.start()
    initial_peers = await bootstrap.addresses()
    live = await SimulatedServer.start(initial_peers, Announcement(Model("bench", 1), 0, 1))
    nodes = Nodes(bootstrap_peers(initial_peers))
    prober = Prober(nodes, check_timeout=5.0, dials_at_once=2048)
    logs.configure(Settings(log_level="error"), "bench")
    keeping = asyncio.create_task(nodes.run())
    await nodes.until_fit(20)
    pair = nodes.current() or sys.exit("the nodes are not fit")
    dht_node, prober_node = pair.dht_node, pair.prober_node
    search = dht_node.search(live.peer_id, dialled_from=prober_node.peer_id)
    await search.run(lambda _: None)
    place = tuple(search.addresses)
    bare, whole = [], []
    for _ in range(50):
        await prober_node.disconnect(live.peer_id)
        started = time.monotonic()
        await prober_node.connect(live.peer_id, place)
        bare.append(time.monotonic() - started)
        started = time.monotonic()
        await prober.probe(live.peer_id, time.monotonic() + 5)
        whole.append(time.monotonic() - started)

    silent_ids = {peer_id(n) for n in range(count)}
    genuine = dht_node.search

    def search_or_silent(peer: str, **options: Any) -> Search:
        if peer in silent_ids:
            return Search.of_known(dht_node.kademlia, peer, (from_text(address),))
        return genuine(peer, **options)

    dht_node.search = search_or_silent  # type: ignore[assignment, method-assign]
    hanging = [asyncio.create_task(prober.probe(peer, time.monotonic() + 8)) for peer in silent_ids]
    await asyncio.sleep(1.5)
    times, right = [], 0
    for _ in range(10):
        started = time.monotonic()
        outcome = await prober.probe(live.peer_id, time.monotonic() + 8)
        times.append(time.monotonic() - started)
        right += outcome.verdict is Verdict.REACHABLE
        await asyncio.sleep(0.1)
    outcomes = await asyncio.gather(*hanging)
    result = {
        "bare_connect_p50_ms": statistics.median(bare) * 1000,
        "probe_p50_ms": statistics.median(whole) * 1000,
        "silent_in_flight": count,
        "silent_called_unreachable": sum(outcome.verdict is Verdict.UNREACHABLE for outcome in outcomes),
        "live_meanwhile_right_of_10": right,
        "live_meanwhile_max_s": max(times),
        "worker_rss_mb": rss_mb(os.getpid()),
        "p2pd_rss_mb": rss_mb(prober_node.daemon_pid),
    }
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    listener.close()
    await live.close()
    await bootstrap.close()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.reachability", description=__doc__)
    parser.add_argument("--worker", nargs=2, metavar=("URL", "SECONDS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        asyncio.run(_worker(arguments.worker[0], float(arguments.worker[1])))
        return 0
    port = embedded_redis.free_port()
    url = f"redis://127.0.0.1:{port}/0"
    with process(*embedded_redis.command(port, None)):
        connection = sync_redis.Redis.from_url(url)
        until(lambda: _pings(connection))
        figures = bench_jobs(url) | bench_crowd(url)
    figures |= asyncio.run(bench_silent_peers())
    ratios = {
        "jobs: this worker / SimpleWorker": figures["jobs_per_s"] / figures["simple_worker_jobs_per_s"],
        "jobs: this worker / bare pipelines": figures["jobs_per_s"] / figures["bare_pipeline_jobs_per_s"],
        "half-frozen checks: this worker / SimpleWorker": figures["half_frozen_checks_per_s"]
        / figures["simple_worker_half_frozen_per_s"],
        "page latency: 1,000 checks hanging / idle": figures["page_while_1000_hang_ms"] / figures["page_idle_ms"],
        "a probe / a bare connect": figures["probe_p50_ms"] / figures["bare_connect_p50_ms"],
    }
    for name, value in ratios.items():
        print(f"{name:50} {value:10.2f}")
    print()
    for name, value in figures.items():
        print(f"{name:50} {value:10.2f}")
    print(json.dumps({"ratios": ratios, "figures": figures}))
    return 0


def _pings(connection: sync_redis.Redis) -> bool:
    try:
        return bool(connection.ping())
    except sync_redis.ConnectionError:
        return False


if __name__ == "__main__":
    sys.exit(main())
