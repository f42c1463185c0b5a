"""Incidents reach a webhook: signed, once each, in spite of failures, and nowhere private by accident."""

import asyncio
import hashlib
import hmac
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from crawler import webhook
from crawler.history import HistoryWriter
from crawler.incident_notices import IncidentNotices
from crawler.leader import Leadership
from crawler.metrics import CrawlerMetrics
from crawler.settings import CrawlerSettings
from crawler.webhook import DeliveryError, parse_target, post
from tests.fakes import model, server, snapshot

SECRET = b"a secret"


class Receiver(ThreadingHTTPServer):
    """A webhook that keeps what it gets, and answers as it is told."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.received, self.answers = [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/hook?token=x"

    @property
    def events(self):
        return [(json.loads(body)["event"], json.loads(body)["incident"]["dht_prefix"]) for _, body in self.received]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        status = self.server.answers.pop(0) if self.server.answers else 204
        if status < 300:
            self.server.received.append((dict(self.headers), body))
        self.send_response(status)
        self.send_header("location", "http://127.0.0.1:1/")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    with Receiver() as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        yield made
        made.shutdown()


class Monitor:
    """A leading crawler, as far as incidents are concerned: each crawl is a minute after the last."""

    def __init__(self, redis, receiver, **more):
        self.redis, self.leadership, self.metrics = redis, Leadership(redis, "one"), CrawlerMetrics()
        self.writer, self.at = HistoryWriter(redis), time.time() + 1
        options = {"secret": SECRET, "allow_private": True, "official_only": True, **more}
        self.notices = IncidentNotices(redis, self.leadership, self.metrics, parse_target(receiver.url), **options)

    async def crawl(self, *healthy, official=True):
        await self.leadership.hold()
        for whole in healthy:
            self.at += 60
            servers = (server(1, 0, 8 if whole else 5),)
            made = snapshot(model("Beluga-hf", 8, servers, official=official), taken_at=self.at)
            await self.writer.append(made, self.leadership.lease)

    def count(self, outcome):
        return self.metrics.registry.get_sample_value("petals_crawler_incident_notices_total", {"outcome": outcome})


async def test_opening_and_end_are_told_once_each_and_signed(redis, receiver):
    """Whoever knows the secret can prove the sender, the time and the content."""
    monitor = Monitor(redis, receiver)
    await monitor.notices.tell()
    await monitor.crawl(True, False, False)
    await monitor.notices.tell()
    await monitor.notices.tell()
    assert receiver.events == [("incident.opened", "Beluga-hf")]
    await monitor.crawl(False, True, True)
    await monitor.notices.tell()
    again = Monitor(redis, receiver)  # a restart, or another leader
    await again.notices.tell()
    assert receiver.events == [("incident.opened", "Beluga-hf"), ("incident.closed", "Beluga-hf")]
    headers, body = receiver.received[1]
    signed = headers["X-Petals-Timestamp"].encode() + b"." + body
    assert headers["X-Petals-Signature"] == "sha256=" + hmac.new(SECRET, signed, hashlib.sha256).hexdigest()
    document = json.loads(body)
    assert document["id"] == document["incident"]["id"] + ":closed"
    assert document["incident"]["covered_blocks"] == 5
    assert document["incident"]["outcome"] == "recovered"


async def test_a_receiver_that_fails_is_tried_again(redis, receiver, monkeypatch):
    """With growing pauses, until it takes the notice: an outage of the receiver loses nothing."""
    monkeypatch.setattr("crawler.incident_notices.BACKOFF", (0.05, 0.1))
    monkeypatch.setattr("crawler.incident_notices.LOOK_EVERY", 0.05)
    monitor = Monitor(redis, receiver)
    await monitor.notices.tell()
    await monitor.crawl(True, False, False, True, True)
    receiver.answers = [503, 429, 302]
    running = asyncio.create_task(monitor.notices.run())
    async with asyncio.timeout(10):
        while len(receiver.received) < 2:
            await asyncio.sleep(0.05)
    running.cancel()
    assert receiver.events == [("incident.opened", "Beluga-hf"), ("incident.closed", "Beluga-hf")]
    assert (monitor.count("failed"), monitor.count("delivered")) == (3, 2)


async def test_the_past_and_strangers_models_are_not_told(redis, receiver):
    """What was before the webhook is on the pages; anyone can announce a model and take it away again."""
    monitor = Monitor(redis, receiver)
    monitor.at = time.time() - 3600
    await monitor.crawl(True, False, False)
    await monitor.notices.tell()
    assert receiver.events == []
    monitor.at = time.time() + 60
    await monitor.crawl(True, True, False, False, official=False)
    await monitor.notices.tell()
    assert receiver.events == []
    everyone = Monitor(redis, receiver, official_only=False)
    await everyone.notices.tell()
    assert receiver.events == [("incident.opened", "Beluga-hf")]


async def test_only_the_leader_tells(redis, receiver, monkeypatch):
    """Two crawlers, one notice."""
    monkeypatch.setattr("crawler.incident_notices.LOOK_EVERY", 0.05)
    leader = Monitor(redis, receiver)
    await leader.notices.tell()
    await leader.crawl(True, False, False)
    standby = Monitor(redis, receiver)
    assert not await standby.leadership.hold()
    running = asyncio.create_task(standby.notices.run())
    await asyncio.sleep(0.3)
    running.cancel()
    assert receiver.events == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.1.1", "0.0.0.0", "100.64.0.1", "224.0.0.1", "::1",
        "fe80::1", "fd00::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "2002:7f00:1::", "64:ff9b::a00:1",
    ],
)  # fmt: skip
def test_private_addresses_are_refused(address, monkeypatch):
    """Whatever the name resolves to, and however the address is written, nothing inside is reached by accident."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    resolved = [(family, socket.SOCK_STREAM, 6, "", (address, 80))]
    public = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", 80))]
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("it connected"))
    for found in (resolved, public + resolved):  # one bad address among good ones is enough
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, found=found, **__: found)
        with pytest.raises(DeliveryError, match="private"):
            post(parse_target("http://hooks.example/x"), b"{}", secret=None, allow_private=False)


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch):
    """A name that resolves differently a moment later leads nowhere: it is not asked twice."""
    asked, connected = [], []

    def resolve(*_, **__):
        asked.append(1)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1" if len(asked) == 1 else "127.0.0.1", 80))]

    def connect(address, **_):
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(DeliveryError):
        post(parse_target("http://hooks.example/x"), b"{}", secret=None, allow_private=False)
    assert connected == [("1.1.1.1", 80)]


def test_tls_is_checked(receiver):
    """An https receiver has to prove its name; one that speaks no TLS gets nothing."""
    target = parse_target(receiver.url.replace("http:", "https:"))
    with pytest.raises(DeliveryError, match="SSL"):
        post(target, b"{}", secret=None, allow_private=True)
    assert receiver.received == []


@pytest.mark.parametrize(
    "url", ["ftp://x/", "file:///etc/passwd", "http://", "http://user:pw@x/", "x", "http://x/a b", "http://x:99999/"]
)
def test_other_urls_are_refused_at_start(url):
    """Settings fail before any work."""
    with pytest.raises(ValueError):
        CrawlerSettings(incident_webhook_url=url)


def test_the_secret_is_not_shown():
    """Not by --print-config, and not in logs."""
    settings = CrawlerSettings(incident_webhook_url="https://x/", incident_webhook_secret="hush")  # noqa: S106
    assert "hush" not in str(settings)
    assert "hush" not in str(settings.incident_webhook_secret)
    assert webhook.signature(b"hush", "1", b"{}").startswith("sha256=")
