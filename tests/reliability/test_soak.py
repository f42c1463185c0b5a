"""Checks without end: nothing grows. `make soak` goes on for as long as it is told."""

import asyncio
import itertools
import logging
import os
import threading
import time

import pytest
import structlog

from api.checks.client import CheckClient, NoVerdictError
from shared.reachability import MAX_QUEUED
from shared.snapshot import Verdict
from shared.store import keys
from shared.store.connection import connect
from shared.tasks import Tasks
from tests.fakes import peer_id
from tests.reliability.load import Load, note
from tests.reliability.parts import Published, get, until

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]
JOBS = 16_000
"""As many as a public swarm of 1,000 servers asks in eight hours, where each asks fifty times a day."""
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "0"))
AT_MOST = 90.0
"""Seconds after which a machine that is too busy for all of them has shown enough."""
AT_ONCE = 500
"""Checks in flight."""
WARM_SHARE = 0.25
"""Of the jobs, before the first measure: allocators, pools and the keys that live for some seconds settle."""


class Checks:
    """Checks ever new peers through the api's own client, as fast as they are answered, on a thread of its own."""

    def __init__(self, url):
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.answered = self.wrong = self.nobody = 0

    @property
    def goes_on(self):
        return self._thread.is_alive()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(20)

    async def _run(self):
        redis = connect(self._url, "soak", max_connections=4)
        async with Tasks() as tasks:
            checks = CheckClient(redis, tasks, max_queued=MAX_QUEUED)
            checks.start()
            numbers = itertools.count()
            await asyncio.gather(*(self._lane(checks, numbers) for _ in range(AT_ONCE)))
        await redis.aclose()

    async def _lane(self, checks, numbers):
        while not self._stop.is_set():
            try:
                answers = await checks.check(peer_id(next(numbers)), deadline=time.monotonic() + 9)
            except NoVerdictError:
                self.nobody += 1
                await asyncio.sleep(0.1)
                continue
            self.answered += 1
            self.wrong += [answer.outcome.verdict for answer in answers] != [Verdict.REACHABLE]


@pytest.fixture
def quiet():
    """The check client logs each check for who debugs; 16,000 lines would be most of the work."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


def kept_keys(redis):
    """Return how many keys there are beside verdicts, which live for five seconds: as many as the rate makes."""
    verdicts = keys.verdict("", "").rpartition("::")[0].encode()
    return sum(not key.startswith(verdicts) for key in redis.scan_iter(count=1_000))


@pytest.mark.usefixtures("quiet")
@pytest.mark.timeout(SOAK_SECONDS + 300)
def test_nothing_grows_in_a_soak(start, start_api, redis_server):
    """Checks of ever new peers, and requests to an api beside them: memory, files and Redis's keys stay flat."""
    worker = start("tests.reachability_worker.simulated_worker", redis_server.url, "0")
    api, url = start_api(redis_server.url, RATE_LIMIT="0")
    redis = Published(redis_server.url).redis
    until(lambda: get(f"{url}/api/v1/is_reachable/{peer_id(10**8)}")[0] == 200, 20, "a verdict")

    def measure():
        return {
            "worker_kB": worker.memory(), "api_kB": api.memory(), "worker_files": worker.files(),
            "api_files": api.files(), "redis_keys": kept_keys(redis), "redis_kB": redis.info()["used_memory"] // 1024,
        }  # fmt: skip

    def peak(until_done):
        seen = [measure()]
        while not until_done():
            assert asking.goes_on
            time.sleep(0.25)
            seen.append(measure())
        return {name: max(one[name] for one in seen) for name in seen[0]}

    started = time.monotonic()

    def share():
        elapsed = time.monotonic() - started
        return elapsed / SOAK_SECONDS if SOAK_SECONDS else max(asking.answered / JOBS, elapsed / AT_MOST)

    with Load(url, a_second=100) as load, Checks(redis_server.url) as asking:
        peak(lambda: share() > WARM_SHARE)
        begin = peak(lambda: share() > 2 * WARM_SHARE)
        end = peak(lambda: share() >= 1)
    seconds = time.monotonic() - started
    note(
        "soak", jobs=asking.answered + load.answered, seconds=round(seconds, 1), requests=load.answered,
        jobs_a_second=round(asking.answered / seconds), wrong=asking.wrong + len(load.wrong), lost=load.lost,
        begin=begin, end=end,
    )  # fmt: skip
    assert set(load.codes) == {200}
    assert (asking.wrong, asking.nobody) == (0, 0)
    assert (load.wrong, load.lost) == ([], 0)
    # Between the two lie 50 % of the jobs: less than 320 bytes of each may stay.
    assert end["worker_kB"] - begin["worker_kB"] < 2_500
    assert end["api_kB"] - begin["api_kB"] < 2_500
    assert max(end["worker_files"] - begin["worker_files"], end["api_files"] - begin["api_files"]) <= 4
    # A check under way has up to three keys, and checks are as many as callers. Left by each, they would be 16,000.
    assert end["redis_keys"] <= 4 * AT_ONCE
    until(lambda: redis.keys("rq:job:*") == [], 15, "no job is left")
    until(lambda: redis.dbsize() < 50, 15, "no verdict is left")
    note("soak, afterwards", redis_keys=redis.dbsize(), redis_kB=redis.info()["used_memory"] // 1024)
