"""Clocks that are wrong or step, on real processes (libfaketime): pages go on, nothing is lost, no age is wrong."""

import json
import time
from functools import partial
from pathlib import Path

import pytest
import redis as sync_redis

from crawler.leader import Leadership
from shared.snapshot import PeerState
from shared.store import keys
from shared.store.connection import connect
from shared.store.history import HistoryReader
from shared.store.rings import Resolution
from shared.store.snapshots import SnapshotWriter
from tests.fakes import peer_id, snapshot
from tests.reliability.load import note
from tests.reliability.parts import get, state, until

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(90)]
LIBFAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


class SteppingClock:
    """What a process believes the time to be: `offset` seconds from the right one. Monotonic time stays as it is."""

    def __init__(self, folder):
        self._file = folder / "offset"
        self.step(0)
        self.environment = {
            "LD_PRELOAD": str(LIBFAKETIME), "FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip

    def step(self, offset):
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset:+d}\n")
        new.replace(self._file)


@pytest.mark.skipif(LIBFAKETIME is None, reason="needs libfaketime (Debian: faketime)")
@pytest.mark.parametrize("offset", [7200, -7200])
async def test_a_crawler_whose_clock_steps_freezes_nothing_and_loses_nothing(  # noqa: PLR0917 - fixtures
    start, start_api, swarm, live, published, tmp_path, offset
):
    """Two hours forward or backward, and back again: snapshots go on with the right time, and so does the history."""
    clock = SteppingClock(tmp_path)
    crawler = start(
        "crawler", REDIS_URL=published.url, INITIAL_PEERS=",".join(swarm.initial_peers), CRAWL_PERIOD="1",
        **clock.environment,
    )  # fmt: skip
    _, url = start_api(published.url)
    until(lambda: state(url), 30, "the state")
    seen = []
    for step in (offset, 0):
        clock.step(step)
        time.sleep(1.5)  # a crawl that began before the step may end after it
        stepped = time.time()
        if step > 0:
            # All records look expired: a failed crawl, not an empty swarm.
            until(lambda: "s ahead of the bootstrap peers" in get(url + "/")[1], 15, "the reason on the page")
            assert published.snapshot().models[0].servers[0].state is PeerState.ONLINE
            continue
        for _ in range(2):
            snapshot, _ = until(partial(published.newer_than, max([stepped, *seen])), 15, "a snapshot after the step")
            seen.append(snapshot.taken_at)
            assert abs(snapshot.taken_at - time.time()) < 5
            assert snapshot.update_duration < 60
            assert snapshot.models[0].servers[0].state is PeerState.ONLINE
        until(lambda: state(url)["last_updated"] >= seen[-1], 10, "the api to follow")
    assert crawler.said("clock differs from redis's")
    note(f"the crawler's clock steps by {offset:+} s and back", faults=2, wrong=0, lost=0)
    redis = connect(published.url, "tests")
    try:
        hours = await HistoryReader(redis).model("demo-model", Resolution.HOUR, time.time())
        server = await HistoryReader(redis).server(live.peer_id, time.time())
    finally:
        await redis.aclose()
    assert sum(slot.crawls for slot in hours.slots) >= len(seen)
    assert sum(slot.crawls for slot in hours.slots) == sum(slot.healthy for slot in hours.slots)
    assert server.record.first_seen <= server.record.online_since <= server.record.last_online <= time.time() + 1
    assert server.record.sessions == 1


def verdict(address):
    """Return the answer; None where nobody could probe: the worker did not get to run for as long as a lease."""
    status, body, _ = get(address)
    assert status in (200, 503), body
    return body if status == 200 else None


@pytest.mark.skipif(LIBFAKETIME is None, reason="needs libfaketime (Debian: faketime)")
@pytest.mark.parametrize("offset", [3600, -3600])
async def test_services_whose_clocks_are_an_hour_off_tell_right_ages_and_answer_checks(  # noqa: PLR0917 - fixtures
    start, start_api, redis_server, redis_at, tmp_path, offset
):
    """An api and a worker: fresh is fresh, old is old, a verdict is from now, and leases hold."""
    clock = SteppingClock(tmp_path)
    clock.step(offset)
    writer, leader = SnapshotWriter(redis_at), Leadership(redis_at, "tests")
    await leader.hold()
    await writer.publish(snapshot(taken_at=time.time() - 3000), leader.lease)
    _, url = start_api(redis_server.url, STALE_AFTER_PERIODS="3", **clock.environment)
    age, _ = until(lambda: json.loads(get(url + "/readyz")[1])["snapshot_age"], 20, "the old snapshot")
    assert 3000 <= age < 3100
    assert "petals_models " not in get(url + "/metrics")[1], "a stale snapshot has no metrics"
    await leader.hold()
    await writer.publish(snapshot(taken_at=time.time()), leader.lease)
    until(lambda: "petals_models " in get(url + "/metrics")[1], 20, "the fresh snapshot")
    assert json.loads(get(url + "/readyz")[1])["snapshot_age"] < 60

    start("tests.reachability_worker.simulated_worker", redis_server.url, "0.05", **clock.environment)
    client = sync_redis.Redis.from_url(redis_server.url)
    until(lambda: client.zcount(keys.workers("default"), int(time.time() * 1000), "+inf"), 30, "the worker's lease")
    for number in range(3):
        asked = time.time()
        body, _ = until(partial(verdict, f"{url}/api/v1/is_reachable/{peer_id(number)}"), 30, "a verdict")
        assert asked - 2 < json.loads(body)["checked_at"] < time.time() + 2
    client.close()
    note(f"an api and a worker whose clocks are {offset:+} s off", faults=2, requests=3, wrong=0)


@pytest.fixture
async def redis_at(redis_server):
    client = connect(redis_server.url, "tests")
    yield client
    await client.aclose()
