"""Incidents reach a webhook: signed, once each, in spite of failures, and nowhere private by accident."""

import asyncio
import hashlib
import hmac
import json
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import redis as sync_redis
from rq import Queue
from rq.serializers import JSONSerializer

from crawler.history.writer import HistoryWriter
from crawler.leader import Leadership
from crawler.notify import webhook
from crawler.notify.incident_notices import IncidentNotices
from crawler.notify.notice_queue import BACKOFF, Notice, NoticeQueue
from crawler.notify.webhook import DeliveryError, Webhook, parse_target
from crawler.settings import CrawlerSettings
from deploy.demo.simulated_server import Announcement, Model
from shared.store import keys
from shared.store.clock import RedisClock
from shared.store.fencing import DeposedError
from shared.store.history import HistoryReader
from shared.store.snapshots import SnapshotWriter
from shared.tasks import Tasks, end
from tests.fakes import model, server, snapshot
from tests.reliability.parts import Part, until

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

    def __init__(self, redis, connection, receiver, *, official_only=True):
        self.redis, self.leadership, self.outcomes = redis, Leadership(redis, "one"), Counter()
        self.writer, self.at = HistoryWriter(redis), time.time() + 1
        webhook = Webhook(parse_target(receiver.url), SECRET, allow_private=True)
        self.queue = NoticeQueue(connection, webhook.deliver, lambda outcome: self.outcomes.update([outcome]))
        self.notices = IncidentNotices(
            redis, self.leadership, self.queue, RedisClock(redis), official_only=official_only
        )

    async def lead(self):
        """Take the lead over from whoever had it."""
        if not await self.leadership.hold():
            await self.redis.delete(keys.CRAWLER_LEASE)
            await self.leadership.hold()

    async def tell(self):
        await self.lead()
        await self.notices.send()

    async def crawl(self, *healthy, official=True):
        await self.lead()
        for whole in healthy:
            self.at += 60
            servers = (server(1, 0, 8 if whole else 5),)
            made = snapshot(model("Beluga-hf", 8, servers, official=official), taken_at=self.at)
            await self.writer.append(made, self.leadership.lease)


@pytest.fixture
def connection(redis_url):
    made = sync_redis.Redis.from_url(redis_url)
    yield made
    made.close()


async def test_opening_and_end_are_told_once_each_and_signed(redis, connection, receiver):
    """Whoever knows the secret can prove the sender, the time and the content."""
    monitor = Monitor(redis, connection, receiver)
    await monitor.tell()
    await monitor.crawl(True, False, False)
    await monitor.tell()
    await monitor.tell()
    assert receiver.events == [("incident.opened", "Beluga-hf")]
    await monitor.crawl(False, True, True)
    await monitor.tell()
    again = Monitor(redis, connection, receiver)  # a restart, or another leader
    await again.tell()
    assert receiver.events == [("incident.opened", "Beluga-hf"), ("incident.closed", "Beluga-hf")]
    headers, body = receiver.received[1]
    signed = headers["X-Petals-Timestamp"].encode() + b"." + body
    assert headers["X-Petals-Signature"] == "sha256=" + hmac.new(SECRET, signed, hashlib.sha256).hexdigest()
    document = json.loads(body)
    assert document["id"] == document["incident"]["id"] + ":closed"
    assert document["incident"]["covered_blocks"] == 5
    assert document["incident"]["outcome"] == "recovered"


async def test_a_receiver_that_fails_is_tried_again(redis, connection, receiver, monkeypatch):
    """With pauses, until it takes the notice: an outage of the receiver loses nothing, and the order stays."""
    monkeypatch.setattr("crawler.notify.notice_queue.BACKOFF", (1, 1, 1))
    monkeypatch.setattr("crawler.notify.incident_notices.POLL_EVERY", 0.1)
    monitor = Monitor(redis, connection, receiver)
    await monitor.tell()
    await monitor.crawl(True, False, False, True, True)
    receiver.answers = [503, 429, 302]
    running = asyncio.create_task(monitor.notices.run())
    async with asyncio.timeout(20):
        while monitor.outcomes["delivered"] < 2:
            await asyncio.sleep(0.05)
    await end(running)
    assert receiver.events == [("incident.opened", "Beluga-hf"), ("incident.closed", "Beluga-hf")]
    assert monitor.outcomes == {"failed": 3, "delivered": 2}
    assert not connection.keys("rq:job:*")
    assert not connection.exists("rq:scheduler-lock:incident-notices")


