"""Redis behind Sentinel: the leader is killed, a replica takes over, and everything goes on by itself."""

import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import certifi
import pytest
import redis as sync_redis

from deploy import embedded_redis
from deploy.embedded_redis import free_port
from shared.store import keys
from shared.store.connection import connect_sync, parse_redis_url
from tests.conftest import RedisServer
from tests.fakes import peer_id
from tests.reliability.load import Load, note
from tests.reliability.parts import Published, answers, get, state, until

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(150)]
SERVICE = "petals"
FAILOVER_TIMEOUT = 2_000
"""Milliseconds. Where Sentinel has not heard the replica lately, it gives up, and tries again after twice this."""


@pytest.fixture
def sentinel(tmp_path):
    """A leader, a replica and a Sentinel that fails over after a second: (port of the Sentinel, leader, replica)."""
    # A replica writes the leader's data to a file in its working folder before it loads it.
    leader = RedisServer("--dir", str(tmp_path))
    leader.start()
    replica = RedisServer(
        "--dir", str(tmp_path), "--replicaof", f"127.0.0.1 {leader.port}", "--repl-diskless-sync-delay", "0"
    )
    replica.start()
    until(lambda: sync_redis.Redis.from_url(replica.url).info()["master_link_status"] == "up", 15, "the replica")
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor {SERVICE} 127.0.0.1 {leader.port} 1\n"
        f"sentinel down-after-milliseconds {SERVICE} 1000\nsentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT}\n"
    )
    binary = embedded_redis.command(port, None)[0]
    process = subprocess.Popen([binary, str(config), "--sentinel"], stdout=subprocess.DEVNULL)
    client = sync_redis.Redis(port=port)
    until(lambda: answers(client) and client.sentinel_slaves(SERVICE), 15, "the Sentinel to know the replica")
    yield port, leader, replica
    process.kill()
    process.wait()
    replica.kill()
    leader.kill()
    shutil.rmtree(tmp_path, ignore_errors=True)


def leads(client):
    """Whether it was promoted; it cuts its connections when it is."""
    with suppress(sync_redis.ConnectionError):
        return client.info()["role"] == "master"


def test_a_fail_over_is_waited_out_by_all_parts(start, start_api, swarm, live, sentinel):
    """kill -9 the leading Redis: snapshots go on in the new leader, the api serves throughout, checks are answered."""
    port, leader, replica = sentinel
    url = f"sentinel://127.0.0.1:{port}/{SERVICE}/0"
    peers = ",".join(swarm.initial_peers)
    start("crawler", REDIS_URL=url, INITIAL_PEERS=peers, CRAWL_PERIOD="2")
    start("reachability_worker", REDIS_URL=url, INITIAL_PEERS=peers)
    _, api = start_api(url, RATE_LIMIT="0")
    until(lambda: state(api), 30, "the state")
    until(lambda: get(f"{api}/api/v1/is_reachable/{live.peer_id}")[0] == 200, 20, "a verdict")

    def whom(number):
        """The live server, and ever new ids that nobody has."""
        return (live.peer_id, True) if number % 2 else (peer_id(number + 10**6), False)

    promoted = Published(replica.url)
    with Load(api, whom, lanes=60, a_second=200) as load:
        until(lambda: load.codes[200] > 200, 20, "the load")
        leader.kill()
        killed = time.time()
        assert get(api + "/api/v1/state")[0] == 200
        until(lambda: leads(promoted.redis), 45, "the promotion")  # later where the first attempt fails
        promotion = time.monotonic()
        before = load.codes[200]
        _, back = until(lambda: load.codes[200] > before + 20, 5, "verdicts again")
        until(lambda: promoted.newer_than(killed), 25, "a snapshot in the new leader")
        until(lambda: state(api)["last_updated"] > killed, 15, "the api to follow")
        until(lambda: time.monotonic() > promotion + 8, 10, "some more load")
    note(
        "fail-over of Redis behind Sentinel", faults=1, requests=load.answered, wrong=len(load.wrong), lost=load.lost,
        nobody_could_look=load.codes[503], recovery_seconds=round(back, 2), slowest_answer=round(load.slowest, 2),
    )  # fmt: skip
    assert promoted.redis.exists(keys.CRAWLER_LEASE)
    assert (load.wrong, load.lost) == ([], 0)
    assert set(load.codes) == {200, 503}
    assert load.slowest < 9.5
    until(lambda: not promoted.redis.keys("rq:job:*"), 15, "no orphan job")
    until(lambda: not promoted.redis.zcard("rq:wip:reachability-default"), 15, "no job that counts as started")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("sentinel://a:1,b:2/petals/3", ([("a", 1), ("b", 2)], "petals", {"db": 3}, {})),
        ("sentinel://a/petals", ([("a", 26379)], "petals", {"db": 0}, {})),
        ("sentinel://:p%40ss@a:1/petals", ([("a", 1)], "petals", {"db": 0, "password": "p@ss"}, {})),
        ("sentinels://a:1/petals", ([("a", 1)], "petals", {"db": 0}, {"ssl": True})),
        (
            f"sentinels://a:1/petals?ssl_ca_certs={certifi.where()}",
            ([("a", 1)], "petals", {"db": 0}, {"ssl": True, "ssl_ca_certs": certifi.where()}),
        ),
        ("sentinel://[::1]/petals", ([("::1", 26379)], "petals", {"db": 0}, {})),
        ("sentinel://[::1]:1,b/petals", ([("::1", 1), ("b", 26379)], "petals", {"db": 0}, {})),
        ("redis://a", ([], "", {"db": 0, "host": "a", "port": 6379}, {})),
        ("redis://u:p@[::1]:1/2", ([], "", {"db": 2, "host": "::1", "port": 1, "username": "u", "password": "p"}, {})),
        ("redis://a/0?password=p", ([], "", {"db": 0, "host": "a", "port": 6379, "password": "p"}, {})),
        ("unix:///run/r.sock?db=3", ([], "", {"db": 3, "path": "/run/r.sock"}, {})),
    ],
)
def test_what_a_url_says(url, place):
    """Sentinels with their ports, the service, the database, and Redis's password."""
    assert parse_redis_url(url) == place


