"""A part of a process that ends is noticed, told and healed; what cannot go on ends, and leaves nothing behind."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import redis as sync_redis

from crawler.models import Model
from crawler.observe import observer as observer_module
from crawler.observe.announcements import AnnouncementReader
from crawler.observe.observation import SwarmUnavailableError
from crawler.observe.observer import Observer
from crawler.settings import CrawlerSettings
from deploy import healthcheck
from deploy.embedded_redis import free_port
from deploy.supervisor import Child, Supervisor
from reachability_worker.metrics import WorkerMetrics
from reachability_worker.nodes import Nodes
from shared.p2p.connect import ProberNode
from shared.p2p.daemon import NodeError
from shared.p2p.dht_node import DHTClientNode
from shared.store import keys
from shared.tasks import Tasks, records
from tests.api.serving import serve
from tests.crawler.synthetic_swarm import SyntheticSwarm
from tests.fakes import FakeProber, peer_id, snapshot
from tests.reachability_worker.simulated_worker import worker_on
from tests.reliability.load import note
from tests.reliability.parts import ROOT, daemons_of, get, until

pytestmark = pytest.mark.real_parts
STOP_WITHIN = 15
"""Seconds that compose gives a service to stop."""


async def eventually(condition, seconds=8.0):
    async with asyncio.timeout(seconds):
        while not (result := condition()):
            await asyncio.sleep(0.02)
    return result


def mistake(*_, **__):
    raise ZeroDivisionError("a mistake of ours")


def daemons():
    """Process ids of this process's p2pd."""
    return set(daemons_of(os.getpid()))


BREAKS = {
    "taker": lambda worker: (worker._scripts, "take"),
    "answers": lambda worker: (worker._scripts, "finish"),
    "lease": lambda worker: (worker._scripts, "renew"),
    "beats": lambda worker: (worker._registration, "beat"),
}
"""For each loop of a worker something that it calls."""


@pytest.mark.parametrize("name", BREAKS)
async def test_a_worker_without_one_of_its_loops_has_no_lease_until_it_is_healed(redis_url, monkeypatch, name):
    """No caller waits for a worker that never answers; the health check names what does not run."""
    connection = sync_redis.Redis.from_url(redis_url)
    port, metrics = free_port(), WorkerMetrics("here")
    metrics.serve(port)
    monkeypatch.setenv("WORKER_METRICS_PORT", str(port))
    monkeypatch.setenv("REDIS_URL", redis_url)
    async with (
        worker_on(redis_url, FakeProber(), vantage="here", metrics=metrics) as worker,
        serve(redis_url) as url,
        httpx.AsyncClient(base_url=url, timeout=12) as http,
    ):
        assert (await http.get(f"/api/v1/is_reachable/{peer_id(1)}")).status_code == 200
        await asyncio.to_thread(healthcheck.check_worker)
        before = records[name].failures
        with monkeypatch.context() as broken:
            broken.setattr(*BREAKS[name](worker), mistake)
            asking = [http.get(f"/api/v1/is_reachable/{peer_id(n)}") for n in (2, 3)]
            statuses = {answer.status_code for answer in await asyncio.gather(*asking)}
            assert statuses <= {200, 503}
            await eventually(lambda: name in worker.tasks.failing)
            await eventually(lambda: not leased(connection), 5)
            assert records[name].failures > before
            with pytest.raises(healthcheck.UnfitError, match=name):
                await asyncio.to_thread(healthcheck.check_worker)
            assert (await http.get(f"/api/v1/is_reachable/{peer_id(4)}")).status_code == 503
        await eventually(lambda: leased(connection) and not worker.tasks.failing, 20)
        await asyncio.to_thread(healthcheck.check_worker)
        assert (await http.get(f"/api/v1/is_reachable/{peer_id(5)}")).status_code == 200
    connection.close()


def leased(connection):
    """Whether a worker counts as alive."""
    return connection.zcount(keys.workers("here"), int(time.time() * 1000), "+inf")


API_BREAKS = {
    "replies": lambda services: (services.checks, "on_reply"),
    "snapshots": lambda services: (services.pages, "overview"),
    "admissions": lambda services: (services.checks._admissions._unsent, "empty"),
}
"""For each loop of an api something that it calls."""


