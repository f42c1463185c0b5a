"""The real worker whose peers are simulated: in the test's loop, or as a process that may be killed.

The process: `python -m tests.reachability_worker.simulated_worker REDIS_URL SECONDS`; its peers answer after SECONDS.
"""

import asyncio
import sys
from contextlib import asynccontextmanager

import redis as sync_redis

from reachability_worker.metrics import WorkerMetrics
from reachability_worker.worker import ConcurrentWorker
from shared.store import keys
from shared.store.connection import connect
from tests.fakes import FakeProber


@asynccontextmanager
async def worker_on(url, prober=None, *, probers=None, vantage="default", metrics=None, **more):
    """Run a worker that has said it lives; end it, handing back at once what it holds.

    `probers` are its nodes, and what probes peers, given addresses and inference with them: all the same by default.
    A verdict answers for longer than a test lasts on a slow machine.
    """
    options = {"checks_at_once": 2000, "verdict_reuse": 60.0, "shutdown_grace": 0.0, **more}
    redis, connection = connect(url, "worker"), sync_redis.Redis.from_url(url)
    worker = ConcurrentWorker(
        vantage, *(probers or [prober or FakeProber()] * 4), connection=connection, redis=redis,
        metrics=metrics or WorkerMetrics(), **options,
    )  # fmt: skip
    running = asyncio.create_task(worker.run())
    while not connection.zcard(keys.workers(vantage)):
        assert not running.done(), running
        await asyncio.sleep(0.02)
    try:
        yield worker
    finally:
        worker.stop()
        await asyncio.wait_for(running, 30)
        await redis.aclose()
        connection.close()


async def main(url, seconds):
    worker = ConcurrentWorker(
        "default", *[FakeProber(delay=seconds)] * 4, connection=sync_redis.Redis.from_url(url),
        redis=connect(url, "worker"), metrics=WorkerMetrics(),
        checks_at_once=5000, verdict_reuse=5.0, shutdown_grace=1.0,
    )  # fmt: skip
    worker.install_signal_handlers()
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
