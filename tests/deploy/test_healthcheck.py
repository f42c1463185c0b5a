"""The health check reads what the service reads, reaches Redis as it does, and calls only its own faults ill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import redis as sync_redis

from api.settings import ApiSettings
from crawler.settings import CrawlerSettings
from deploy import embedded_redis, healthcheck
from deploy.embedded_redis import free_port
from reachability_worker.settings import WorkerSettings
from shared.store import keys
from tests.reliability.parts import answers, until

pytestmark = pytest.mark.real_parts

SERVICE = "petals"


class Service(ThreadingHTTPServer):
    """What a service's port says, which is all that the check sees of it."""

    said = b""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", str(len(self.server.said)))
        self.end_headers()
        self.wfile.write(self.server.said)

    def log_message(self, *_):
        pass


@pytest.fixture
def service(monkeypatch):
    for kind in (ApiSettings, CrawlerSettings, WorkerSettings):
        for name in kind.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)
    with Service() as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        for variable in ("API_PORT", "CRAWLER_METRICS_PORT", "WORKER_METRICS_PORT"):
            monkeypatch.setenv(variable, f"{made.server_port}\r")  # a file with Windows' line ends
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")  # Docker gives containers the host's
        yield made
        made.shutdown()


@pytest.fixture
def leading(service, redis_url, monkeypatch):
    """A crawler that says that it leads, and does."""
    service.said = b"petals_crawler_leading 1.0\n"
    monkeypatch.setenv("REDIS_URL", redis_url)
    with sync_redis.Redis.from_url(redis_url) as client:
        client.set(keys.CRAWLER_LEASE, f"1:{socket.gethostname()}-1")
        client.xadd(keys.CRAWLS, {"status": b"{}"})
        yield client


def test_the_port_is_read_as_the_service_reads_it(service, capsys):
    """A carriage return at the end is no part of it."""
    service.said = b'{"status": "ready"}'
    assert healthcheck.main(["api"]) == 0
    assert "ready" in capsys.readouterr().out


def test_bad_settings_are_told(service, monkeypatch, capsys):
    """As by the service: nothing is asked with a part of them."""
    monkeypatch.setenv("REDIS_URL", "redis://h/notanumber")
    with pytest.raises(SystemExit) as ended:
        healthcheck.main(["crawler"])
    assert ended.value.code == 2
    assert "REDIS_URL" in capsys.readouterr().err


def test_a_leader_with_its_lease_is_fit(leading, capsys):
    assert healthcheck.main(["crawler"]) == 0
    assert "last attempt" in capsys.readouterr().out


def test_a_leader_without_its_lease_is_ill(leading, capsys):
    """Its loop is stuck."""
    leading.set(keys.CRAWLER_LEASE, "2:another-1")
    assert healthcheck.main(["crawler"]) == 1
    assert "another-1" in capsys.readouterr().err


def test_a_leader_that_does_not_crawl_is_ill(leading, monkeypatch, capsys):
    """Once it has had the time to: one that has just begun has not, whatever this machine's clock says."""
    for seconds, code in ((60.0, 0), (100_000.0, 1)):
        monkeypatch.setattr(healthcheck, "_container_age", lambda seconds=seconds: seconds)
        leading.delete(keys.CRAWLS)
        leading.xadd(keys.CRAWLS, {"status": b"{}"}, id="1000-0")
        assert healthcheck.main(["crawler"]) == code
    assert "the last crawl attempt ended" in capsys.readouterr().err


def test_a_worker_beats(service, redis_url, monkeypatch, capsys):
    """The worker of this host, by RQ's own record."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    with sync_redis.Redis.from_url(redis_url) as client:
        client.sadd("rq:workers", "rq:worker:one")
        beat = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        client.hset("rq:worker:one", mapping={"hostname": socket.gethostname(), "last_heartbeat": beat})
        assert healthcheck.main(["worker"]) == 0
        assert "beating" in capsys.readouterr().out
        client.hset("rq:worker:one", "last_heartbeat", "2020-01-01T00:00:00.000000Z")
        assert healthcheck.main(["worker"]) == 1


@pytest.mark.parametrize("name", ["crawler", "worker"])
def test_a_redis_that_stalls_is_told_in_words(name, service, redis_server, monkeypatch, capsys):
    """It is not the service that is ill, and a restart would not mend it."""
    service.said = b"petals_crawler_leading 1.0\n"
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    os.kill(redis_server.process.pid, signal.SIGSTOP)
    try:
        assert healthcheck.main([name]) == 0
    finally:
        os.kill(redis_server.process.pid, signal.SIGCONT)
    assert "Redis does not answer within" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["crawler", "worker"])
def test_a_redis_that_is_away_is_told_in_words(name, service, monkeypatch, capsys):
    service.said = b"petals_crawler_leading 1.0\n"
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    assert healthcheck.main([name]) == 0
    assert "Redis is away" in capsys.readouterr().out


def test_sentinel_is_asked_where_redis_is(leading, redis_url, tmp_path, monkeypatch, capsys):
    """A fit service behind Sentinel stays as it is."""
    port, redis_port = free_port(), redis_url.rpartition(":")[2].partition("/")[0]
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor {SERVICE} 127.0.0.1 {redis_port} 1\n"
    )
    binary = embedded_redis.command(port, None)[0]
    process = subprocess.Popen([binary, str(config), "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        with sync_redis.Redis(port=port) as sentinel:
            until(lambda: answers(sentinel), 15, "the Sentinel")
        monkeypatch.setenv("REDIS_URL", f"sentinel://127.0.0.1:{port}/{SERVICE}/0")
        assert healthcheck.main(["crawler"]) == 0
        assert "last attempt" in capsys.readouterr().out
        leading.set(keys.CRAWLER_LEASE, "2:another-1")
        assert healthcheck.main(["crawler"]) == 1
    finally:
        process.kill()
        process.wait()


def test_a_service_that_does_not_answer_is_ill(service, monkeypatch, capsys):
    monkeypatch.setenv("API_PORT", str(free_port()))
    assert healthcheck.main(["api"]) == 1
    assert "no answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "place"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("127.0.0.2", "127.0.0.2"), ("::1", "[::1]")]
)
def test_where_a_service_of_this_machine_is_reached(host, place):
    assert healthcheck.reached_at(host) == place
