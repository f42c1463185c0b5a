"""Weekly reports: what a week's figures are, and that each is made once, by the leader."""

import time

import feedparser
import httpx
import msgspec
import pytest

from crawler.history.weekly_report import WeeklyReports
from shared.days import parse_week, week_of
from shared.public.reports import decode_report
from shared.snapshot import PeerState, Span, Verdict
from shared.store import keys
from shared.store import reports as store
from shared.store.fencing import DeposedError
from shared.store.history import HistoryReader
from shared.store.reports import Reports
from shared.store.rings import DAY, HOUR
from tests.api.past import ATOM, parse_xml
from tests.api.serving import serve
from tests.crawler.recording import START, record
from tests.fakes import model, peer_id, server, snapshot

WEEK = week_of(START)
HOSTILE = "<script>alert(1)</script>"
AFTER = WEEK.end + 3 * HOUR


def crawl(at, *servers, **more):
    return snapshot(model(blocks=8, servers=servers, official=True), taken_at=float(at), **more)


@pytest.fixture
async def recorded(redis):
    """Server 1 stays; 2 left in the week; 3 came in it; 4 is new, but was never online. The model broke for an hour."""
    one = server(1, 0, 8, throughput=10.0, verdict=Verdict.REACHABLE, public_name="Alice", show_public_name=True)
    two, three = server(2, 0, 8), server(3, 0, 8)
    four = server(4, 0, 8, PeerState.UNREACHABLE)
    half = msgspec.structs.replace(one, span=Span(0, 4))
    start = WEEK.start
    _, leader = await record(
        redis,
        crawl(start - DAY, one),
        crawl(start - DAY + 60, one),
        crawl(start + HOUR, one, two, four),
        crawl(start + 2 * HOUR, half),
        crawl(start + 2 * HOUR + 60, half),
        crawl(start + 3 * HOUR, one),
        crawl(start + 3 * HOUR + 60, one),
        crawl(WEEK.end - 2 * HOUR, one, three),
        crawl(WEEK.end + HOUR, one, three),
    )
    return WeeklyReports(redis, leader, now=lambda: AFTER), leader


async def the_report(redis):
    (data,) = await Reports(redis).get([WEEK.name])
    return decode_report(data)