@pytest.mark.parametrize("name", API_BREAKS)
async def test_an_api_without_one_of_its_loops_is_not_ready_and_says_which(redis_url, redis, monkeypatch, name):
    """A load balancer leaves it out until it is healed; it goes on serving what it has."""
    async with (
        worker_on(redis_url, FakeProber(), vantage="here"),
        serve(redis_url) as url,
        httpx.AsyncClient(base_url=url, timeout=12) as http,
    ):
        assert (await http.get("/readyz")).json()["failing"] == []
        with monkeypatch.context() as broken:
            broken.setattr(*API_BREAKS[name](serve.services), mistake)
            asking = asyncio.create_task(http.get(f"/api/v1/is_reachable/{peer_id(1)}"))
            await redis.xadd(keys.CRAWLS, {"status": '{"attempted_at":1.0,"ok":true}'})
            await eventually(lambda: name in serve.services.tasks.failing)
            answer = await http.get("/readyz")
            assert answer.status_code == 503
            assert name in answer.json()["failing"]
            assert name in answer.json()["status"]
            assert (await http.get("/livez")).status_code == 200
            assert (await http.get("/")).status_code == 200
        await eventually(lambda: not serve.services.tasks.failing, 20)
        assert (await http.get("/readyz")).status_code == 200
        assert (await http.get(f"/api/v1/is_reachable/{peer_id(2)}")).status_code == 200
        assert (await asking).status_code in {200, 503}


async def test_a_child_that_cannot_start_is_said_and_tried_again(tmp_path):
    """Its command does not exist yet: the launcher says so, and starts it when it does."""
    said, program, started = [], tmp_path / "program", tmp_path / "started"
    supervisor = Supervisor(said.append)
    supervisor.start(Child("late", [str(program)]))
    await eventually(lambda: len(said) >= 2)
    assert all("late does not start" in words and "starting it again" in words for words in said)
    program.write_text(f"#!/bin/sh\necho yes > {started}\nexec sleep 60\n")
    program.chmod(0o755)
    await eventually(started.exists, 12)
    await supervisor.stop()


async def test_a_child_that_prints_a_line_without_end_is_still_kept(tmp_path):
    """A line of a megabyte is read in pieces; the lines behind it arrive, and it is started again when it ends."""
    lines, said = [], []
    supervisor = Supervisor(said.append)
    code = "print('x' * 1_000_000, flush=True); print('after', flush=True); print('no end of line', end='')"
    supervisor.start(Child("loud", [sys.executable, "-c", code], on_line=lines.append))
    await eventually(lambda: lines.count("no end of line") >= 2, 15)
    await supervisor.stop()
    assert sum(map(len, lines[: lines.index("after")])) == 1_000_000
    assert said[0].startswith("loud ended (with code 0)")


async def test_a_keeper_that_fails_ends_the_child_before_it_starts_another(tmp_path):
    """Also where the launcher's own code is at fault, there are never two of one child."""
    seen = []

    def on_line(line):
        seen.append(int(line))
        if len(seen) == 1:
            mistake()

    supervisor = Supervisor(lambda _: None)
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    supervisor.start(Child("one", [sys.executable, "-c", code], on_line=on_line))
    await eventually(lambda: len(seen) == 2, 15)
    assert not Path(f"/proc/{seen[0]}").exists()
    await supervisor.stop()
    assert not Path(f"/proc/{seen[1]}").exists()


async def test_children_end_at_once_on_a_second_signal(tmp_path):
    """The first one, which the others may need, is told to end after them; what ignores SIGTERM is killed."""
    told, supervisor = tmp_path / "told", Supervisor(lambda _: None)
    (tmp_path / "started").mkdir()
    for name, trap in (("redis", f"echo redis >> {told}"), ("quick", f"echo quick >> {told}; exit"), ("deaf", "")):
        script = f"trap '{trap}' TERM; touch {tmp_path}/started/{name}; while :; do sleep 0.05; done"
        supervisor.start(Child(name, ["sh", "-c", script]))
    await eventually(lambda: len(list((tmp_path / "started").iterdir())) == 3)
    async with asyncio.TaskGroup() as group:
        stopping = group.create_task(supervisor.stop())
        await eventually(lambda: told.exists() and told.read_text() == "quick\n")
        assert not stopping.done()
        supervisor.kill()
    assert "redis" not in told.read_text()


