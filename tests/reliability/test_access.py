"""Who comes from outside, on real processes: slow and endless requests, other methods, secrets, TLS to Redis."""

import itertools
import socket
import subprocess
import time
from contextlib import ExitStack, suppress

import pytest
import redis as sync_redis

from api.app import create_app
from api.settings import ApiSettings
from deploy.embedded_redis import free_port
from tests.fakes import peer_id
from tests.reliability.hasty_api import REQUEST_WITHIN
from tests.reliability.load import note
from tests.reliability.parts import answers, get, until

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(90)]
SLOW = 400
PASSWORD = "hush-hush-7"  # noqa: S105
SERVICES = ("api", "crawler", "reachability_worker")


def connect(url):
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=5)


def test_slow_clients_and_endless_headers_cost_little_and_pass(start, redis_server):
    """400 connections that send a byte a second, 20 that never end their headers: others are answered throughout."""
    port = free_port()
    api, url = (
        start("tests.reliability.hasty_api", REDIS_URL=redis_server.url, API_PORT=str(port)),
        f"http://127.0.0.1:{port}",
    )
    until(lambda: get(url + "/livez")[0] == 200, 20, "the api")
    files, memory = api.files(), api.memory()
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(url)) for _ in range(SLOW)]
        flood = [stack.enter_context(connect(url)) for _ in range(20)]
        for one in slow:
            with suppress(OSError):  # those that waited longest here may be closed by now
                one.sendall(b"GET /livez HTTP/1.1\r\n")
        for one in flood:
            with suppress(OSError):
                one.sendall(b"GET /livez HTTP/1.1\r\n")
                for _ in range(200):
                    one.sendall(b"x: " + b"y" * 16_000 + b"\r\n")
        asked = 0
        most = 0
        ends = time.monotonic() + 5 * REQUEST_WITHIN
        while api.files() > files + 5 and time.monotonic() < ends:
            for one in slow:
                with suppress(OSError):
                    one.sendall(b"x")
            assert get(url + "/livez")[0] == 200
            asked += 1
            most = max(most, api.memory())
            time.sleep(0.5)
        assert api.files() <= files + 5
    note("400 slow clients, 20 header floods", requests=asked, wrong=0, failed=0, api_kB_more=most - memory)
    assert most - memory < 40_000


def test_everything_can_only_be_read(start_api, redis_server):
    """No route takes anything but GET and HEAD."""
    _, url = start_api(redis_server.url, PER_SERVER_METRICS="on", PROBE_ENDPOINT="on")
    settings = ApiSettings(per_server_metrics="on", probe_endpoint="on")
    paths = {getattr(route, "path", "") for route in create_app(settings).routes}
    assert len(paths) > 20
    for path, method in itertools.product(paths, ("POST", "PUT", "PATCH", "DELETE")):
        with connect(url) as one:
            filled = path.replace("{peer_id", "{").replace("{dht_prefix", "{").replace("{:path}", "{}")
            target = filled.replace("{}", peer_id(1)) + ("/app.css" if path == "/static" else "")
            one.sendall(f"{method} {target} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode())
            assert b" 405 " in one.recv(100), (method, path)


@pytest.mark.parametrize("service", SERVICES)
def test_no_secret_is_logged(start, service):
    """Not while Redis refuses the password, at the most talkative level (--print-config: shared/test_secrets.py)."""
    port = free_port()
    more = {
        "REDIS_URL": f"redis://petals:{PASSWORD}@127.0.0.1:{port}/0", "INCIDENT_WEBHOOK_SECRET": PASSWORD,
        "INCIDENT_WEBHOOK_URL": "http://127.0.0.1:1/", "INCIDENT_WEBHOOK_ALLOW_PRIVATE": "yes",
        "LOG_LEVEL": "debug", "API_PORT": str(free_port()),
        "INITIAL_PEERS": f"/ip4/127.0.0.1/tcp/1/p2p/{peer_id(1)}",
    }  # fmt: skip
    running = start(service, **more)
    until(lambda: len(running.log.read_text()) > 100, 30, "some log")
    time.sleep(2)
    assert PASSWORD not in running.log.read_text()


@pytest.fixture
def tls_redis(tmp_path, tls):
    """A Redis that takes TLS alone, and one user who may touch the monitor's keys alone: (address, certificate)."""
    binary, certificate, key = tls
    port = free_port()
    acl = tmp_path / "users.acl"
    acl.write_text(
        f"user default off\nuser petals on >{PASSWORD} ~petals:* ~reachability:* ~rq:* &* "
        "+@all -@admin -@dangerous +info +client\n"
    )
    process = subprocess.Popen(
        [binary, "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--tls-cert-file", certificate,
         "--tls-key-file", key, "--tls-ca-cert-file", certificate, "--tls-auth-clients", "no", "--aclfile", acl,
         "--save", "", "--dir", tmp_path],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    yield port, certificate
    process.kill()
    process.wait()


def test_redis_over_tls_as_a_user_who_may_touch_only_the_monitors_keys(start, start_api, swarm, live, tls_redis):
    """`rediss://` with an ACL user: snapshots, history and checks work; no other key and no dangerous command does."""
    port, certificate = tls_redis
    url = f"rediss://petals:{PASSWORD}@localhost:{port}/0?ssl_ca_certs={certificate}"
    client = sync_redis.Redis.from_url(url)
    until(lambda: answers(client), 15, "redis over TLS")
    peers = ",".join(swarm.initial_peers)
    parts = [
        start("crawler", REDIS_URL=url, INITIAL_PEERS=peers, CRAWL_PERIOD="2"),
        start("reachability_worker", REDIS_URL=url, INITIAL_PEERS=peers),
    ]
    api, address = start_api(url)
    until(lambda: get(address + "/api/v1/state")[0] == 200, 30, "the state")
    until(lambda: '"success":true' in get(f"{address}/api/v1/is_reachable/{live.peer_id}")[1], 20, "a verdict")
    until(lambda: get(f"{address}/api/v1/history/servers/{live.peer_id}")[0] == 200, 20, "the history")
    time.sleep(3)  # RQ's maintenance too
    for part in (*parts, api):
        assert "NOPERM" not in part.log.read_text()
        assert PASSWORD not in part.log.read_text()
    with pytest.raises(sync_redis.exceptions.NoPermissionError):
        client.set("other", 1)
    with pytest.raises(sync_redis.exceptions.NoPermissionError):
        client.flushall()
    for wrong in (url.replace(PASSWORD, "guess"), url.replace("rediss", "redis").partition("?")[0]):
        with pytest.raises(sync_redis.RedisError):
            sync_redis.Redis.from_url(wrong, socket_timeout=2).ping()