async def test_a_loop_that_an_error_ended_delivers_again(redis, connection, receiver, monkeypatch):
    """Whatever ended it: it is started again, and does what it did."""
    monkeypatch.setattr("crawler.notify.incident_notices.POLL_EVERY", 0.05)
    monitor = Monitor(redis, connection, receiver)
    await monitor.tell()
    await monitor.crawl(True, False, False)
    send, errors = monitor.notices.send, [RuntimeError("a bug")]

    async def fails_once():
        if errors:
            raise errors.pop()
        await send()

    monkeypatch.setattr(monitor.notices, "send", fails_once)
    async with Tasks() as tasks:
        tasks.keep("incident_notices", monitor.notices.run)
        async with asyncio.timeout(10):
            while not receiver.events:
                await monitor.leadership.hold()
                await asyncio.sleep(0.05)
    assert receiver.events == [("incident.opened", "Beluga-hf")]


def test_the_pauses_grow_to_an_hour_and_last_a_day():
    """Neither a storm on a receiver that is starting, nor a notice that comes when nobody remembers why."""
    assert list(BACKOFF) == sorted(BACKOFF)
    assert BACKOFF[0] == 5
    assert 86400 < sum(BACKOFF) < 1.1 * 86400


async def test_a_notice_waits_in_rq_until_it_is_due(redis, connection, receiver):
    """Its books are RQ's: the job stands in ScheduledJobRegistry, at the time of the next attempt."""
    monitor = Monitor(redis, connection, receiver)
    await monitor.tell()
    await monitor.crawl(True, False, False)
    receiver.answers = [503]
    before = time.time()
    await monitor.tell()
    await monitor.tell()
    queue = Queue("incident-notices", connection=connection)
    (waiting,) = queue.scheduled_job_registry.get_job_ids()
    due = queue.scheduled_job_registry.get_scheduled_time(waiting).timestamp()
    assert 4 <= due - before <= 8
    assert receiver.received == []
    connection.zadd(queue.scheduled_job_registry.key, {waiting: before - 10})
    monitor.queue.close()  # a restart, or another leader
    await Monitor(redis, connection, receiver).tell()
    assert receiver.events == [("incident.opened", "Beluga-hf")]


async def test_a_notice_that_nobody_takes_is_given_up_and_kept_for_the_operator(
    redis, connection, receiver, monkeypatch
):
    """It stands among RQ's failed jobs, can be sent again by `rq requeue`, and does not hold back the end."""
    monkeypatch.setattr("crawler.notify.notice_queue.BACKOFF", (1,))
    monitor = Monitor(redis, connection, receiver)
    await monitor.tell()
    await monitor.crawl(True, False, False, True, True)
    receiver.answers = [500, 500]
    async with asyncio.timeout(15):
        while not receiver.received:
            await monitor.tell()
            await asyncio.sleep(0.1)
    assert receiver.events == [("incident.closed", "Beluga-hf")]
    assert monitor.outcomes == {"failed": 2, "given_up": 1, "delivered": 1}
    queue = Queue("incident-notices", connection=connection, serializer=JSONSerializer)
    (given_up,) = queue.failed_job_registry.get_job_ids()
    queue.failed_job_registry.requeue(given_up)
    await monitor.tell()
    assert receiver.events[1:] == [("incident.opened", "Beluga-hf")]


async def test_a_delivery_whose_crawler_was_lost_is_tried_again(redis, connection, receiver):
    """A crawler that is killed while it tells loses nothing."""
    monitor = Monitor(redis, connection, receiver)
    await monitor.tell()
    await monitor.crawl(True, False, False)
    receiver.answers = [503]
    await monitor.tell()
    registry = Queue("incident-notices", connection=connection).scheduled_job_registry
    (job,) = registry.get_job_ids()
    connection.zrem(registry.key, job)  # as it stands when the crawler dies in the middle of the delivery
    connection.hset(f"rq:job:{job}", "status", "started")
    connection.zadd("rq:wip:incident-notices", {f"{job}:gone": time.time() - 1})
    monitor.queue.close()
    again = Monitor(redis, connection, receiver)
    await again.tell()
    assert registry.get_job_ids() == [job]


async def test_what_stands_in_redis_is_neither_run_nor_sent(redis, connection, receiver):
    """Another function, another address, no notice at all: nothing of it happens."""
    queue = Queue("incident-notices", connection=connection, serializer=JSONSerializer)
    monitor = Monitor(redis, connection, receiver)
    queue.enqueue("os._exit", 1, job_id="evil")
    queue.enqueue("crawler.tell", "http://169.254.169.254/", job_id="no-notice")
    queue.enqueue("crawler.tell", json.dumps({"id": "x"}), job_id="half-a-notice")
    await monitor.tell()
    assert receiver.received == []
    assert set(queue.failed_job_registry.get_job_ids()) == {"evil", "no-notice", "half-a-notice"}


