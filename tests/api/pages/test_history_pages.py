"""The past for people: pages, feed and badges."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from urllib.parse import quote

import pytest

from api.pages.history import ModelPast, model_history_html
from shared.store.history import ModelHistory
from shared.store.rings import HOUR, MINUTE, ModelSlot, Resolution
from tests.api.past import ATOM, HOSTILE, client_of, crawl, crawl_five, parse_xml
from tests.fakes import model, peer_id, server, snapshot


@pytest.fixture
async def client(redis, redis_url):
    await crawl_five(redis)
    async with client_of(redis_url) as http:
        yield http


def past_of(*, hours=(), minutes=(), days=(), read_at):
    """A model's past in which each `(slot, healthy)` had one crawl."""
    given = ((Resolution.HOUR, hours), (Resolution.MINUTE, minutes), (Resolution.DAY, days))
    slots = ([ModelSlot(slot, 1, int(healthy), 8, 8, 1) for slot, healthy in slots] for _, slots in given)
    return ModelPast(
        *(ModelHistory("demo", kind, tuple(s), read_at) for (kind, _), s in zip(given, slots, strict=True))
    )


def test_a_model_is_usable_since_the_last_crawl_that_found_it_broken():
    """One broken crawl is no incident, and yet the model was not usable "as long as it has been watched"."""
    now = 480_000 * HOUR
    first, last = now // MINUTE - 10, now // MINUTE - 4
    crawls = [(minute, minute != last) for minute in range(first, now // MINUTE)]
    past = past_of(hours=[(now // HOUR - 1, False)], minutes=crawls, read_at=now)
    assert past.past(usable=True).since == now - 3 * MINUTE


def test_a_window_is_drawn_where_it_tells_more_than_the_shorter_one():
    """A young history has one row of bars and the charts of one day, after midnight too; one of a year has all."""
    day = 20_000
    now = float(day * 24 * HOUR + 60)
    minutes = [(int(now // MINUTE) - 1, True)]
    short = past_of(hours=[(day * 24 - 1, True)], minutes=minutes, days=[(day - 1, True)], read_at=now)
    young = str(model_history_html(short))
    two_hours, two_days = [(day * 24 - 1, True), (day * 24, True)], [(day - 1, True), (day, True)]
    midnight = str(model_history_html(past_of(hours=two_hours, minutes=minutes, days=two_days, read_at=now)))
    hours = [(day * 24 - back, True) for back in range(719, 0, -1)]
    days = [(day - back, True) for back in range(299, 0, -1)]
    old = str(model_history_html(past_of(hours=hours, minutes=minutes, days=days, read_at=now)))
    names = ("24 hours", "7 days", "30 days", "year")
    assert [name for name in names if f"Last {name}" in young] == ["24 hours"]
    assert [name for name in names if f"Last {name}" in midnight] == ["24 hours"]
    assert [name for name in names if f"Last {name}" in old] == list(names)


async def test_the_feed_is_valid_atom(client):
    """Feed readers find ids, dates, titles and links, whatever the models are called."""
    answer = await client.get("/incidents.atom")
    assert answer.headers["content-type"].startswith("application/atom+xml")
    feed = parse_xml(answer.content)
    entries = feed.findall(f"{ATOM}entry")
    assert len(entries) == 1
    for element in (feed, *entries):
        for name in ("id", "title", "updated"):
            assert element.findtext(f"{ATOM}{name}")
    assert entries[0].find(f"{ATOM}link").get("href").startswith(str(client.base_url))
    forged = await client.get("/incidents.atom", headers={"host": 'evil"/><x'})
    assert b"evil" not in forged.content


async def test_an_incident_of_a_hostile_model_is_only_text(redis, redis_url):
    """Markup, quotes and directions in a name reach feed, page and picture as harmless text."""

    def named(*servers):
        hostile = model(HOSTILE, blocks=8, servers=servers, name=HOSTILE, short_name=HOSTILE)
        return lambda at: snapshot(hostile, taken_at=at)

    up, down = named(server(1, 0, 8)), named(server(1, 0, 5))
    now = time.time()
    await crawl(redis, up(now - 180), down(now - 120), down(now - 60))
    async with client_of(redis_url) as http:
        feed = parse_xml((await http.get("/incidents.atom")).content)
        assert "<script>" in feed.find(f"{ATOM}entry").findtext(f"{ATOM}title")
        for path in ("/incidents", f"/models/{quote(HOSTILE, safe='')}"):
            html = (await http.get(path, headers={"accept": "text/html"})).text
            assert "<script>alert" not in html
            assert "&lt;script&gt;alert" in html
        for metric in ("state", "coverage", "uptime"):
            badge = await http.get(f"/badge/{quote(HOSTILE, safe='')}.svg?metric={metric}")
            assert badge.status_code == 200
            picture = parse_xml(badge.text)
            assert not [element for element in picture.iter() if "script" in element.tag]
            assert "\u202e" not in badge.text


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/badge/official/demo.svg", 200, "official/demo: healthy"),
        ("/badge/second.svg", 200, "second: broken"),
        ("/badge/second.svg?metric=coverage", 200, "second: 2/4 blocks"),
        ("/badge/nobody.svg", 404, "petals: unknown"),
    ],
)
async def test_badges(client, path, status, words):
    """A badge is a small, cacheable SVG with its words for those that do not see it."""
    answer = await client.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "image/svg+xml"
    assert "max-age" in answer.headers["cache-control"]
    picture = parse_xml(answer.text)
    assert picture.get("role") == "img"
    assert picture.get("aria-label") == words
    assert picture.findtext("{http://www.w3.org/2000/svg}title") == words
    assert "style=" not in answer.text


async def test_the_badge_of_a_young_history_says_how_young(client):
    """60 % of five minutes is not 60 % of a month."""
    label = parse_xml((await client.get("/badge/official/demo.svg?metric=uptime")).text).get("aria-label")
    assert re.fullmatch(r"official/demo: uptime 60% of [56] minutes watched", label)


async def test_a_servers_page_lists_its_outages(client):
    """From, to, how long, how it ended; and the hours it served, in words."""
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", (await client.get(f"/servers/{peer_id(2)}")).text))
    assert re.search(r"not online in [12] minutes of it; it came back\.", words)
    assert re.search(r"Served [34] minutes of the [56] minutes watched", words)
    assert "In numbers" in words


class Elements(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("path", ["/models/official/demo", f"/servers/{peer_id(2)}", "/incidents"])
async def test_pages_show_the_past_under_their_own_policy(client, path):
    """Charts are there without scripts and inline styles, and each has words for those that do not see it."""
    answer = await client.get(path, headers={"accept": "text/html"})
    assert answer.status_code == 200
    assert "style-src 'self'" in answer.headers["content-security-policy"]
    elements = Elements(answer.text).found
    assert not [attributes for _, attributes in elements if "style" in attributes]
    (sheet,) = [each["href"] for tag, each in elements if tag == "link" and "history.css" in each.get("href", "")]
    assert (await client.get(sheet)).status_code == 200
    charts = [each for tag, each in elements if tag == "svg" and each.get("class") in ("u-bars", "curve")]
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    # Minutes of history fill one window: longer ones would say the same again.
    assert len(charts) == {"/models/official/demo": 4, "/incidents": 0}.get(path, 1)


async def test_the_page_says_what_was_down(client):
    """Uptimes and the incident stand on the model's page, in words."""
    html = (await client.get("/models/official/demo")).text
    assert re.search(r"Last 24 hours <b>60.0 % of the \d+ minutes watched</b>", html)
    assert "was not announced any more" in html
    incidents = (await client.get("/incidents")).text
    assert "One model is broken" in incidents, "the second, which never was healthy"
    assert "broken since it was first seen" in incidents
    assert "the latest crawl found it healthy" in incidents, "one healthy crawl does not end an incident"
