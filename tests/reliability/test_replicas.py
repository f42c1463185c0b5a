"""API replicas that are stopped or killed."""

import signal
import threading
import time

import pytest

from tests.fakes import peer_id
from tests.reliability.parts import get, until

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(90)]


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
