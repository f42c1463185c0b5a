"""Redis away, empty, slow, full, killed with its data on disk: what readers see, and that all of it heals."""

import signal
import threading
import time
from contextlib import suppress

import pytest
from redis.exceptions import ConnectionError, OutOfMemoryError  # noqa: A004 - Redis's own

from shared.store import keys
from tests.conftest import RedisServer
from tests.fakes import peer_id
from tests.reliability.load import note
from tests.reliability.parts import Published, SlowProxy, get, state, until

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(90)]


def ask(url, number):
    started = time.monotonic()
    status, body, _ = get(f"{url}/api/v1/is_reachable/{peer_id(number)}")
    return status, body, time.monotonic() - started


def simulated_worker(start, url, seconds=0.0):
    return start("tests.reachability_worker.simulated_worker", url, str(seconds))


def looks(url, number=1):
    return lambda: ask(url, number)[0] == 200


def test_a_redis_that_comes_back_empty_is_filled_at_once(start, start_api, swarm, live, redis_server):
    """The api serves what it has; is_reachable says 503; the crawler writes its snapshot again, without a new crawl."""
    published = Published(redis_server.url)
    crawler = start(
        "crawler", REDIS_URL=redis_server.url, INITIAL_PEERS=",".join(swarm.initial_peers), CRAWL_PERIOD="600"
    )
    simulated_worker(start, redis_server.url)
    _, url = start_api(redis_server.url)
    first, _ = until(lambda: state(url), 30, "the state")
    until(looks(url), 15, "a verdict")
    redis_server.kill()
    time.sleep(1)
    status, _, headers = get(url + "/api/v1/state")
    assert status == 200
    assert int(headers.get("Age") or headers.get("age") or 0) >= 0
    status, body, seconds = ask(url, 2)
    assert (status, "success" in body) == (503, False)
    assert seconds < 9.5
    redis_server.start()
    again, took = until(published.snapshot, 10, "the snapshot in the new Redis")
    note("Redis killed, back and empty", faults=1, recovery_seconds=round(took, 1), wrong=0, lost=0)
    assert again.taken_at == first["last_updated"]
    until(lambda: crawler.said("republished the last snapshot"), 10, "the crawler's word")
    until(looks(url, 3), 15, "a verdict again")
    assert state(url)["last_updated"] == first["last_updated"]


def test_a_slow_redis_breaks_no_deadline(start, start_api, redis_server):
    """Every command takes seconds: the page comes from memory, is_reachable answers in time and says 503."""
    simulated_worker(start, redis_server.url)
    with SlowProxy(redis_server.port) as proxy:
        _, url = start_api(f"redis://127.0.0.1:{proxy.port}/0")
        until(looks(url), 20, "a verdict")
        proxy.delay = 3.0
        status, body, seconds = ask(url, 2)
        assert (status, "success" in body) == (503, False)
        assert seconds < 9.5
        redis_server.process.send_signal(signal.SIGSTOP)
        assert get(url + "/livez")[0] == 200, "it does not ask Redis"
        redis_server.process.send_signal(signal.SIGCONT)
        proxy.delay = 0.0
        until(looks(url, 4), 20, "a verdict again")


def test_a_full_redis_corrupts_nothing(start, start_api, swarm, live):
    """Nothing more can be written: the last snapshot stays and is served, is_reachable says 503, the log says why."""
    server = RedisServer("--maxmemory", "8mb", "--maxmemory-policy", "noeviction")
    server.start()
    try:
        crawler = start("crawler", REDIS_URL=server.url, INITIAL_PEERS=",".join(swarm.initial_peers), CRAWL_PERIOD="2")
        simulated_worker(start, server.url)
        _, url = start_api(server.url)
        published = Published(server.url)
        until(lambda: state(url), 30, "the state")
        until(looks(url), 15, "a verdict")
        full = threading.Event()
        filling = threading.Thread(target=fill, args=(published.redis, full))
        filling.start()
        until(lambda: crawler.said("snapshot not published"), 15, "the crawler's word")
        before = published.snapshot()
        status, body, seconds = ask(url, 2)
        assert (status, "success" in body) == (503, False)
        assert seconds < 9.5
        assert published.snapshot() == before
        assert get(url + "/api/v1/state")[0] == 200
        full.set()
        filling.join()
        published.redis.delete("filler")
        _, took = until(lambda: published.newer_than(before.taken_at), 15, "a new snapshot")
        note("Redis full", faults=1, recovery_seconds=round(took, 1), wrong=0, lost=0)
        until(looks(url, 3), 15, "a verdict again")
    finally:
        server.kill()


def fill(redis, enough):
    """Take what memory there is, and what becomes free."""
    size = 100_000
    while not enough.is_set():
        try:
            redis.rpush("filler", "x" * size)
            size = min(2 * size, 100_000)
        except OutOfMemoryError:
            size = max(size // 2, 10)
            time.sleep(0.001)


def test_a_redis_with_persistence_keeps_what_it_had_over_kill_9(start, swarm, live, tmp_path):
    """The append-only file brings back the snapshot and the history; replicas that start then serve it."""
    server = RedisServer("--appendonly", "yes", "--appendfsync", "everysec", "--dir", str(tmp_path))
    server.start()
    try:
        crawler = start(
            "crawler", REDIS_URL=server.url, INITIAL_PEERS=",".join(swarm.initial_peers), CRAWL_PERIOD="600"
        )
        published = Published(server.url)
        until(lambda: published.redis.exists(keys.HISTORY_HEAD), 30, "a snapshot and its history")
        before, head = published.snapshot(), published.redis.get(keys.HISTORY_HEAD)
        crawler.end()
        until(lambda: published.redis.info("persistence")["aof_buffer_length"] == 0, 10, "its file has all writes")
        server.kill()
        server.start()
        assert published.snapshot() == before
        assert published.redis.get(keys.HISTORY_HEAD) == head
    finally:
        server.kill()


def test_a_redis_with_persistence_loses_at_most_its_last_two_seconds(tmp_path):
    """kill -9 while it is written to all the time: what it had acknowledged before is there again.

    Redis writes its file at once, but holds writes back for up to two seconds while the disk is slow to sync.
    """
    server = RedisServer("--appendonly", "yes", "--appendfsync", "everysec", "--dir", str(tmp_path))
    server.start()
    try:
        redis, acknowledged = Published(server.url).redis, []
        stop = threading.Event()
        writing = threading.Thread(target=write, args=(redis, acknowledged, stop))
        writing.start()
        until(lambda: len(acknowledged) > 3000, 20, "some writes")
        server.kill()
        killed = time.monotonic()
        stop.set()
        writing.join()
        server.start()
        kept = int(Published(server.url).redis.get("counter"))
        lost = acknowledged[kept:]
        seconds = round(max((killed - at for at in lost), default=0.0), 3)
        note(
            "kill -9 of Redis under writes", faults=1, requests=len(acknowledged), lost=len(lost), lost_seconds=seconds
        )
        assert all(killed - at <= HELD_BACK for at in lost)
    finally:
        server.kill()


HELD_BACK = 2.2
"""Seconds: two, and the time in which Redis looks again."""


def write(redis, acknowledged, stop):
    """Count up; note when each count was acknowledged."""
    with suppress(ConnectionError):
        while not stop.is_set():
            redis.incr("counter")
            acknowledged.append(time.monotonic())
