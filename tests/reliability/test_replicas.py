"""API replicas that are stopped or killed."""

import signal
import threading
import time

import msgspec
import pytest

from shared.snapshot import SCHEMA_VERSION, encode
from shared.store import keys
from tests.fakes import peer_id, snapshot
from tests.reliability.load import note
from tests.reliability.parts import Published, get, until

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(90)]


def path(number):
    return f"/api/v1/is_reachable/{peer_id(number)}"


def simulated_worker(start, url, seconds):
    return start("tests.reachability_worker.simulated_worker", url, str(seconds))


def until_asked(redis_server, numbers):
    """Return when checks of these peers are in flight."""
    with redis_server.client() as client:
        names = [keys.inflight("default", peer_id(number)) for number in numbers]
        until(lambda: client.exists(*names) == len(names), 10, "checks in flight")


def test_sigterm_drains_an_api(start, start_api, redis_server):
    """Checks in flight get their answers, new connections are refused, and the process ends by itself."""
    simulated_worker(start, redis_server.url, 2.0)
    api, url = start_api(redis_server.url)
    until(lambda: get(url + path(0))[0] == 200, 20, "a verdict")
    answers = []
    asking = [threading.Thread(target=lambda n=n: answers.append(get(url + path(n))[0])) for n in range(1, 6)]
    for thread in asking:
        thread.start()
    until_asked(redis_server, range(1, 6))
    api.process.send_signal(signal.SIGTERM)
    until(lambda: get(url + "/livez")[0] == 0, 10, "nobody to listen")
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
    until_asked(redis_server, range(1, 6))
    one.kill()
    assert [get(second + path(n))[0] for n in range(6)] == [200] * 6
    for thread in lost:
        thread.join(5)


def test_a_rolling_upgrade_shows_no_error_page(start_api, redis_server):
    """An old api meets a snapshot of a schema that it cannot read: it serves what it has, or says that it has none."""
    redis = Published(redis_server.url).redis
    _, running = start_api(redis_server.url)
    known = snapshot()
    redis.xadd(
        keys.SNAPSHOTS, {"taken_at": repr(known.taken_at), "snapshot": encode(known)}, maxlen=1, approximate=False
    )
    until(lambda: get(running + "/api/v1/state")[0] == 200, 10, "the state")
    newer = msgspec.structs.replace(known, schema=SCHEMA_VERSION + 1, taken_at=known.taken_at + 60)
    redis.xadd(
        keys.SNAPSHOTS, {"taken_at": repr(newer.taken_at), "snapshot": encode(newer)}, maxlen=1, approximate=False
    )
    _, started = start_api(redis_server.url)
    ends = time.monotonic() + 2
    while time.monotonic() < ends:
        for path in ("/", "/swarm.txt", "/metrics", "/api/v1/models"):
            assert get(running + path)[0] == 200, path
        assert f'"last_updated":{known.taken_at}' in get(running + "/api/v1/state")[1]
        status, page, _ = get(started + "/")
        assert status == 200
        assert "No snapshot yet" in page, page[page.find("<h1") :][:300]
        assert get(started + "/api/v1/state")[0] == 503
        time.sleep(0.2)
    note("an old api meets a newer schema", faults=1, wrong=0, failed=0)
