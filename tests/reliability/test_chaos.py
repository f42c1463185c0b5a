"""Everything is hurt at random, for a while, beside checks and pages: nothing wrong is said, and all of it recovers.

`make chaos SECONDS=3600` goes on for longer; the seed is printed, and `make chaos SEED=…` does the same things again.
"""

import json
import os
import random
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import redis as sync_redis

from deploy.embedded_redis import free_port
from shared.reachability import queue_name
from shared.store import keys
from tests.conftest import RedisServer
from tests.reliability.load import Load, note
from tests.reliability.parts import answers, get, state, until

SECONDS = float(os.environ.get("CHAOS_SECONDS") or 12)
SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(2**32))
pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(SECONDS + 240)]
RECOVERED_WITHIN = 60
STOPPED_WITHIN = 20
KEYS = keys.of_the_crawler() | keys.of_the_workers("default", queue_name("default"))
FIELDS = ("answer", "snapshot", "status", "incident")
WRITES = {
    "string": lambda redis, key, junk: redis.set(key, junk),
    "list": lambda redis, key, junk: redis.lpush(key, junk),
    "set": lambda redis, key, junk: redis.sadd(key, junk),
    "hash": lambda redis, key, junk: redis.hset(key, junk[:50], junk),
    "zset": lambda redis, key, junk: redis.zadd(key, {junk[:50]: 2e12}),
    "stream": lambda redis, key, junk: redis.xadd(
        key, dict.fromkeys(("answer", "snapshot", "status", "incident"), junk)
    ),
}
"""How something is written into a key of each type."""


class Kept:
    """A part that is started again when it was killed, as systemd, compose or the launcher would."""

    def __init__(self, name, begin):
        self.name, self._begin = name, begin
        self.part, self.daemons = begin(), set()

    def note_daemons(self):
        self.daemons.update(self.part.daemons())

    def kill(self, _):
        self.note_daemons()
        self.part.end()
        self.part = self._begin()

    def freeze(self, rng):
        self.part.freeze()
        time.sleep(rng.uniform(0.5, 6))
        self.part.thaw()

    def kill_daemons(self, _):
        self.note_daemons()
        for pid in self.part.daemons():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Store:
    """Redis with persistence: frozen, killed, poisoned."""

    def __init__(self, folder):
        self.server = RedisServer("--appendonly", "yes", "--appendfsync", "always", "--dir", str(folder))
        self.server.start()
        self.client = sync_redis.Redis.from_url(self.server.url, socket_timeout=5)

    def kill(self, rng):
        self.server.kill()
        time.sleep(rng.uniform(0, 3))
        self.server.start()

    def freeze(self, rng):
        self.server.process.send_signal(signal.SIGSTOP)
        time.sleep(rng.uniform(0.5, 6))
        self.server.process.send_signal(signal.SIGCONT)

    def poison(self, rng):
        """Junk into its keys, in their own type or in another."""
        for _ in range(rng.randint(1, 20)):
            key, kind = rng.choice(sorted(KEYS.items()))
            junk = rng.choice([b"", b"\xff\xfe", b"[" * 5_000, b"null", b"9" * 400, rng.randbytes(rng.randint(1, 200))])
            write = WRITES[rng.choice([kind, kind, kind, rng.choice(sorted(WRITES))])]
            if rng.random() < 0.2 and key not in (keys.CRAWLER_LEASE, keys.CRAWLER_FENCING):
                self.client.delete(key)
            with suppress(sync_redis.ResponseError):
                write(self.client, key, junk)


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path)
    yield made
    made.server.kill()


def test_chaos(start, start_api, swarm, live, store):
    """Kills, stops, cuts and poison for each part, while a live server and a page are asked for all the time."""
    print(f"\nseed {SEED}: CHAOS_SEED={SEED} repeats it", flush=True)  # noqa: T201 - so that it can be repeated
    rng = random.Random(SEED)
    peers, url = ",".join(swarm.initial_peers), store.server.url
    crawler = partial(start, "crawler", REDIS_URL=url, INITIAL_PEERS=peers, CRAWL_PERIOD="2")
    worker = partial(start, "reachability_worker", REDIS_URL=url, INITIAL_PEERS=peers)
    kept = [Kept("crawler", crawler), Kept("crawler", crawler), Kept("worker", worker), Kept("worker", worker)]
    second = Kept("api", lambda: start("api", REDIS_URL=url, API_PORT=str(free_port())))
    api, address = start_api(url)
    until(lambda: state(address), 60, "the state")
    until(lambda: checked(address, live), 60, "a verdict")
    files, faults, pages, newest = api.files(), 0, 0, 0.0
    actions = [(each.name, action) for each in kept for action in (each.kill, each.freeze, each.kill_daemons)]
    actions += [("api", second.kill), ("api", second.freeze)]
    actions += [("redis", store.kill), ("redis", store.freeze), *[("redis", store.poison)] * 6]
    with Load(address, lambda _: (live.peer_id, True), lanes=4, a_second=20) as load:
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends:
            name, action = rng.choice(actions)
            print(f"  {action.__name__} {name}", flush=True)  # noqa: T201
            action(rng)
            faults += 1
            shown = state(address)
            assert shown is not None, "the page has lost what it knew"
            assert shown["last_updated"] >= newest
            newest = shown["last_updated"]
            says = {row["state"] for model in shown["model_reports"] for row in model["server_rows"]}
            assert says == {"online"}
            assert get(address + "/")[0] == 200
            pages += 2
            time.sleep(rng.uniform(0, 1))
        hurt_until = time.time()
        until(lambda: answers(store.client), 10, "redis")
        _, took = until(lambda: state(address)["last_updated"] > hurt_until, RECOVERED_WITHIN, "a snapshot on the page")
        until(lambda: get(address + "/readyz")[0] == 200, RECOVERED_WITHIN, "the api to be ready")
        until(lambda: checked(address, live), RECOVERED_WITHIN, "a verdict")
    assert load.wrong == []
    assert load.lost == 0
    assert set(load.codes) <= {200, 503}
    assert load.slowest < 10
    assert json.loads(get(address + "/api/v1/incidents")[1])["incidents"] == []
    until(lambda: api.files() <= files + 5, 30, "its files to be closed")
    note(f"chaos with seed {SEED}", faults=faults, requests=load.answered + pages, wrong=0, lost=0,
         recovery_seconds=round(took, 1), answered_503=load.codes[503])  # fmt: skip
    stop([*kept, second])


def stop(parts):
    """All at once, each in the time that it has, with nothing of it left."""
    for each in parts:
        each.note_daemons()
        each.part.process.terminate()
    for each in parts:
        until(lambda one=each: one.part.process.poll() is not None, STOPPED_WITHIN, f"the end of the {each.name}")
        assert not [pid for pid in each.daemons if b"p2pd" in command_of(pid)]


def checked(address, live):
    status, body, _ = get(f"{address}/api/v1/is_reachable/{live.peer_id}")
    return status == 200 and json.loads(body)["success"]


def command_of(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
