"""Following servers and models: feeds for feed readers, JSON for programs, events for open pages; from a real Redis."""

from __future__ import annotations

import asyncio
import time

import pytest

from shared.snapshot import PeerState, Verdict
from shared.store import keys
from tests.api.past import ATOM, HOSTILE, client_of, crawl, parse_xml
from tests.fakes import model, peer_id, server, snapshot

WHY = "The port refuses."


def reached(number, *, name=None, **more):
    return server(number, 0, 8, verdict=Verdict.REACHABLE, show_public_name=bool(name), public_name=name, **more)


def refused(number):
    return server(number, 0, 8, PeerState.UNREACHABLE, verdict=Verdict.UNREACHABLE, error=WHY)


def crawls(now, pattern, *, number=1, name=None, prefix="owner/demo"):
    other = reached(9)
    return [
        snapshot(
            model(prefix, servers=(other, reached(number, name=name) if up == "+" else refused(number))),
            taken_at=now - 60 * (len(pattern) - place),
        )
        for place, up in enumerate(pattern)
    ]


async def until(read, found):
    """Return what `read` returns as soon as `found` accepts it."""
    async with asyncio.timeout(30):
        while not found(answer := await read()):
            await asyncio.sleep(0.02)
    return answer


@pytest.fixture
async def client(redis, redis_url):
    await crawl(redis, *crawls(time.time(), "+--++", name=HOSTILE))
    async with client_of(redis_url) as http:
        await until(lambda: http.get("/api/v1/changes?limit=1000"), lambda answer: answer.json()["changes"])
        yield http


async def test_a_feed_per_server_model_contributor_and_swarm(client):
    """Each has the change once, in words with its evidence, under one id; what nobody knows has an empty feed."""
    entries = []
    for parameters in ({}, {"server": peer_id(1)}, {"model": "owner/demo"}, {"contributor": HOSTILE}):
        answer = await client.get("/changes.atom", params=parameters)
        assert answer.headers["content-type"].startswith("application/atom+xml")
        (entry,) = parse_xml(answer.content).findall(f"{ATOM}entry")
        entries.append(entry)
        cached = {"if-none-match": answer.headers["etag"]}
        assert (await client.get("/changes.atom", params=parameters, headers=cached)).status_code == 304
    assert len({entry.findtext(f"{ATOM}id") for entry in entries}) == 1
    assert WHY.rstrip(".") + "; back after 2 minutes." in entries[0].findtext(f"{ATOM}summary")
    assert entries[0].find(f"{ATOM}link").get("href") == f"{client.base_url}/servers/{peer_id(1)}"
    for parameters in ({"server": "nobody"}, {"model": "\x00<"}, {"server": peer_id(9)}):
        feed = parse_xml((await client.get("/changes.atom", params=parameters)).content)
        assert not feed.findall(f"{ATOM}entry")
        assert feed.findtext(f"{ATOM}updated")[:4] == time.strftime("%Y", time.gmtime())


async def test_the_feeds_are_what_rfc_4287_asks_for(client):
    """Every element that a feed and an entry must have stands there once, dates and ids are well formed."""
    for path in ("/changes.atom", "/incidents.atom", "/reports.atom", "/changes.atom?server=x"):
        feed = parse_xml((await client.get(path)).content)
        assert feed.find(f"{ATOM}author/{ATOM}name") is not None
        ids = []
        for element in (feed, *feed.findall(f"{ATOM}entry")):
            for name in ("id", "title", "updated"):
                assert len(element.findall(f"{ATOM}{name}")) == 1
            ids.append(element.findtext(f"{ATOM}id"))
            assert ids[-1].startswith("urn:uuid:")
            time.strptime(element.findtext(f"{ATOM}updated"), "%Y-%m-%dT%H:%M:%SZ")
            links = [(link.get("rel"), link.get("type")) for link in element.findall(f"{ATOM}link")]
            assert links.count(("alternate", "text/html")) == 1
        assert len(set(ids)) == len(ids)
        assert feed.find(f"{ATOM}link[@rel='self']").get("href").endswith(path)


