"""A worker process whose peers answer after a set time: `python -m … REDIS_URL SECONDS`, to be killed."""

import asyncio
import sys

import redis as sync_redis

from reachability_worker.metrics import WorkerMetrics
from reachability_worker.worker import ConcurrentWorker
from shared.redis_client import connect
from tests.fakes import FakeProber


async def main(url: str, seconds: float) -> None:
    worker = ConcurrentWorker(
        "default", FakeProber(delay=seconds), connection=sync_redis.Redis.from_url(url), redis=connect(url, "worker"),
        metrics=WorkerMetrics(), checks_at_once=5000, verdict_reuse=5.0, shutdown_grace=1.0,
    )  # fmt: skip
    worker.install_signal_handlers()
    await worker.run()


asyncio.run(main(sys.argv[1], float(sys.argv[2])))