async def test_a_report_says_what_the_week_was_like(redis, recorded):
    """Figures are of the week's hours alone, and a server that no crawl found online is not counted."""
    maker, _ = recorded
    assert await maker.make() == [WEEK.before().name, WEEK.name]
    report = await the_report(redis)
    (row,) = report.models
    assert (row.crawls, row.uptime, row.official) == (6, round(4 / 6, 6), False)  # no snapshot says that it is official
    assert report.hours_looked == 4
    assert (report.servers_online, report.server_hours) == (3, 6.0)  # a crawl speaks for its hour
    assert (report.num_new_servers, report.new_servers) == (2, tuple(sorted((peer_id(2), peer_id(3)))))
    assert report.lost_servers == (peer_id(2),)
    alice = (await HistoryReader(redis).contributors())["Alice"].in_days(range(WEEK.start // DAY, WEEK.end // DAY))[1]
    assert 0 < alice < (await HistoryReader(redis).contributors())["Alice"].block_seconds  # some was served before
    assert report.thanks == {"Alice": round(alice / HOUR, 1)}
    (outage,) = report.incidents
    assert (outage.start, outage.duration) == (WEEK.start + 2 * HOUR, HOUR)


async def test_a_report_is_made_once_and_only_by_the_leader(redis, recorded, monkeypatch):
    """A deposed crawler adds none; one that is there is never changed; only so many are kept."""
    maker, leader = recorded
    with pytest.raises(DeposedError):
        await Reports(redis).add(WEEK.name, b"{}", "another lease")
    assert not await redis.exists(keys.REPORTS)
    await maker.make()
    before = await redis.hgetall(keys.REPORTS)
    assert await maker.make() == []
    await Reports(redis).add(WEEK.name, b"{}", leader.lease)
    assert await redis.hgetall(keys.REPORTS) == before
    monkeypatch.setattr(store, "MAX_REPORTS", 2)
    await redis.hset(keys.REPORTS, "zzz", "not ours")
    await Reports(redis).add("2031-W01", b"{}", leader.lease)
    assert await Reports(redis).weeks() == ["2031-W01", WEEK.name]
    assert await redis.hlen(keys.REPORTS) == 2


async def test_the_first_week_does_not_call_everyone_new(redis):
    """Where the history begins in the week, nobody knows who was there before; a week that nobody saw has no report."""
    _, leader = await record(redis, crawl(WEEK.start + HOUR, server(1, 0, 8)))
    assert await WeeklyReports(redis, leader, now=lambda: AFTER).make() == [WEEK.name]
    report = await the_report(redis)
    assert (report.num_new_servers, report.new_servers) == (None, ())


async def test_servers_are_lost_to_who_looked(redis):
    """A monitor that stopped before the week ended saw nobody leave after that; each server is lost in one week."""
    one, two, three = (server(number, 0, 8) for number in (1, 2, 3))
    stopped = WEEK.start + 3 * DAY
    _, leader = await record(
        redis,
        crawl(WEEK.start + HOUR, one, two, three),
        crawl(stopped - HOUR, one, three),
        crawl(stopped, one),
    )
    await WeeklyReports(redis, leader, now=lambda: AFTER).make()
    assert (await the_report(redis)).lost_servers == (peer_id(2),)
    _, leader = await record(redis, crawl(WEEK.end + 2 * DAY, one))
    (name,) = await WeeklyReports(redis, leader, now=lambda: AFTER + 7 * DAY).make()
    (data,) = await Reports(redis).get([name])
    assert decode_report(data).lost_servers == (peer_id(3),)


async def test_reports_are_served_as_pages_json_and_feed(redis, redis_url, recorded):
    """Each shows the same week, and what servers announce is only text."""
    maker, leader = recorded
    await maker.make()
    report = msgspec.structs.replace(await the_report(redis), thanks={HOSTILE: 8.0}, week="2025-W48")
    (row,) = report.models
    report.models = (msgspec.structs.replace(row, dht_prefix=HOSTILE),)
    await Reports(redis).add(report.week, msgspec.json.encode(report), leader.lease)
    await redis.hset(keys.REPORTS, "2025-W49", "not a report")
    async with serve(redis_url) as base, httpx.AsyncClient(base_url=base, headers={"accept": "text/html"}) as http:
        listed = (await http.get("/api/v1/reports")).json()["reports"]
        assert [each["week"] for each in listed] == ["2025-W49", "2025-W48", WEEK.name, WEEK.before().name]
        document = (await http.get(listed[2]["url"])).json()
        assert document == msgspec.json.decode(msgspec.json.encode(await the_report(redis)))
        page = await http.get(f"/reports/{WEEK.name}")
        assert page.status_code == 200
        assert "was down for <b>1 hour</b>" in page.text
        assert f'href="/reports/{WEEK.name}"' in (await http.get("/reports")).text
        hostile = (await http.get("/reports/2025-W48")).text
        assert "<script>alert" not in hostile
        assert "&lt;script&gt;alert" in hostile
        atom = (await http.get("/reports.atom")).content
        read = feedparser.parse(atom)  # as feed readers do
        assert (read.bozo, read.version, len(read.entries)) == (False, "atom10", 3)
        assert all(entry.link.startswith(base) and entry.updated_parsed for entry in read.entries)
        feed = parse_xml(atom)
        entries = feed.findall(f"{ATOM}entry")
        assert [entry.findtext(f"{ATOM}title") for entry in entries[1:]] == [
            f"Week {week.name}" for week in (WEEK, WEEK.before())
        ]
        assert HOSTILE in entries[0].findtext(f"{ATOM}summary")
        for unknown in ("2025-W49", "2019-W01", "x", "2025-W54"):
            assert (await http.get(f"/reports/{unknown}")).status_code == 404


def test_weeks_are_those_of_iso_8601():
    """Weeks around a new year, and names that are none."""
    assert week_of(1_767_225_600).name == "2026-W01"  # Thursday, 1 January 2026
    assert week_of(1_609_459_200).name == "2020-W53"  # Friday, 1 January 2021
    assert parse_week("2020-W53").end - parse_week("2020-W53").start == 7 * DAY
    assert [parse_week(name) for name in ("2025-W53", "2025-W00", "2025W01", "0000-W01", "2025-W٠١")] == [None] * 5
    assert week_of(time.time()) == parse_week(week_of(time.time()).name)
