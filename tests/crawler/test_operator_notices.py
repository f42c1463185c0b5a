"""Operators are told through the services that they read: of what they chose, once, in one message, at a good time."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime

import msgspec
import pytest

from crawler.history.writer import HistoryWriter
from crawler.leader import Leadership
from crawler.notify.digest import MAX_TOLD, Choice, message, parse_quiet_hours
from crawler.notify.operator_notices import OperatorNotices
from crawler.notify.services import split_urls
from crawler.settings import CrawlerSettings
from shared.changes import Change, ChangeKind, Severity
from shared.snapshot import PeerState, Verdict
from shared.store import keys
from shared.store.clock import RedisClock
from shared.store.fencing import DeposedError
from tests.crawler.test_incident_notices import Receiver, receiver
from tests.fakes import model, peer_id, server, snapshot

__all__ = ["receiver"]
OFFICIAL = ("official",)


def change(kind=ChangeKind.OUTAGE, **more):
    given = {"id": "a", "kind": kind, "dht_prefix": "official", "model": "A model", "start": 0.0, "updated": 60.0,
             "state": "broken", "evidence": "The port refuses."}  # fmt: skip
    return Change(**{**given, **more})


def chosen(models="official", servers=(), contributors=(), least=Severity.CRITICAL):
    return Choice(models, servers, contributors, least)


@pytest.mark.parametrize(
    ("choice", "told", "is_told"),
    [
        (chosen(), change(), True),
        (chosen(), change(dht_prefix="another"), False),
        (chosen("all"), change(dht_prefix="another"), True),
        (chosen(("another",)), change(dht_prefix="another"), True),
        (chosen(), change(ChangeKind.DOWN), False),
        (chosen(least=Severity.WARNING), change(ChangeKind.DOWN), True),
        (chosen((), ("P",)), change(ChangeKind.DOWN, peer_id="P"), True),
        (chosen((), (), ("Ada",)), change(ChangeKind.NOT_COMPUTING, contributor="Ada"), True),
        (chosen((), ("P",)), change(ChangeKind.MOVED, peer_id="P"), False),
        (chosen((), ("P",), (), Severity.INFO), change(ChangeKind.MOVED, peer_id="P", dht_prefix="another"), True),
        (
            chosen((), (), ("Ada",), Severity.INFO),
            change(ChangeKind.MOVED, contributor="Ada", dht_prefix="another"),
            True,
        ),
        (chosen((), (), ("Ada",), Severity.INFO), change(ChangeKind.MOVED), False),
        (chosen(), change(times=3), False),
        (chosen(), change(times=4), True),
    ],
)
def test_who_is_told_of_what(choice, told, is_told):
    """Models, servers and contributors by name, from a severity on; of what flaps fewer and fewer times.

    A server's changes are never critical: of one that is named, those that are urgent for a server are told.
    """
    assert choice.takes(told, OFFICIAL) is is_told


@pytest.mark.parametrize(
    ("hours", "at", "quiet"),
    [
        ("22:00-07:00", "23:30", True),
        ("22:00-07:00", "06:59", True),
        ("22:00-07:00", "07:00", False),
        ("09:00-17:00", "12:00", True),
        ("09:00-17:00", "08:59", False),
        ("01:00-02:00 Asia/Tokyo", "16:30", True),
    ],
)
def test_quiet_hours(hours, at, quiet):
    """Over midnight too, and in the operator's own time zone."""
    now = datetime.fromisoformat(f"2026-01-02T{at}").replace(tzinfo=UTC).timestamp()
    assert parse_quiet_hours(hours).include(now) is quiet


@pytest.mark.parametrize(
    "text", ["", "22-7", "08:00-08:00", "25:00-07:00", "22:00-07:00 Mars/Base", "22:00-07:00 ../../etc/passwd"]
)
def test_quiet_hours_that_are_none(text):
    """They are refused with what was expected."""
    with pytest.raises(ValueError, match="expected|no time zone|the same"):
        parse_quiet_hours(text)