async def test_a_worker_that_opens_half_of_its_nodes_leaves_no_daemon_behind(monkeypatch, swarm):
    """One more p2pd a second, for as long as the other cannot be started."""
    before = daemons()

    async def fail(cls):
        raise NodeError("p2pd did not start")

    nodes = Nodes(swarm.bootstrap_peers)
    monkeypatch.setattr("reachability_worker.nodes.RECOVER_PAUSES", (0.05,))
    with monkeypatch.context() as broken:
        broken.setattr(ProberNode, "open", classmethod(fail))
        opened = []
        real = DHTClientNode.open

        async def counted(cls, *arguments):
            opened.append(await real(*arguments))
            return opened[-1]

        broken.setattr(DHTClientNode, "open", classmethod(counted))
        async with Tasks() as tasks:
            tasks.keep("prober", nodes.run)
            await eventually(lambda: len(opened) >= 3, 20)
            assert nodes.unfit_reason == "p2pd did not start"
            assert len(daemons() - before) <= 1
    await eventually(lambda: not daemons() - before)


async def test_a_worker_that_no_bootstrap_peer_answers_holds_one_daemon(monkeypatch):
    """It opens new ones until a peer answers: those before, which no check has used, end at once."""
    before, opened, most = daemons(), [], 0
    nodes = Nodes({peer_id(1): ["/ip4/127.0.0.1/tcp/1"]}, on_opened=opened.append)
    monkeypatch.setattr("reachability_worker.nodes.RECOVER_PAUSES", (0.05,))
    async with Tasks() as tasks:
        tasks.keep("prober", nodes.run)
        async with asyncio.timeout(20):
            while len(opened) < 4:
                most = max(most, len(daemons() - before))
                await asyncio.sleep(0.02)
        assert not nodes.fit
    assert most == 1


async def test_a_node_whose_client_cannot_be_made_leaves_no_daemon_behind(monkeypatch):
    """The daemon runs before the DHT client on it does."""
    before = daemons()
    monkeypatch.setattr("shared.p2p.dht_node.DHTNode.create", mistake)
    with pytest.raises(ZeroDivisionError):
        await DHTClientNode.open()
    await eventually(lambda: not daemons() - before)


@pytest.mark.parametrize("where", ["_announced_models", "_take"])
async def test_a_crawl_that_fails_leaves_nothing_running(monkeypatch, where):
    """Its lookups and dials are cancelled and waited for, wherever it fails."""
    synthetic = SyntheticSwarm()
    synthetic.announce_model("a", 200)
    synthetic.announce_server("a", peer_id(1), 0, 200, reached=False)
    official = Model("official", 400, "https://huggingface.co/a/b", official=True)
    synthetic.look_up_seconds, synthetic.dial_seconds = 0.2, 60.0
    crawl = synthetic.crawl(monkeypatch, official=(official,), lookup_timeout=5.0)
    monkeypatch.setattr(AnnouncementReader, where, mistake)
    before = asyncio.all_tasks()
    with pytest.raises(ZeroDivisionError):
        await crawl.run()
    assert asyncio.all_tasks() == before
    asked = synthetic.looked_up.total()
    await asyncio.sleep(0.5)
    assert synthetic.looked_up.total() == asked


async def test_a_crawler_replaces_its_node_after_a_crawl_that_failed(monkeypatch):
    """For the service, `--once` and `--watch` alike: also where the node itself could not be opened."""
    opened, closed = [], []

    class Node:
        @classmethod
        async def open(cls, *_):
            opened.append(cls())
            if len(opened) == 1:
                raise NodeError("p2pd did not start")
            return opened[-1]

        async def close(self):
            closed.append(self)

    results = [SwarmUnavailableError("no bootstrap peer answered"), snapshot(), snapshot()]

    async def observe(settings, dht_node, *_, **__):
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return dht_node

    monkeypatch.setattr(observer_module, "DHTClientNode", Node)
    monkeypatch.setattr(observer_module, "observe", observe)
    observer = Observer(CrawlerSettings(initial_peers=[f"/ip4/127.0.0.1/tcp/1/p2p/{peer_id(0)}"]))
    with pytest.raises(NodeError):
        await observer.observe()
    with pytest.raises(SwarmUnavailableError):
        await observer.observe()
    assert closed == [opened[1]]
    assert await observer.observe() is await observer.observe() is opened[2]
    await observer.close()
    assert closed == opened[1:]


