"""Crawlers that die, freeze, lose their daemon or their swarm. docs/reliability.md lists what is promised."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from crawler.leader import LEASE_SECONDS, RENEW_EVERY
from deploy.demo.simulated_server import Announcement
from shared.snapshot import CrawlStatus, PeerState, Verdict
from shared.store import keys
from shared.store.connection import connect
from shared.store.history import HistoryReader
from tests.reliability.load import note
from tests.reliability.parts import get, until

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(90)]
PERIOD = 2.0
CRAWL_WITHIN = 4.0
"""Seconds for one crawl of the small swarm on a busy machine."""


@pytest.fixture
def crawler(start, swarm, redis_server):
    def run(**more):
        return start(
            "crawler", REDIS_URL=redis_server.url, INITIAL_PEERS=",".join(swarm.initial_peers),
            CRAWL_PERIOD=str(PERIOD), DIAL_TIMEOUT="2", **more,
        )  # fmt: skip

    return run


def test_a_killed_leader_is_replaced_within_the_lease_and_one_crawl(crawler, live, published):
    """Two crawlers, one leads; kill -9 it, and the other's first snapshot comes."""
    crawlers = [crawler(), crawler()]
    until(published.snapshot, 30, "a first snapshot")
    until(lambda: all(asks_for_the_lead(published, part) for part in crawlers), 30, "both, to be up")
    leader = next(part for part in crawlers if part.pid == published.leader_pid())
    leader.kill()
    killed = time.time()
    bound = LEASE_SECONDS + RENEW_EVERY + CRAWL_WITHIN
    snapshot, took = until(lambda: published.newer_than(killed), bound, "a snapshot of the other crawler")
    note("kill -9 of the leading crawler", faults=1, recovery_seconds=round(took, 1), wrong=0)
    assert published.leader_pid() != leader.pid
    assert snapshot.models[0].servers[0].state is PeerState.ONLINE


def asks_for_the_lead(published, part):
    """Whether a crawler has started so far: it names its connection to Redis."""
    return f"crawler-{part.pid}" in {client["name"] for client in published.redis.client_list()}


def test_a_leader_that_was_frozen_cannot_overwrite_what_is_newer(crawler, live, published):
    """SIGSTOP, another takes over, SIGCONT: Redis refuses the old one, which notices that another leads."""
    first = crawler()
    until(lambda: published.leader_pid() == first.pid and published.snapshot(), 30, "a snapshot of the first")
    second = crawler()
    until(lambda: asks_for_the_lead(published, second), 30, "the second, to be up")
    first.freeze()
    frozen = time.time()
    until(lambda: published.leader_pid() == second.pid, 15, "the second to lead")
    snapshot, _ = until(lambda: published.newer_than(frozen), 15, "a snapshot of the second")
    own = snapshot.crawler_peer_id
    first.thaw()
    ends, newest = time.monotonic() + 3 * PERIOD, snapshot.taken_at
    while time.monotonic() < ends:
        snapshot = published.snapshot()
        assert snapshot.crawler_peer_id == own
        assert snapshot.taken_at >= newest
        newest = snapshot.taken_at
        time.sleep(0.1)
    note("a leader that was frozen and wakes", faults=1, wrong=0, lost=0)
    until(lambda: first.said("another crawler leads"), 15, "that the first noticed")


def test_a_leader_that_is_stopped_in_a_crawl_and_deposed_overwrites_no_status(start, swarm, live, published):
    """It wakes, its crawl has failed, and another leads: what is said of the latest crawl is the new leader's word."""
    silent = swarm.start(Announcement(live.announcement.model, 0, 12))
    silent.freeze()  # each crawl waits for it
    environment = {"INITIAL_PEERS": ",".join(swarm.initial_peers), "CRAWL_PERIOD": "1", "DIAL_TIMEOUT": "3"}
    crawlers = [start("crawler", REDIS_URL=published_url(published), **environment) for _ in range(2)]
    try:
        until(published.snapshot, 40, "a first snapshot")
        first = next(part for part in crawlers if part.pid == published.leader_pid())
        other = next(part for part in crawlers if part is not first)
        before, daemons = status(published), set(first.daemons())
        until(lambda: status(published) != before, 20, "the end of a crawl")
        until(lambda: set(first.daemons()) - daemons, 20, "the next one, to have a prober node")
        frozen_at = time.time()
        first.freeze()
        until(lambda: published.leader_pid() == other.pid, 15, "another leader")
        until(lambda: status(published).attempted_at > frozen_at, 30, "its first status")
        newest = status(published).attempted_at
        first.thaw()
        until(lambda: first.said("status not published: another crawler leads") or first.said("snapshot not published"),
              30, "the end of the crawl that was stopped")  # fmt: skip
        ends = time.monotonic() + 2
        while time.monotonic() < ends:
            assert status(published).attempted_at >= newest
            newest = status(published).attempted_at
            time.sleep(0.05)
    finally:
        silent.thaw()
    note("a leader that is stopped in a crawl, deposed and resumed", faults=1, wrong=0, lost=0)


def test_a_crawler_heals_when_its_daemons_are_killed(crawler, live, published):
    """And says "unreachable" of nobody meanwhile."""
    part = crawler()
    until(published.snapshot, 30, "a snapshot")
    for pid in part.daemons():
        os.kill(pid, signal.SIGKILL)
    killed = time.time()
    seen, healed = [], None
    while healed is None or published.snapshot().taken_at <= healed:
        snapshot = published.snapshot()
        seen.append(snapshot.models[0].servers[0].state)
        healed = healed or (snapshot.taken_at if snapshot.taken_at > killed else None)
        assert time.time() - killed < 20, "no snapshot after the daemons were killed"
        time.sleep(0.1)
    note("kill -9 of both daemons of a crawler", faults=2, recovery_seconds=round(healed - killed, 1), wrong=0)
    assert set(seen) == {PeerState.ONLINE}


