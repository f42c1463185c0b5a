"""What is shown elsewhere: it tells the state at its time, runs nothing of a stranger's, and keeps private what is."""

from __future__ import annotations

import re
import struct
from html import unescape

import pytest

from api.pages import Pages
from api.pages.outlines import outlines
from shared.snapshot import Location
from tests import page_snapshots as made
from tests.api.past import HOSTILE, client_of, crawl_five, parse_xml
from tests.fakes import model, peer_id, server, snapshot

VIEW = made.make_view(made.swarm_of_60())
STALE = made.make_view(made.swarm_of_60(), now=made.NOW + 4000)


def meta(html):
    """The page's `<meta>` by property or name."""
    found = re.findall(r'<meta (?:property|name)="([^"]+)" content="([^"]*)">', html)
    return {name: unescape(content) for name, content in found}


def test_a_link_unfolds_to_the_state_at_that_time():
    """Title, description with the time, and a picture under the monitor's own address."""
    shown = VIEW.snapshot.models[0]
    told = meta(Pages("https://health.example.org").model(VIEW, shown.dht_prefix))
    assert "80 of 80 blocks served" in told["og:description"]
    assert re.search(r"As of \d{4}-\d\d-\d\d \d\d:\d\d UTC", told["og:description"])
    assert told["og:image"] == f"https://health.example.org/og/models/{shown.dht_prefix}.png"
    assert "og:image" not in meta(Pages().model(VIEW, shown.dht_prefix))


def test_what_is_old_is_not_told_as_now():
    """Neither in the description nor on the card."""
    model, pages = STALE.snapshot.models[0], Pages()
    for html in (pages.embed(STALE, model), meta(pages.model(STALE, model.dht_prefix))["og:description"]):
        assert "can be used" not in html
        assert "could be used when it was last seen" in html


@pytest.mark.parametrize("number", range(3))
def test_a_picture_is_a_picture_whatever_the_names(number):
    """PNG of 1200 x 630; markup in a name is letters."""
    views = [VIEW, made.make_view(made.hostile_swarm()), made.make_view()]
    view = views[number]
    model = view.snapshot.models[0] if view.snapshot is not None else None
    for drawn in (Pages().picture(view, None), Pages().picture(view, model)):
        assert drawn.startswith(b"\x89PNG")
        assert struct.unpack(">II", drawn[16:24]) == (1200, 630)


def test_snippets_break_out_of_nothing():
    """A name with markup of HTML and of Markdown in it."""
    model = made.hostile_swarm().models[0]
    html = Pages().share(model, "https://health.example.org")
    codes = [unescape(code) for code in re.findall(r"<code>(.*?)</code>", html, re.DOTALL)]
    assert len(codes) == 4
    for code in codes:
        assert "<script" not in code
    assert re.fullmatch(r'<a href="[^"<>]*"><img src="[^"<>]*" alt="[^"<>]*"></a>', codes[1])
    assert re.fullmatch(
        r'<iframe src="[^"<>]*" title="[^"<>]*" width="\d+" height="\d+" loading="lazy"></iframe>', codes[3]
    )
    assert re.fullmatch(r"\[!\[[^\[\]]*\]\([^()<>]*\)\]\([^()<>]*\)", codes[0])


async def test_sharing_over_http(redis, redis_url):
    """Only the card may be framed; an incident has its own page; a hostile prefix is found by its address."""
    await crawl_five(redis)
    async with client_of(redis_url) as http:
        card = await http.get("/embed/models/official/demo")
        assert "frame-ancestors *" in card.headers["content-security-policy"]
        for path in ("/", "/models/official/demo", "/share/models/official/demo", "/docs"):
            assert "frame-ancestors 'none'" in (await http.get(path)).headers["content-security-policy"]
        first = await http.get("/og/models/official/demo.png")
        again = await http.get("/og/models/official/demo.png", headers={"if-none-match": first.headers["etag"]})
        assert (first.headers["content-type"], again.status_code) == ("image/png", 304)
        assert str(http.base_url).rstrip("/") in (await http.get("/share/models/official/demo")).text
        found = (await http.get("/api/v1/incidents")).json()["incidents"][0]
        page = await http.get(f"/i/{found['id']}")
        assert page.status_code == 200
        assert found["name"] in page.text
        assert (await http.get("/i/1-nobody")).status_code == 404
        assert (await http.get("/embed/models/nobody")).status_code == 404
        hostile = await http.get(http.base_url.copy_with(path=f"/embed/models/{HOSTILE}"))
        assert "<script" not in hostile.text