def test_a_message_says_what_since_when_why_and_where():
    """The worst comes first, many are one message, and it stays short."""
    down = change(ChangeKind.DOWN, id="b", peer_id="Qm123456", state="unreachable")
    told = message([down, change()], "https://monitor.example/")
    assert told.title == "Petals: 2 changes, first: A model is broken"
    assert told.body == (
        "A model is broken\nBroken since 1970-01-01 00:00 UTC: The port refuses.\nhttps://monitor.example/incidents#a"
        "\n\nServer …123456 is unreachable\nUnreachable since 1970-01-01 00:00 UTC: The port refuses."
        "\nhttps://monitor.example/servers/Qm123456"
    )
    assert told.tone == "failure"
    assert message([change(end=60.0)], None).tone == "success"
    storm = message([msgspec.structs.replace(down, id=str(n)) for n in range(500)], None)
    assert storm.body.endswith(f"And {500 - MAX_TOLD} more.")


def test_addresses_with_commas_stay_whole():
    """A comma belongs to an address unless the next one begins after it."""
    assert split_urls("mailto://a@b?to=c,d, slack://x\njson://y") == ["mailto://a@b?to=c,d", "slack://x", "json://y"]


class Monitor:
    """A leading crawler, as far as operators are concerned: each crawl is a minute after the last."""

    def __init__(self, redis, urls, **more):
        self.redis, self.leadership, self.outcomes = redis, Leadership(redis, "one"), Counter()
        self.writer, self.clock = HistoryWriter(redis), RedisClock(redis)
        self.at = None
        self.notices = [
            OperatorNotices(
                redis, self.leadership, self.clock, url=url, choice=chosen("all", least=Severity.WARNING), official=(),
                on_ended=lambda outcome: self.outcomes.update([outcome]),
                **{"digest_seconds": 0.0, "quiet_hours": None, "monitor_url": None} | more,
            )
            for url in urls
        ]  # fmt: skip

    async def tell(self):
        await asyncio.gather(*(each.send_due() for each in self.notices))

    async def crawl(self, *states):
        """Record a crawl in which server n is up or not."""
        assert await self.leadership.hold()
        self.at = (self.at or await self.clock.ask() - 3600) + 60
        servers = [
            server(n, 0, 8, verdict=Verdict.REACHABLE)
            if up
            else server(n, 0, 8, PeerState.UNREACHABLE, verdict=Verdict.UNREACHABLE, error="The port refuses.")
            for n, up in enumerate(states)
        ]
        await self._record(model(servers=(*servers, server(99, 0, 8, verdict=Verdict.REACHABLE))))

    async def crawl_model(self, held):
        """Record a crawl in which an official model has a server for its first blocks."""
        assert await self.leadership.hold()
        self.at += 60
        up = tuple(server(n, 0, 8, verdict=Verdict.REACHABLE) for n in (0, 1, 99))
        outage = model("official", servers=(server(7, 0, held, verdict=Verdict.REACHABLE),), official=True)
        await self._record(model(servers=up), outage)

    async def _record(self, *models):
        await self.writer.append(snapshot(*models, taken_at=self.at), self.leadership.lease)


@pytest.fixture
def service(receiver):
    pytest.importorskip("apprise", reason="the extra [notify]")
    return f"json://127.0.0.1:{receiver.server_port}/?cto=2&rto=2"


async def begin(redis, *urls, **more):
    monitor = Monitor(redis, urls, **more)
    await monitor.crawl(True, True)
    await monitor.tell()
    return monitor


async def test_a_storm_is_one_message_and_its_end_another(redis, receiver, service):
    """Two servers that go down are told together, once, and their return together as well."""
    monitor = await begin(redis, service)
    assert receiver.received == []
    for _ in range(2):
        await monitor.crawl(False, False)
    for _ in range(3):
        await monitor.tell()
    await monitor.crawl(True, True)
    for _ in range(2):
        await monitor.tell()
    down, up = (json.loads(body) for _, body in receiver.received)
    assert down["title"].startswith("Petals: 2 changes")
    assert (down["type"], up["type"]) == ("warning", "success")
    assert all(peer_id(n)[-6:] in down["message"] for n in (0, 1))
    assert "back after 2 minutes" in up["message"]
    assert monitor.outcomes == {"delivered": 2}