async def test_the_same_as_json(client):
    """Programs get the same changes with their words and how urgent they are."""
    (change,) = (await client.get("/api/v1/changes", params={"server": peer_id(1)})).json()["changes"]
    assert (change["kind"], change["severity"], change["state"]) == ("down", "warning", "unreachable")
    assert change["contributor"] == HOSTILE
    assert change["text"].endswith("back after 2 minutes.")
    assert (await client.get("/api/v1/changes?limit=0")).status_code == 400


async def test_events_carry_the_changes_of_what_is_watched(redis, client):
    """A stream of one server gets its change with the words of the feed, that of another server gets nothing."""

    opened = asyncio.Semaphore(0)

    async def first_change(parameters):
        async with client.stream("GET", "/events", params=parameters) as answer:
            lines = answer.aiter_lines()
            assert await anext(lines) == "retry: 3000"
            opened.release()
            async for line in lines:
                if line == "event: change":
                    return await anext(lines)
        return None

    watching = asyncio.create_task(first_change({"server": peer_id(1)}))
    everybody = asyncio.create_task(first_change({"changes": "all"}))
    stranger = asyncio.create_task(first_change({"model": "another"}))
    for _ in (watching, everybody, stranger):
        await opened.acquire()  # what was before it is not told
    await crawl(redis, *crawls(time.time() + 120, "--", name=HOSTILE))
    async with asyncio.timeout(8):
        assert WHY.rstrip(".") in await watching
        assert peer_id(1) in await everybody
    assert not stranger.done()
    stranger.cancel()


async def test_pages_name_their_feed(client):
    """A feed reader that is given the page finds the feed; a person without scripts has a link to it."""
    for path, feed in (
        ("/", "/changes.atom"),
        ("/models/owner%2Fdemo", "/changes.atom?model=owner%2Fdemo"),
        (f"/servers/{peer_id(1)}", f"/changes.atom?server={peer_id(1)}"),
    ):
        html = (await client.get(path, headers={"accept": "text/html"})).text
        assert f'<link rel="alternate" type="application/atom+xml" title="Changes" href="{feed}">' in html
        assert f'<a class="button" href="{feed}"' in html


async def test_a_feed_reader_understands_them(client):
    """feedparser, which many readers are built on, finds nothing to complain of, and all that it shows."""
    feedparser = pytest.importorskip("feedparser", reason="a development tool")
    for path in ("/changes.atom", "/incidents.atom", f"/changes.atom?server={peer_id(9)}"):
        feed = feedparser.parse((await client.get(path)).content)
        assert not feed.bozo, feed.get("bozo_exception")
        assert feed.version == "atom10"
        assert feed.feed.updated_parsed.tm_year >= 2025
        for entry in feed.entries:
            assert entry.id.startswith("urn:uuid:")
            assert entry.link.startswith(str(client.base_url))
            assert entry.updated_parsed >= entry.published_parsed


async def test_junk_in_redis_costs_itself_alone(redis, client):
    """Entries that are no changes and counters that are none are passed over; what is good stays."""
    for junk in ({"change": b"\xff"}, {"id": "x"}, {"change": b"\x81\xa2id\xa1x"}):
        await redis.xadd(keys.CHANGES, junk)
    await redis.hset(keys.CONTRIBUTORS, mapping={"junk": b"\x93\x01", b"\xff": b"\xff"})
    await redis.hset(keys.WATCHED_SERVERS, mapping={"junk": b"\xff"})
    await crawl(redis, *crawls(time.time() + 120, "--", name=HOSTILE))
    found = await until(lambda: client.get("/api/v1/changes"), lambda answer: answer.json()["changes"][0]["times"] == 2)
    assert len(found.json()["changes"]) == 1
    assert (await client.get("/api/v1/contributors")).status_code == 200
    assert await redis.hexists(keys.WATCHED_SERVERS, "junk") == 0
