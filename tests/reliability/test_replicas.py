"""API replicas that are stopped or killed, and a soak: nothing grows."""

import os
import signal
import threading
import time

import pytest

from tests.fakes import peer_id
from tests.reliability.parts import Published, get, until

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(90)]
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "20"))


def path(number):
    return f"/api/v1/is_reachable/{peer_id(number)}"


def simulated_worker(start, url, seconds):
    return start("tests.reachability_worker.simulated_worker", url, str(seconds))


def test_sigterm_drains_an_api(start, start_api, redis_server):
    """Checks in flight get their answers, new connections are refused, and the process ends by itself."""
    simulated_worker(start, redis_server.url, 2.0)
    api, url = start_api(redis_server.url)
    until(lambda: get(url + path(0))[0] == 200, 20, "a verdict")
    answers = []
    asking = [threading.Thread(target=lambda n=n: answers.append(get(url + path(n))[0])) for n in range(1, 6)]
    for thread in asking:
        thread.start()
    time.sleep(0.5)
    api.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert get(url + "/livez")[0] == 0
    for thread in asking:
        thread.join(10)
    assert answers == [200] * 5
    assert api.process.wait(10) in (0, -signal.SIGTERM)


def test_a_killed_replica_takes_nothing_with_it(start, start_api, redis_server):
    """Two replicas, kill -9 one with checks in flight: the other answers all that is asked again, and as before."""
    simulated_worker(start, redis_server.url, 1.0)
    one, first = start_api(redis_server.url)
    _, second = start_api(redis_server.url)
    until(lambda: get(first + path(0))[0] == 200, 20, "a verdict")
    lost = [threading.Thread(target=get, args=(first + path(n),)) for n in range(1, 6)]
    for thread in lost:
        thread.start()
    time.sleep(0.3)
    one.kill()
    started = time.monotonic()
    assert [get(second + path(n))[0] for n in range(6)] == [200] * 6
    assert time.monotonic() - started < 9
    for thread in lost:
        thread.join(5)


def test_nothing_grows_in_a_soak(start, start_api, redis_server):
    """Checks of ever new peers for SOAK_SECONDS: memory, files and Redis keys are flat after the first third."""
    worker = simulated_worker(start, redis_server.url, 0.05)
    api, url = start_api(redis_server.url, RATE_LIMIT="0")
    redis = Published(redis_server.url).redis
    until(lambda: get(url + path(0))[0] == 200, 20, "a verdict")
    stop, codes = threading.Event(), []

    def ask(lane):
        number = lane * 10**6
        while not stop.is_set():
            number += 1
            codes.append(get(url + path(number))[0])
            time.sleep(0.02)

    lanes = [threading.Thread(target=ask, args=(lane,)) for lane in range(1, 5)]
    for lane in lanes:
        lane.start()

    def measure(seconds):
        ends, seen = time.monotonic() + seconds, []
        while time.monotonic() < ends:
            seen.append((worker.memory(), api.memory(), worker.files(), api.files(), redis.dbsize()))
            time.sleep(0.25)
        return [max(column) for column in zip(*seen, strict=True)]

    time.sleep(6)  # verdicts live for 5 s: from here on as many end as begin
    early = measure(SOAK_SECONDS / 3)
    time.sleep(SOAK_SECONDS / 3)
    late = measure(SOAK_SECONDS / 3)
    stop.set()
    for lane in lanes:
        lane.join(10)
    assert set(codes) == {200}
    assert len(codes) > 10 * SOAK_SECONDS
    worker_memory, api_memory, worker_files, api_files, stored = (b - a for a, b in zip(early, late, strict=True))
    assert max(worker_memory, api_memory) < 6_000
    assert max(worker_files, api_files) <= 4
    assert stored <= 0.2 * early[4] + 20
    until(lambda: redis.keys("rq:job:*") == [], 10, "no job is left")
