"""The one box: what people paste leads to what they meant, on pages and in the api, and nothing they typed is lost."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest
import pytest_asyncio

from shared.snapshot import BootstrapPeer, PeerState, Verdict
from shared.store.connection import connect
from tests.api.past import client_of, crawl
from tests.fakes import model, peer_id, server, snapshot

CONTRIBUTOR = "healthy"
PAGE = {"accept": "text/html"}
in_the_modules_loop = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(redis_url_of_module):
    """One app for all that only ask."""
    now = time.time()
    one = server(1, 0, 5, public_name=CONTRIBUTOR, show_public_name=True, multiaddrs=("/ip4/8.8.8.8/tcp/31330",))
    two = server(2, 5, 8, public_name=CONTRIBUTOR, show_public_name=True, multiaddrs=("/ip4/8.8.8.8/tcp/31331",))
    boot = BootstrapPeer(peer_id(0), ("/ip4/9.9.9.9/tcp/4001",), Verdict.REACHABLE)

    def at(taken_at, *servers):
        broken = model("lab/Falcon-40b", 8, servers, official=True)
        return snapshot(broken, taken_at=taken_at, bootstrap_peers=(boot,))

    lost = server(2, 5, 8, PeerState.JOINING)
    redis = connect(redis_url_of_module, "tests")
    await crawl(redis, at(now - 180, one, two), at(now - 120, one, lost), at(now - 60, one, lost), at(now, one, two))
    async with client_of(redis_url_of_module, rate_limit=0) as http:
        yield http
    await redis.aclose()


def asked(text):
    return quote(text, safe="")


@in_the_modules_loop
async def test_what_names_one_thing_leads_to_its_page(client):
    """A peer id in a log line, a short id, an address with its port, a model's name and a page's address."""
    pastes = {
        f"Nov 25 [INFO] Running a server on {peer_id(1)}": f"/servers/{peer_id(1)}",
        f"…{peer_id(2)[-6:]}": f"/servers/{peer_id(2)}",
        "/ip4/8.8.8.8/tcp/31331": f"/servers/{peer_id(2)}",
        peer_id(0): f"/servers/{peer_id(0)}",
        "Lab/falcon-40B": "/models/lab%2FFalcon-40b",
        f"http://monitor.example/servers/{peer_id(1)}?x=1": f"/servers/{peer_id(1)}",
    }
    for paste, page in pastes.items():
        answer = await client.get(f"/search?q={asked(paste)}")
        assert (answer.status_code, answer.headers["location"]) == (303, page), paste
        if page.startswith("/servers/"):
            answer = await client.get(f"/check?q={asked(paste)}")
            assert (answer.status_code, answer.headers["location"]) == (303, page.replace("servers", "check")), paste


@in_the_modules_loop
async def test_what_names_several_is_a_list_and_the_paste_is_kept(client):
    """Two servers at one address: both are named, beside what was typed, to be found or to be checked."""
    for page, kind in (("/search", "servers"), ("/check", "check")):
        answer = await client.get(f"{page}?q=8.8.8.8", headers=PAGE)
        assert answer.status_code == 200
        assert {f'href="/{kind}/{peer_id(n)}"' in answer.text for n in (1, 2)} == {True}
        assert 'value="8.8.8.8"' in answer.text


@in_the_modules_loop
@pytest.mark.parametrize("page", ["/search?q=", "/check?q=", "/check/", "/servers/", "/api/v1/is_reachable/"])
@pytest.mark.parametrize(
    "given", ["Falcon-40", peer_id(1)[:-1], "<script>alert(1)</script> \u202e", "0OIl", "x" * 9000]
)
async def test_nothing_found_never_speaks_of_encodings(client, page, given):
    """It says what is missing, suggests what may have been meant, and keeps the text; markup in it stays text."""
    answer = await client.get(page + asked(given), headers=PAGE)
    assert answer.status_code in (200, 303, 307, 400, 404)
    for word in ("base58", "base32", "CID", "multihash", "<script>alert", "\u202e"):
        assert word not in answer.text
    if "is_reachable" in page:
        assert answer.json()["detail"].startswith("Bad peer id: ")
    elif answer.status_code != 303:
        assert 'name="q"' in answer.text
        if given in ("Falcon-40", "0OIl"):
            assert f'value="{given}"' in answer.text


@in_the_modules_loop
async def test_a_mistyped_id_is_suggested_everywhere(client):
    """One letter is missing: search, check, a server's page and is_reachable name the server that was meant."""
    mistyped = peer_id(1)[:20] + peer_id(1)[21:]
    for page in ("/search?q=", "/check?q=", "/check/", "/servers/", "/api/v1/is_reachable/"):
        assert peer_id(1) in (await client.get(page + mistyped, headers=PAGE)).text, page


@in_the_modules_loop
async def test_an_unknown_peer_has_its_own_words_and_no_dead_end(client):
    """It is not called unreachable; the page says what may be so, and offers a check."""
    answer = await client.get(f"/servers/{peer_id(77)}", headers=PAGE)
    assert answer.status_code == 404
    assert "is not known here" in answer.text
    assert "mistyped, or the server never started" in answer.text
    assert f'href="/check/{peer_id(77)}"' in answer.text


@in_the_modules_loop
async def test_suggestions_for_programs(client):
    """Models with their incidents, contributors with their servers; a name like a state is a name."""
    found = (await client.get("/api/v1/search?q=falcon")).json()
    assert [hit["kind"] for hit in found["suggestions"]] == ["model", "incident"]
    assert found["suggestions"][0]["href"] == "/models/lab%2FFalcon-40b"
    assert not found["found"]
    named = (await client.get(f"/api/v1/search?q={CONTRIBUTOR}")).json()["found"]
    assert [hit["kind"] for hit in named] == ["contributor", "server", "server"]
    assert (await client.get("/api/v1/search")).json()["sentence"].startswith("Paste a peer id")


@in_the_modules_loop
async def test_a_megabyte_is_answered(client):
    """A text that no box sends is refused or cut, never a failure of the monitor."""
    answer = await client.get("/api/v1/search?q=" + "Qm" * 20_000)
    assert answer.status_code in (200, 400, 414, 431)


async def test_help_ranks_what_is_missing_and_gives_its_command(redis, redis_url):
    """Blocks without a server come first, as the command that serves them; an odd size of a GPU changes nothing."""
    broken = model("lab/Falcon-40b", 8, (server(1, 0, 5), server(4, 7, 8)), official=True)
    weak = model("weak", 4, (server(3, 0, 4),), official=True)
    await crawl(redis, snapshot(weak, broken, taken_at=time.time()))
    async with client_of(redis_url) as client:
        text = (await client.get("/help", headers=PAGE)).text
        assert "--block_indices 5:7" in text
        assert text.index("--block_indices 5:7") < text.index("--block_indices 0:4")
        assert (await client.get("/help?gpu=17", headers=PAGE)).text == text
        assert "selected>24 GB" in (await client.get("/help?gpu=24", headers=PAGE)).text