POISON = {
    "queue": lambda redis: redis.rpush("rq:queue:incident-notices", b"\xff\xfe", "", "x" * 5000, "a b"),
    "job": lambda redis: (
        redis.hset("rq:job:notice-x", mapping={"data": b"\xff", "created_at": b"\xff", "status": "queued"}),
        redis.lpush("rq:queue:incident-notices", "notice-x"),
    ),
    "job of another type": lambda redis: (
        redis.set("rq:job:notice-y", "x"), redis.lpush("rq:queue:incident-notices", "notice-y")
    ),
    "intermediate": lambda redis: redis.rpush("rq:queue:incident-notices:intermediate", b"\xff"),
    "registries": lambda redis: [
        redis.zadd(f"rq:{name}:incident-notices", {b"\xff": 1, b"\xff:1": 1, "": 1})
        for name in ("wip", "finished", "failed", "deferred", "scheduled", "canceled")
    ],
    "workers": lambda redis: (redis.sadd("rq:workers", b"\xff"), redis.sadd("rq:workers:incident-notices", b"\xff")),
    "types": lambda redis: [
        redis.set(key, "x") for key in keys.of_rq("incident-notices") if key != "rq:queue:incident-notices"
    ],
    "queue of another type": lambda redis: redis.set("rq:queue:incident-notices", "x"),
    "told": lambda redis: redis.hset("petals:incidents:told", mapping={b"\xff": "1", "since": "soon"}),
    "told in the future": lambda redis: redis.hset("petals:incidents:told", "since", "9" * 12),
    "told of another type": lambda redis: redis.set("petals:incidents:told", "x"),
    "incidents": lambda redis: [
        redis.hset("petals:incidents:open", "x", junk) for junk in (b"", b"\xff", b"\x91" * 5000 + b"\x01")
    ],
}  # fmt: skip


@pytest.mark.parametrize("what", POISON)
async def test_poison_in_any_list_holds_up_no_notice(redis, connection, receiver, monkeypatch, what):
    """Ids that are none, jobs that cannot be read, keys of another type: the notice beside them is delivered."""
    monkeypatch.setattr("crawler.notify.incident_notices.POLL_EVERY", 0.1)
    monkeypatch.setattr("crawler.notify.notice_queue.MAINTENANCE_INTERVAL", 0)
    monitor = Monitor(redis, connection, receiver)
    POISON[what](connection)
    running = asyncio.create_task(monitor.notices.run())
    await monitor.lead()
    async with asyncio.timeout(5):
        while connection.type("petals:incidents:told") != b"hash" or not connection.hexists(
            "petals:incidents:told", "since"
        ):
            await SnapshotWriter(redis).delete_unusable_keys()  # as the crawl loop does at each crawl
            await asyncio.sleep(0.05)
    await monitor.crawl(True, False, False)
    async with asyncio.timeout(15):
        while not monitor.outcomes["delivered"]:
            assert not running.done(), running
            await monitor.leadership.hold()
            await asyncio.sleep(0.05)
    await end(running)
    assert receiver.events == [("incident.opened", "Beluga-hf")]


async def test_a_clock_an_hour_ahead_keeps_no_incident_back(redis, connection, receiver, monkeypatch):
    """When the webhook was first seen is told by Redis's clock, as when an incident began is."""
    right = time.time
    monitor = Monitor(redis, connection, receiver)
    monkeypatch.setattr("time.time", lambda: right() + 3600)
    await monitor.tell()
    await monitor.crawl(True, False, False)
    await monitor.tell()
    assert receiver.events == [("incident.opened", "Beluga-hf")]
    assert abs(json.loads(receiver.received[0][1])["sent_at"] - right()) < 5


async def test_a_deposed_leader_puts_no_notice(redis, connection, receiver):
    """One that was frozen in the middle of telling, and wakes after another took over."""
    monitor = Monitor(redis, connection, receiver)
    await monitor.tell()
    await monitor.crawl(True, False, False)
    await redis.set(keys.CRAWLER_LEASE, "99:another")
    with pytest.raises(DeposedError):
        await monitor.notices.send()
    notice = Notice("1-ab:opened", "incident.opened", 1.0, (await HistoryReader(redis).incidents())[0])
    with pytest.raises(DeposedError):
        monitor.queue.put(notice, monitor.leadership.lease)
    assert connection.hkeys("petals:incidents:told") == [b"since"]
    assert not connection.exists("rq:queue:incident-notices")