async def test_private_pages_show_strangers_nothing_elsewhere(redis, redis_url):
    """Lists, feeds, exports and pictures are refused, also after a trusted client had them; links unfold to nothing.

    No cache that serves others keeps them. An open page is told of new snapshots; of changes a stranger is not.
    """
    await crawl_five(redis)
    paths = ["/api/v1/servers", "/api/v1/models.csv", "/og.png", "/og/models/second.png", "/embed/models/second"]
    paths += ["/data", "/api/v1/data", "/reports", "/api/v1/reports", "/reports.atom", "/contributors"]
    paths += ["/api/v1/contributors", "/changes.atom", "/api/v1/changes", "/incidents.atom"]
    streams = [f"/events?server={peer_id(1)}", "/events?model=second", "/events?contributor=x", "/events?changes=all"]
    stranger = {"x-forwarded-for": "203.0.113.7"}
    async with client_of(redis_url, public_pages="private", trusted_proxies=["127.0.0.1"]) as http:
        for path in paths:
            shown = await http.get(path, headers={"x-forwarded-for": "10.1.2.3"})
            assert (shown.status_code, shown.headers["cache-control"]) == (200, "private, no-cache"), path
            refused = await http.get(path, headers=stranger)
            assert (refused.status_code, "trusted networks" in refused.text) == (403, True), path
        for name in ("/data/crawls-2025-11-23.csv.gz", "/reports/2025-W47", "/contributors/x", "/places", *streams):
            assert (await http.get(name, headers=stranger)).status_code == 403, name
        async with http.stream("GET", "/events", headers=stranger) as told:
            assert told.status_code == 200
        async with http.stream("GET", streams[0], headers={"x-forwarded-for": "10.1.2.3"}) as told:
            assert told.status_code == 200
        page = (await http.get("/models/second", headers={"accept": "text/html"})).text
        assert meta(page).get("robots") == "noindex"
        assert not any(name.startswith("og:") for name in meta(page))
        assert "<title>Petals Health</title>" in page
        assert (await http.get("/robots.txt")).text == "User-agent: *\nDisallow: /\n"


def test_without_outlines_there_is_the_table_alone(monkeypatch):
    """The package that has them is not installed everywhere; a small country is a dot, an unknown one in the table."""
    places = [Location(code, None, None, country_name=name) for code, name in (("SG", "Singapore"), ("ZZ", "<b>"))]
    swarm = snapshot(model("a", servers=tuple(server(n, 0, 8, location=place) for n, place in enumerate(places))))
    html = Pages().places(made.make_view(swarm, now=swarm.taken_at))
    assert re.findall(r"<circle .*?<title>(.*?)</title>", html) == ["Singapore: 1 server, 1 online"]
    assert "<bdi>&lt;b&gt;</bdi>" in html
    monkeypatch.setattr("api.pages.places.outlines", dict)
    html = Pages().places(made.make_view(swarm, now=swarm.taken_at))
    assert "There is no map" in html
    assert "Singapore" in html


def test_the_map_is_small_and_drawn_of_paths_alone():
    """A page with it stays below 64 kB, and every country is where it belongs."""
    world = outlines()
    assert sum(len(country.path) for country in world.values()) < 50_000
    assert all(re.fullmatch(r"(M[-\d ]+l[-\d ]+z)*", country.path) for country in world.values())
    assert world["US"].x < world["BR"].x < world["DE"].x < world["IN"].x < world["JP"].x
    assert world["NO"].y < world["DE"].y < world["EG"].y < world["ZA"].y


def test_places_are_counted_by_country_and_city_or_not_shown():
    """Each server once, the country with the most first; nothing where no location is known or may be shown."""
    lab = Location("FI", None, "Oulu", country_name="Finland", lat=65.0, lon=25.5)
    others = [server(n, 0, 8, location=Location("NL", None, None)) for n in (2, 3)]
    swarm = snapshot(model("a", servers=(server(1, 0, 8, location=lab), *others)), model("b", servers=(others[0],)))
    html = Pages().places(made.make_view(swarm, now=swarm.taken_at))
    rows = re.findall(r'<th scope="row"><bdi>(\w+)</bdi></th><td>(\d+)</td><td>(\d+)</td>', html)
    assert rows == [("NL", "2", "2"), ("Finland", "1", "1")]
    assert "Oulu" in html
    assert "65.0" not in html
    drawn = parse_xml(re.search(r"<svg class=\"map\".*?</svg>", html, re.DOTALL)[0])
    assert [title.text for title in drawn.iter("title")] == ["NL: 2 servers, 2 online", "Finland: 1 server, 1 online"]
    assert [label.text for label in drawn.iter("text")] == ["2", "1"]
    assert Pages().places(made.make_view(snapshot(model("a", servers=(server(1, 0, 8),))))) is None