async def test_a_service_that_is_away_gets_all_of_it_later(redis, receiver, service):
    """What could not be delivered is part of the next message, also by another crawler; others are told meanwhile."""
    away = "json://127.0.0.1:1/?cto=1&rto=1"
    monitor = await begin(redis, service, away)
    receiver.answers = [500]
    for _ in range(2):
        await monitor.crawl(False, True)
    await monitor.tell()
    assert (receiver.received, monitor.outcomes) == ([], {"failed": 2})
    await monitor.tell()  # before the pause is over: nobody is asked
    assert monitor.outcomes == {"failed": 2}
    successor = Monitor(redis, (service,))
    successor.leadership = successor.notices[0]._leadership = monitor.leadership
    await successor.tell()
    assert "unreachable" in json.loads(receiver.received[0][1])["title"]


async def test_an_outage_that_gets_worse_is_told_once(redis, receiver, service):
    """And its end. Each further block that it loses updates its entry, which may be the first that a service sees."""
    monitor = await begin(redis, service)
    for held in (8, 5, 5, 4):
        await monitor.crawl_model(held)
    await monitor.tell()
    for held in (3, 2):
        await monitor.crawl_model(held)
        await monitor.tell()
    for _ in range(2):
        await monitor.crawl_model(8)
    await monitor.tell()
    titles = [json.loads(body)["title"] for _, body in receiver.received]
    assert titles == ["official is broken", "official works again"]


async def test_quiet_hours_and_digests_hold_it_back(redis, receiver, service):
    """Nobody is told at night; what happened is told in one message afterwards."""
    monitor = await begin(redis, service, quiet_hours=parse_quiet_hours("00:00-23:59"))
    for _ in range(2):
        await monitor.crawl(False, True)
    await monitor.tell()
    (notices,) = monitor.notices
    notices._quiet_hours, notices._digest_seconds = None, 3600.0
    await monitor.tell()
    assert receiver.received == []
    notices._digest_seconds = 0.0
    await monitor.tell()
    assert len(receiver.received) == 1


async def test_a_deposed_crawler_moves_nothing(redis, receiver, service):
    """Positions are fenced, and a bad one in Redis is as none."""
    monitor = await begin(redis, service)
    await redis.set(keys.CRAWLER_LEASE, "another")
    for field in await redis.hkeys(keys.NOTICE_POSITIONS):
        await redis.hset(keys.NOTICE_POSITIONS, field, b"\xff nonsense")
    with pytest.raises(DeposedError):
        await monitor.tell()
    assert receiver.received == []


async def test_no_service_holds_up_another(redis, receiver, service):
    """Neither one that fails in a way of its own (apprise does not catch all), nor one that takes its time."""
    with Receiver() as slow:
        threading.Thread(target=slow.serve_forever, args=(0.05,), daemon=True).start()
        slow.answers = AfterAnother(receiver)
        monitor = await begin(
            redis,
            "mailto://user:hunter2@example.org?smtp=a..b",
            service.replace(str(receiver.server_port), str(slow.server_port)),
            service,
        )
        for _ in range(2):
            await monitor.crawl(False, True)
        await monitor.tell()
        slow.shutdown()
    assert (len(slow.received), len(receiver.received)) == (1, 1)
    assert monitor.outcomes == {"failed": 1, "delivered": 2}