def test_a_crawler_that_stands_still_calls_nobody_unreachable(start, live, published, swarm):
    """It and its daemons are stopped amid the dial of a live server, for as long as a dial may take.

    No snapshot says "unreachable", of a bootstrap peer neither; the history has no outage, and no incident begins.
    """
    part = start(
        "crawler", REDIS_URL=published.url, INITIAL_PEERS=",".join(swarm.initial_peers), CRAWL_PERIOD="1",
        DIAL_TIMEOUT="5", MODELS="demo-model:12", INFERENCE_CHECKS="false",
    )  # fmt: skip
    verdicts, failures = set(), set()

    def reached_after(moment):
        found, crawl = published.snapshot(), status(published)
        if crawl is not None and crawl.error:
            failures.add(crawl.error)
        if found is None or not found.models[0].servers:
            return False
        verdicts.update(each.verdict for each in (*found.models[0].servers, *found.bootstrap_peers))
        return found.taken_at > moment and found.models[0].servers[0].verdict is Verdict.REACHABLE

    until(lambda: reached_after(0), 30, "a snapshot with the server")
    (guide,), _ = until(lambda: len(daemons := part.daemons()) == 1 and daemons, 10, "the end of a crawl's prober node")
    port = int(swarm.call(live.addresses())[0].split("/")[4])
    live.freeze()  # so that the next crawl is still dialling it
    until(lambda: any(is_connected(pid, port) for pid in part.daemons() if pid != guide), 20, "the next crawl's dial")
    part.freeze()
    live.thaw()
    time.sleep(5.2)
    part.thaw()
    resumed = time.time()
    until(lambda: reached_after(resumed), 20, "a snapshot that reaches the server again")
    assert Verdict.UNREACHABLE not in verdicts
    assert Verdict.UNKNOWN in verdicts or failures, "no crawl was disturbed"
    assert not published.redis.hlen(keys.OPEN_INCIDENTS)
    (hour, *_) = asyncio.run(history_of(live.peer_id, published.url)).hours
    assert hour.crawled == hour.online > 0
    note("a crawler that is stopped amid its dials", faults=1, wrong=0)


def is_connected(pid, port):
    """Whether a process has a connection to a port of this machine, also one that a frozen process did not accept."""
    sockets = set()
    with suppress(OSError):  # it ends, or closes one
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            sockets.add(str(descriptor.readlink()))
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(
        f"socket:[{row[9]}]" in sockets and row[3] == "01" and int(row[2].partition(":")[2], 16) == port for row in rows
    )


async def history_of(peer_id, redis_url):
    async with connect(redis_url, "tests") as redis:
        return await HistoryReader(redis).server(peer_id, time.time())


def test_without_the_swarm_the_last_snapshot_stays_and_the_reason_is_shown(crawler, start_api, live, published, swarm):
    """Bootstrap peers that do not answer are no empty swarm; when they are back, so are snapshots."""
    crawler()
    _, url = start_api(published_url(published))
    until(lambda: get(url + "/api/v1/state")[0] == 200, 30, "the state")
    swarm.bootstrap.freeze()

    reason, _ = until(lambda: (found := status(published)) and found.error, 20, "a failed crawl")
    assert "no bootstrap peer answered" in reason
    before = published.snapshot()
    until(lambda: "no bootstrap peer answered" in get(url + "/")[1].lower(), 10, "the reason on the page")
    assert f'"last_updated":{before.taken_at}' in get(url + "/api/v1/state")[1]
    swarm.bootstrap.thaw()
    thawed = time.time()
    _, took = until(lambda: published.newer_than(thawed), 20, "a snapshot after the swarm is back")
    note("no bootstrap peer answers", faults=1, recovery_seconds=round(took, 1), wrong=0)


def test_a_restarted_crawler_goes_on_from_what_was_published(crawler, live, published, swarm):
    """Its own first crawls fail or find nothing: the last snapshot stays, and the status names it."""
    first = crawler()
    before, _ = until(published.snapshot, 30, "a snapshot")
    first.end()
    before = published.snapshot()
    published.redis.delete(keys.CRAWLER_LEASE)
    swarm.bootstrap.freeze()
    second = crawler()
    failed = until(lambda: (found := status(published)) and not found.ok and found, 20, "a failed crawl")[0]
    assert failed.snapshot_taken_at == before.taken_at
    assert published.snapshot() == before
    # The swarm is back, and its nodes have forgotten all records: no empty swarm is published at once.
    swarm.bootstrap.thaw()
    for server in (swarm.bootstrap, live):
        swarm.call(forget(server.node.protocol.storage))
    until(lambda: "announced no server at all" in (status(published).error or ""), 20, "the doubt")
    assert published.snapshot() == before
    assert second.said("goes_on_from")


async def forget(storage):
    for key in [key for key, _ in storage.items()]:
        del storage[key]


def status(published):
    entries = published.redis.xrevrange(keys.CRAWLS, count=1)
    return msgspec.json.decode(entries[0][1][b"status"], type=CrawlStatus) if entries else None


def published_url(published):
    options = published.redis.connection_pool.connection_kwargs
    return f"redis://127.0.0.1:{options['port']}/0"