async def test_the_past_and_strangers_models_are_not_told(redis, connection, receiver):
    """What was before the webhook is on the pages; anyone can announce a model and take it away again."""
    monitor = Monitor(redis, connection, receiver)
    monitor.at = time.time() - 3600
    await monitor.crawl(True, False, False)
    await monitor.tell()
    assert receiver.events == []
    monitor.at = time.time() + 60
    await monitor.crawl(True, True, False, False, official=False)
    await monitor.tell()
    assert receiver.events == []
    everyone = Monitor(redis, connection, receiver, official_only=False)
    await everyone.tell()
    assert receiver.events == [("incident.opened", "Beluga-hf")]


async def test_only_the_leader_tells(redis, connection, receiver, monkeypatch):
    """Two crawlers, one notice."""
    monkeypatch.setattr("crawler.notify.incident_notices.POLL_EVERY", 0.05)
    leader = Monitor(redis, connection, receiver)
    await leader.tell()
    await leader.crawl(True, False, False)
    standby = Monitor(redis, connection, receiver)
    assert await leader.leadership.hold()  # a lease lasts for seconds, which a busy machine may have taken until now
    assert not await standby.leadership.hold()
    running = asyncio.create_task(standby.notices.run())
    await asyncio.sleep(0.3)
    await end(running)
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
            Webhook(parse_target("http://hooks.example/x"), None, allow_private=False).deliver(b"{}")


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
        Webhook(parse_target("http://hooks.example/x"), None, allow_private=False).deliver(b"{}")
    assert connected == [("1.1.1.1", 80)]


@pytest.mark.real_parts
def test_the_next_checked_address_is_tried_where_the_first_refuses(receiver, monkeypatch):
    """A name may have addresses of which one is down; the notice goes to the other."""
    addresses = ["127.0.0.2", "127.0.0.1"]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, receiver.server_port)) for one in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: found if host == "hooks.example" else ask(host))
    ask = lambda host: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, receiver.server_port))]  # noqa: E731
    target = parse_target(f"http://hooks.example:{receiver.server_port}/hook")
    Webhook(target, None, allow_private=True).deliver(b'{"event": "x"}')
    assert [body for _, body in receiver.received] == [b'{"event": "x"}']


def test_a_name_in_another_script_is_written_as_dns_has_it():
    """And stands so in the request's Host."""
    assert parse_target("http://пример.example/hook").host == "xn--e1afmkfd.example"
    assert parse_target("https://BÜCHER.example/").host == "xn--bcher-kva.example"
    assert parse_target("http://[::1]:80/").host == "::1"


@pytest.mark.real_parts
def test_tls_is_checked(receiver):
    """An https receiver has to prove its name; one that speaks no TLS gets nothing."""
    target = parse_target(receiver.url.replace("http:", "https:"))
    with pytest.raises(DeliveryError, match="SSL"):
        Webhook(target, None, allow_private=True).deliver(b"{}")
    assert receiver.received == []


@pytest.mark.parametrize(
    "url", ["ftp://x/", "file:///etc/passwd", "http://", "http://user:pw@x/", "x", "http://x/a b", "http://x:99999/",
     "http://a b/", "http://a..b/", "http://-a/", "http://x:0/", "http://[::1", "http://x/#part",
     f"http://{'a' * 64}/"],
)  # fmt: skip
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


@pytest.mark.swarm
@pytest.mark.timeout(120)
def test_a_real_crawler_tells_a_real_receiver(swarm, redis_url, receiver, tmp_path):
    """`python -m crawler` with the settings alone: a server is killed, its model breaks, the receiver is told."""
    whole = Announcement(Model("demo-model", 12, "https://huggingface.co/demo/model"), 0, 12)
    live, redis = swarm.start(whole), sync_redis.Redis.from_url(redis_url)
    crawler = Part(
        ["crawler"], tmp_path / "crawler.log", REDIS_URL=redis_url, INITIAL_PEERS=",".join(swarm.initial_peers),
        CRAWL_PERIOD="1", DIAL_TIMEOUT="1", MODELS="demo-model:12", INCIDENT_WEBHOOK_URL=receiver.url,
        INCIDENT_WEBHOOK_SECRET=SECRET.decode(), INCIDENT_WEBHOOK_ALLOW_PRIVATE="true",
    )  # fmt: skip
    try:
        until(lambda: crawler.said('"servers": 1, "unreachable": 0'), 30, "a crawl that sees the server")
        until(
            lambda: redis.exists(keys.INCIDENTS_DELIVERED),
            30,
            "the notices' first look: they tell what begins after it",
        )
        swarm.close_server(live)
        until(lambda: receiver.received, 40, "the notice")
    finally:
        crawler.end()
        redis.close()
    headers, body = receiver.received[0]
    assert receiver.events[0] == ("incident.opened", "demo-model")
    assert headers["X-Petals-Signature"] == webhook.signature(SECRET, headers["X-Petals-Timestamp"], body)
    assert SECRET.decode() not in crawler.log.read_text()