async def test_a_service_that_never_answers_takes_one_thread(redis, service, monkeypatch):
    """Crawls, exports and the webhook need threads too: there are as few as the machine has cores, and some."""
    monkeypatch.setattr("crawler.notify.operator_notices.SEND_TIMEOUT", 0.02)
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monitor = await begin(redis, f"json://127.0.0.1:{silent.getsockname()[1]}/?rto=9")
        for _ in range(2):
            await monitor.crawl(False, True)
        for _ in range(3):
            monitor.notices[0]._retry_at = 0.0
            await monitor.tell()
        assert monitor.outcomes == {"failed": 3}
        assert threading.active_count() <= before + 1
        silent.settimeout(20)
        silent.accept()[0].close()  # importing apprise may take longer than the rest of this test
        await asyncio.wait([monitor.notices[0]._sending])


class AfterAnother(list):
    """Answers of a receiver that waits until another one got something."""

    def __init__(self, other):
        super().__init__([204])
        self.other = other

    def pop(self, _=0):
        while not self.other.received:
            time.sleep(0.01)
        return 204


@pytest.mark.parametrize("position", [b"9999999999999-0", b"18446744073709551615-18446744073709551615"])
async def test_a_position_beyond_the_stream_is_as_none(redis, receiver, service, position):
    """A bad entry in Redis, or a stream that was begun anew: it costs what happened before, not all that follows."""
    monitor = await begin(redis, service)
    for field in await redis.hkeys(keys.NOTICE_POSITIONS):
        await redis.hset(keys.NOTICE_POSITIONS, field, position)
    await monitor.tell()
    for _ in range(2):
        await monitor.crawl(False, True)
    await monitor.tell()
    assert len(receiver.received) == 1


async def test_a_clock_that_is_set_back_holds_nothing_up(redis, receiver, service):
    """Redis gives a stream's entries later ids than the last one, whatever its clock says: those are not waited for.

    And a new service is not told what happened before it was set.
    """
    ahead = int(time.time() * 1000) + 7_200_000
    monitor = await begin(redis, service, digest_seconds=60.0)
    await redis.xadd(keys.CHANGES, {"id": "x", "change": msgspec.msgpack.encode(change(id="x"))}, id=f"{ahead}-0")
    later = Monitor(redis, (f"{service}&new=1",))
    later.notices[0]._leadership = monitor.leadership
    for _ in range(2):
        await later.tell()
    assert later.outcomes == {}
    await monitor.tell()
    assert len(receiver.received) == 1


@pytest.mark.real_parts
def test_the_test_notice(receiver, service):
    """`--test-notice` reaches every receiver, says which fail, and shows no secret."""
    settings = {
        "NOTIFY_URLS": f"{service},json://user:hunter2@127.0.0.1:1/secret?cto=1,mailto://u:hunter2@example.org?smtp=a..b",
        "INITIAL_PEERS": "",
    }
    ran = subprocess.run(
        [sys.executable, "-m", "crawler", "--test-notice"],
        env={**os.environ, **settings}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout.splitlines()[0]) == (1, "sent  json://***"), ran.stderr
    assert [line.split(":")[0] for line in ran.stdout.splitlines()[1:]] == ["FAIL  json", "FAIL  mailto"]
    assert "hunter2" not in ran.stdout + ran.stderr
    assert "nothing happened" in json.loads(receiver.received[0][1])["message"]


@pytest.mark.parametrize("models", ["official,my-model", "all, my-model", "my model", "a.b"])
def test_models_that_nobody_can_have_are_refused(models):
    """`official` and `all` stand alone: beside others each would be read as the name of a model."""
    with pytest.raises(ValueError, match=r"stands alone|the prefix has"):
        CrawlerSettings(notify_models=models)


def test_settings_are_tried_before_work(monkeypatch):
    """An address that apprise does not know is refused, and never quoted."""
    pytest.importorskip("apprise", reason="the extra [notify]")
    with pytest.raises(ValueError, match="does not know such an address") as refused:
        CrawlerSettings(notify_urls="nonsense://hunter2")
    assert "hunter2" not in str(refused.value)
    settings = CrawlerSettings(notify_urls="json://user:hunter2@localhost", notify_quiet_hours="22:00-07:00")
    assert "hunter2" not in repr(settings)