@pytest.mark.parametrize("url", ["sentinel://", "sentinel://a:1", "sentinel://a:x/petals", "sentinel://a/petals/x"])
def test_what_a_url_must_say(url):
    """Mistakes are told at start."""
    with pytest.raises(ValueError, match="expected"):
        parse_redis_url(url)


@pytest.mark.parametrize("url", ["sentinels://a/petals?ssl_cert_reqs=none", "sentinel://a/petals?ssl_ca_certs=/ca"])
def test_no_option_of_a_url_is_ignored(url):
    """Least of all one that somebody meant to be safe with."""
    with pytest.raises(ValueError, match="unknown option"):
        parse_redis_url(url)


@pytest.fixture
def tls_sentinel(tmp_path, tls):
    """A Redis and a Sentinel that take TLS alone: (port of the Sentinel, the certificate of both)."""
    binary, certificate, key = tls
    common = ["port 0", "bind 127.0.0.1", f"dir {tmp_path}", f"tls-cert-file {certificate}", f"tls-key-file {key}",
           f"tls-ca-cert-file {certificate}", "tls-auth-clients no", "tls-replication yes"]  # fmt: skip
    redis_port, port = free_port(), free_port()
    monitor = f"sentinel monitor {SERVICE} 127.0.0.1 {redis_port} 1"
    parts = []
    for name, own in (("redis", [f"tls-port {redis_port}", "save ''"]), ("sentinel", [f"tls-port {port}", monitor])):
        config = tmp_path / f"{name}.conf"
        config.write_text("\n".join([*common, *own]) + "\n")
        mode = ["--sentinel"] if name == "sentinel" else []
        parts.append(subprocess.Popen([binary, config, *mode], stdout=subprocess.DEVNULL))
    client = sync_redis.Redis(port=port, ssl=True, ssl_ca_certs=str(certificate))
    until(lambda: answers(client), 15, "the Sentinel over TLS")
    yield port, certificate
    for part in parts:
        part.kill()
        part.wait()


def test_sentinel_and_redis_over_tls(start, start_api, swarm, live, tls_sentinel):
    """`sentinels://`: snapshots and checks work; with another authority, or without TLS, nothing is said at all."""
    port, certificate = tls_sentinel
    place = f"127.0.0.1:{port}/{SERVICE}/0"
    url = f"sentinels://{place}?ssl_ca_certs={certificate}"
    peers = ",".join(swarm.initial_peers)
    start("crawler", REDIS_URL=url, INITIAL_PEERS=peers, CRAWL_PERIOD="2")
    start("reachability_worker", REDIS_URL=url, INITIAL_PEERS=peers)
    _, api = start_api(url)
    until(lambda: state(api), 30, "the state")
    until(lambda: get(f"{api}/api/v1/is_reachable/{live.peer_id}")[0] == 200, 20, "a verdict")

    def refused(wrong):
        with pytest.raises(sync_redis.ConnectionError), closing(connect_sync(wrong)) as client:
            client.ping()

    with ThreadPoolExecutor() as pool:  # each is tried for some seconds
        assert list(pool.map(refused, [f"sentinels://{place}", f"sentinel://{place}"])) == [None, None]