@pytest.mark.end_to_end
@pytest.mark.timeout(120)
def test_the_watched_picture_comes_back_after_its_daemons_were_killed(start, swarm, live):
    """`--watch` says what is wrong, and draws the swarm again."""
    screen, terminal = os.openpty()
    environment = {"INITIAL_PEERS": ",".join(swarm.initial_peers), "CRAWL_PERIOD": "2", "TERM": "xterm"}
    part = start("crawler", "--watch", terminal=terminal, **environment)
    os.close(terminal)
    os.set_blocking(screen, False)
    seen = bytearray()

    def shows(words):
        with suppress(OSError):
            seen.extend(os.read(screen, 1_000_000))
        drawn = seen.split(b"\x1b[H")[-2:]  # the last frame that is whole, and the one that may not be
        return words in re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", drawn[0])

    until(lambda: shows(b"The swarm is healthy"), 40, "the picture")
    for pid in part.daemons():
        os.kill(pid, signal.SIGKILL)
    seen.clear()
    until(lambda: shows(b"The last crawl failed"), 40, "the reason")
    seen.clear()
    until(lambda: shows(b"The swarm is healthy") and not shows(b"failed"), 40, "the picture again")
    assert part.process.poll() is None
    assert b"Traceback" not in seen
    os.close(screen)


@pytest.mark.end_to_end
@pytest.mark.timeout(120)
@pytest.mark.parametrize("service", ["crawler", "reachability_worker", "api"])
def test_sigterm_ends_a_service_in_time_while_redis_is_frozen(start, swarm, live, redis_server, service):
    """A Redis that accepts and says nothing: whoever is told to stop does in time, and leaves no daemon behind."""
    port = free_port()
    environment = {"API_PORT": str(port)} if service == "api" else {"INITIAL_PEERS": ",".join(swarm.initial_peers)}
    if service == "crawler":
        environment |= {
            "INCIDENT_WEBHOOK_URL": "http://127.0.0.1:9/x",
            "INCIDENT_WEBHOOK_ALLOW_PRIVATE": "true",
            "CRAWL_PERIOD": "2",
        }
    part = start(service, REDIS_URL=redis_server.url, **environment)
    client = sync_redis.Redis.from_url(redis_server.url)
    busy = {
        "crawler": lambda: client.exists(keys.SNAPSHOTS) and client.exists(keys.INCIDENTS_DELIVERED),
        "reachability_worker": lambda: client.zcard(keys.workers("default")),
        "api": lambda: get(f"http://127.0.0.1:{port}/readyz")[0] == 200,
    }
    until(busy[service], 40, "the service at work")
    p2pds = part.daemons()
    redis_server.process.send_signal(signal.SIGSTOP)
    time.sleep(3)  # its loops are in the middle of a question
    part.process.terminate()
    try:
        ended, took = until(lambda: part.process.poll() is not None, STOP_WITHIN, "its end")
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    assert ended
    assert part.process.returncode in (0, -signal.SIGTERM)  # uvicorn ends by the signal that it was given
    until(lambda: not [pid for pid in p2pds if Path(f"/proc/{pid}").exists()], 5, "the end of its daemons")
    note(f"SIGTERM to {service} while Redis is frozen", faults=1, stopped_within=round(took, 1))


@pytest.mark.end_to_end
@pytest.mark.timeout(120)
def test_a_crawler_whose_loop_ends_ends_with_an_error(swarm, redis_server, tmp_path):
    """The crawl loop is the process: what cannot be healed is started again by whoever runs it."""
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import runpy, sys\n"
        "from crawler import leader\n"
        "async def hold(self): raise ZeroDivisionError('a mistake of ours')\n"
        "leader.Leadership.hold = hold\n"
        "sys.argv = ['crawler']\n"
        "runpy.run_module('crawler', run_name='__main__')\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "REDIS_URL": redis_server.url, "INITIAL_PEERS": swarm.initial_peers[0]}
    ended = subprocess.run(
        [sys.executable, str(broken)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert ended.returncode == 1
    assert "a mistake of ours" in ended.stderr
