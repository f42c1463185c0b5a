"""Contributors over HTTP: thanked by name, labelled as claimed, harmless whatever they call themselves."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest

from api import services
from shared.snapshot import Verdict
from tests.api.past import HOSTILE, client_of, crawl
from tests.fakes import model, peer_id, server, snapshot

LOOKS_ALIKE = "АdaLab"
NAMES = ("AdaLab", LOOKS_ALIKE, HOSTILE, "healthy", "a/b?c#d", "..")


def swarm(taken_at):
    servers = tuple(
        server(n, 0, 20 - n, verdict=Verdict.REACHABLE, show_public_name=True, public_name=name)
        for n, name in enumerate(NAMES)
    )
    nameless = server(50, 0, 20, verdict=Verdict.REACHABLE, public_name="hidden")
    made_up = server(51, 0, 20, show_public_name=True, public_name="made up")
    return snapshot(model(blocks=20, servers=(*servers, nameless, made_up), official=True), taken_at=taken_at)


@pytest.fixture
async def client(redis, redis_url):
    now = time.time()
    await crawl(redis, *(swarm(now - 60 * n) for n in (2, 1, 0)))
    async with client_of(redis_url) as http:
        yield http


async def test_the_ranking_is_of_what_probes_saw(client):
    """By block-hours; names without a reached server behind them and hidden names are not there."""
    document = (await client.get("/api/v1/contributors")).json()
    assert [entry["name"] for entry in document["contributors"]] == list(NAMES)
    assert document["names_are"].startswith("claimed")
    first = document["contributors"][0]
    assert (first["rank"], first["servers"], first["blocks"], first["peer_ids"]) == (1, 1, 20, [peer_id(0)])
    assert first["served"]["all"] == {"server_hours": 0.03, "block_hours": 0.67}
    assert first["models"] == [{"dht_prefix": "demo-model", "block_hours": 0.67}]


@pytest.mark.parametrize("name", [name for name in NAMES if name != ".."])
async def test_a_page_and_a_document_each(client, name):
    """Found by the name as it stands in an address, shown as text alone, with its own feed."""
    href = f"/contributors/{quote(name, safe='')}"
    assert (await client.get(f"/api/v1{href}")).json()["contributor"]["name"] == name
    html = (await client.get(href, headers={"accept": "text/html"})).text
    assert "<script>alert" not in html
    assert "\u202e" not in html
    assert "A claimed name" in html
    assert f"/changes.atom?contributor={quote(name, safe='').replace('%20', '+')}" in html
    assert f'href="{href}"' in (await client.get("/contributors", headers={"accept": "text/html"})).text


async def test_names_that_may_deceive_say_so(client):
    """Letters of two alphabets are pointed out, a name that browsers would make an address of has no link."""
    html = (await client.get("/contributors", headers={"accept": "text/html"})).text
    row = html.rpartition(LOOKS_ALIKE)[2].split("</tr>")[0]
    assert "mixes alphabets" in row
    assert 'href="/contributors/.."' not in html
    assert (await client.get("/api/v1/contributors/nobody")).status_code == 404


async def test_names_that_nobody_has_cost_no_ranking_each(client, monkeypatch):
    """It is made once: 2,000 names take 24 ms of the one thread that draws pages, and anyone may ask for any name."""
    made, rank = [], services.ranking

    def ranking(*given):
        made.append(given)
        return rank(*given)

    monkeypatch.setattr(services, "ranking", ranking)
    for path in ("/contributors", "/api/v1/contributors"):
        for name in range(5):
            assert (await client.get(f"{path}/nobody-{name}")).status_code == 404
    assert len(made) < 5  # a minute may end meanwhile, and the history be read again
