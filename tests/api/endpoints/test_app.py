"""The api through a real uvicorn and a real Redis: every form of the snapshot, and what is said without one."""

import asyncio
import gzip
import threading
import time

import brotli
import httpx
import pytest
from backports import zstd

from api.app import create_app
from api.responses import per_snapshot
from api.settings import ApiSettings
from crawler.leader import Leadership
from shared.snapshot import BootstrapPeer, CrawlStatus, Location, PeerState, Verdict
from shared.store import keys
from shared.store.connection import connect
from shared.store.snapshots import SnapshotWriter
from tests.api.serving import serve
from tests.fakes import model, peer_id, server, snapshot


class Publisher:
    def __init__(self, redis):
        self._writer, self._leader = SnapshotWriter(redis), Leadership(redis, "tests")

    async def publish(self, document):
        await self._leader.hold()
        await self._writer.publish(document, self._leader.lease)

    async def report(self, status):
        await self._leader.hold()
        await self._writer.report(status, self._leader.lease)


@pytest.fixture
def publisher(redis):
    return Publisher(redis)


@pytest.fixture
async def client(redis_url):
    async with serve(redis_url) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        yield http


async def until_served(client, path="/api/v1/state", seconds=20):
    deadline = time.monotonic() + seconds
    while (answer := await client.get(path)).status_code != 200:
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.02)
    return answer


def rich():
    """A swarm with everything in it that clients read, taken now: what is minutes old is told as stale."""
    return snapshot(
        model(
            "demo-model",
            12,
            (
                server(
                    1, 0, 12, public_name="Ada", show_public_name=True, version="2.2.0", cache_tokens_left=480,
                    next_pings={peer_id(2): 0.02, peer_id(3): float("inf")}, adapters=("a/lora",),
                    multiaddrs=("/ip4/192.0.2.1/tcp/1",), location=Location("NL", None, "Utrecht"),
                ),
                server(2, 3, 9, PeerState.UNREACHABLE, error="refused", verdict=Verdict.UNREACHABLE),
            ),
            official=True, repository="https://huggingface.co/demo/model",
        ),
        top_contributors={"Ada": 12},
    )  # fmt: skip


async def test_the_page_is_up_before_the_first_crawl_and_says_so(client):
    """No data is not an empty swarm: the page explains, the data endpoints say 503."""
    page = await client.get("/")
    assert page.status_code == 200
    assert "no snapshot" in page.text.lower() or "first crawl" in page.text.lower()
    for path in ("/api/v1/state", "/swarm.txt"):
        answer = await client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert "no snapshot" in answer.json()["detail"]
    assert (await client.get("/livez")).status_code == 200
    assert (await client.get("/readyz")).json()["snapshot_age"] is None
    assert "petals_models" not in (await client.get("/metrics")).text


async def test_a_snapshot_of_another_version_is_not_called_a_crawl_that_has_not_ended(client, publisher, redis):
    """A replica that has nothing to show and cannot read what there is leaves requests to others, and says why."""
    await redis.xadd(keys.SNAPSHOTS, {"snapshot": b"of a later version"})
    await publisher.report(CrawlStatus(time.time(), ok=True, snapshot_taken_at=time.time()))
    async with asyncio.timeout(5):
        while (ready := await client.get("/readyz")).status_code == 200:
            await asyncio.sleep(0.02)
    assert ready.json()["status"] == "cannot read the snapshot that there is"
    assert "cannot read" in (await client.get("/swarm.txt")).json()["detail"]
    async with asyncio.timeout(5):
        while "another version" not in (page := (await client.get("/")).text):
            await asyncio.sleep(0.02)
    assert "is running" not in page
    await publisher.publish(rich())
    await until_served(client)
    assert (await client.get("/readyz")).status_code == 200


async def test_a_failed_first_crawl_is_explained(client, publisher):
    """Which peers were tried, and what failed."""
    peers = (BootstrapPeer(peer_id(7), ("/ip4/127.0.0.1/tcp/9",), Verdict.UNREACHABLE, "connection refused"),)
    await publisher.report(
        CrawlStatus(time.time(), ok=False, error="no bootstrap peer answered", bootstrap_peers=peers)
    )
    deadline = time.monotonic() + 20
    while "no bootstrap peer answered" not in (page := (await client.get("/")).text).lower():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert "/ip4/127.0.0.1/tcp/9" in page
    assert "INITIAL_PEERS" in page
    assert "make demo" in page
    assert "no bootstrap peer answered" in (await client.get("/api/v1/state")).json()["detail"]


async def test_the_state_has_the_names_and_shapes_that_clients_read(client, publisher):
    """The public contract, field by field."""
    published = rich()
    await publisher.publish(published)
    state = (await until_served(client)).json()
    assert state["bootstrap_states"] == ["online"]
    assert state["top_contributors"] == {"Ada": 12}
    assert state["reachability_issues"] == []
    assert state["last_updated"] == published.taken_at
    assert (state["update_period"], state["update_duration"]) == (60.0, 1.5)
    (report,) = state["model_reports"]
    assert report.keys() >= {
        "name", "short_name", "state", "num_blocks", "repository", "dht_prefix", "official", "limited", "server_rows",
    }  # fmt: skip
    first = next(row for row in report["server_rows"] if row["peer_id"] == peer_id(1))
    other = next(row for row in report["server_rows"] if row["peer_id"] == peer_id(2))
    assert first["short_peer_id"] == "..." + peer_id(1)[-6:]
    assert first["peer_ip_info"] == {
        "location": {
            "status": "success", "country": "NL", "region": None, "city": "Utrecht", "countryCode": "NL",
        },
        "multiaddrs": ["/ip4/192.0.2.1/tcp/1"],
    }  # fmt: skip
    assert other["peer_ip_info"] == "unknown"
    assert (first["state"], other["state"]) == ("online", "unreachable")
    assert first["span"]["server_info"].keys() == {
        "state", "throughput", "start_block", "end_block", "public_name", "version", "network_rps", "forward_rps",
        "inference_rps", "adapters", "torch_dtype", "quant_type", "using_relay", "cache_tokens_left", "next_pings",
    }  # fmt: skip
    assert first["span"]["server_info"]["next_pings"] == {peer_id(2): 0.02, peer_id(3): None}
    assert first["adapters"] == [{"name": "a/lora", "short_name": "lora"}]
    assert first["cache_tokens_left_per_block"] == 20
    assert other["pings_to_me"] == {peer_id(1): 0.02}


async def test_bodies_come_in_the_best_encoding_and_only_when_they_changed(client, publisher):
    """zstd, br, gzip or none; a strong ETag for each; 304; HEAD; freshness until the next crawl."""
    # A body large enough to be worth compressing.
    await publisher.publish(snapshot(model(blocks=50, servers=tuple(server(n, 0, 50) for n in range(30)))))
    plain = await until_served(client)
    for accepted, encoding, unpack in (
        ("gzip", "gzip", gzip.decompress),
        ("gzip, deflate, br", "br", brotli.decompress),
        ("gzip, deflate, br, zstd", "zstd", zstd.decompress),
        ("zstd;q=0, br;q=0.1, gzip;q=0.5", "gzip", gzip.decompress),
    ):
        async with client.stream("GET", "/api/v1/state", headers={"accept-encoding": accepted}) as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])
        assert answer.headers["content-encoding"] == encoding
        assert unpack(raw) == plain.content
        again = await client.get(
            "/api/v1/state", headers={"accept-encoding": accepted, "if-none-match": answer.headers["etag"]}
        )
        assert (again.status_code, again.content) == (304, b"")
    none = await client.get("/api/v1/state", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in none.headers
    assert "Accept-Encoding" in none.headers["vary"]
    assert none.headers["cache-control"].startswith("public, max-age=")
    head = await client.head("/api/v1/state", headers={"accept-encoding": "identity"})
    assert (head.content, head.headers["content-length"]) == (b"", none.headers["content-length"])


async def test_terminals_get_the_picture(client, publisher):
    """At /swarm.txt and for Accept: text/plain; browsers get the page; colours on request."""
    await publisher.publish(rich())
    await until_served(client)
    picture = (await client.get("/swarm.txt")).text
    assert picture.startswith("Swarm state: healthy")
    assert f"{'...' + peer_id(1)[-6:]}, 100.0 RPS |############|" in picture
    assert "|   ??????   |" in picture
    assert (await client.get("/", headers={"accept": "text/plain"})).text == picture
    browser = await client.get("/", headers={"accept": "text/html,application/xhtml+xml,text/plain;q=0.5"})
    assert browser.headers["content-type"].startswith("text/html")
    assert "\x1b[32m" in (await client.get("/swarm.txt?color=1")).text


async def test_pages_of_models_and_servers(client, publisher):
    """Found by prefix (also with slashes) and by peer id; unknown ones are a 404 with near matches."""
    await publisher.publish(snapshot(model("org/demo-model", servers=(server(1, 0, 8),))))
    await until_served(client)
    assert (await client.get("/models/org/demo-model")).status_code == 200
    assert (await client.get(f"/servers/{peer_id(1)}")).status_code == 200
    missing = await client.get("/models/org/demo-mode", headers={"accept": "text/html"})
    assert missing.status_code == 404
    assert "org/demo-model" in missing.text
    assert (await client.get("/servers/nonsense")).json()["status"] == 404
    csp = (await client.get("/")).headers["content-security-policy"]
    assert "default-src 'none'" in csp
    assert "unsafe-inline" not in csp


async def test_errors_are_problem_documents(client):
    """Wrong paths and methods, as RFC 9457 says; people get a page."""
    missing = await client.get("/api/v2/state")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
    wrong = await client.post("/api/v1/state")
    assert (wrong.status_code, wrong.json()["title"]) == (405, "Method Not Allowed")
    page = await client.get("/nowhere", headers={"accept": "text/html"})
    assert page.status_code == 404
    assert page.headers["content-type"].startswith("text/html")


async def test_addresses_can_be_hidden(redis_url, publisher):
    """The contract stays: `peer_ip_info` is "unknown" everywhere."""
    await publisher.publish(rich())
    async with serve(redis_url, peer_addresses="hidden") as url, httpx.AsyncClient(base_url=url) as client:
        state = (await until_served(client)).text
        page = (await client.get(f"/servers/{peer_id(1)}")).text
    assert '"peer_ip_info":"unknown"' in state
    assert "192.0.2.1" not in state + page
    assert "Utrecht" not in state + page


async def test_only_trusted_proxies_are_believed(redis_url):
    """A caller cannot choose its own address."""
    spoofed = {"x-forwarded-for": "203.0.113.9"}
    path = f"/api/v1/is_reachable/{peer_id(1)}"
    options = {"rate_limit": 1, "trusted_networks": []}
    async with serve(redis_url, **options) as url, httpx.AsyncClient(base_url=url) as client:
        await client.get(path, headers=spoofed)
        assert (await client.get(path, headers={"x-forwarded-for": "203.0.113.10"})).status_code == 429
    async with serve(redis_url, trusted_proxies=["127.0.0.1"], **options) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            codes = [
                (await client.get(path, headers={"x-forwarded-for": f"198.51.100.7, 203.0.113.{n}"})).status_code
                for n in (1, 2)
            ]
    assert codes == [503, 503]  # two addresses, each within its budget; no worker runs here


async def test_open_pages_are_told_of_a_new_snapshot(client, publisher):
    """Server-sent events: the id of what is there, then each new one; a reader that knows it is not told again."""
    await publisher.publish(rich())
    await until_served(client)

    async def read(stop, **headers):
        seen = []
        async with client.stream("GET", "/events", headers=headers) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            async for line in stream.aiter_lines():
                seen.append(line)
                if stop(line):
                    return seen

    first = await asyncio.wait_for(read(lambda line: line.startswith("data:")), 5)
    known = next(line for line in first if line.startswith("id:")).split()[1]
    assert first[0] == "retry: 3000"
    waiting = asyncio.create_task(read(lambda line: line.startswith("data:"), **{"last-event-id": known}))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await publisher.publish(snapshot())
    told = await asyncio.wait_for(waiting, 5)
    assert "event: snapshot" in told
    assert known not in told[-1]


async def test_an_old_snapshot_is_served_with_its_age_while_redis_is_away(redis_server):
    """The last good snapshot stays; metrics of the swarm end when it is stale, its age goes on."""
    redis = connect(redis_server.url, "tests")
    await Publisher(redis).publish(snapshot(taken_at=time.time() - 10_000))
    async with serve(redis_server.url) as url, httpx.AsyncClient(base_url=url) as client:
        await until_served(client)
        redis_server.kill()
        await asyncio.sleep(0.5)
        assert (await client.get("/api/v1/state")).status_code == 200
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        metrics = (await client.get("/metrics")).text
    age = next(line for line in metrics.splitlines() if line.startswith("petals_snapshot_age_seconds "))
    assert float(age.split()[1]) > 9_999
    assert "petals_models" not in metrics
    assert "\nservers_num" not in metrics
    await redis.aclose()


async def test_a_new_replica_knows_the_swarm_before_it_listens(publisher, redis_url, monkeypatch):
    """Beside others that know it, "there is no snapshot yet" would be wrong; what takes longest is waited for."""
    make, may = per_snapshot._Documents.make, threading.Event()
    monkeypatch.setattr(per_snapshot._Documents, "make", lambda *args, **more: may.wait(60) and make(*args, **more))
    await publisher.publish(rich())
    async with serve(redis_url) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        state = asyncio.create_task(client.get("/api/v1/state"))
        picture = {"accept": "text/plain"}
        for path, headers in (("/", {}), ("/metrics", {}), ("/swarm.txt", {}), ("/", picture)):
            answer = await client.get(path, headers=headers)
            assert answer.status_code == 200
            assert "demo-model" in answer.text
        assert not state.done()
        may.set()
        assert "demo-model" in (await state).text


async def test_text_asked_for_before_the_first_snapshot_is_an_error(client):
    """A terminal gets no page of HTML."""
    answer = await client.get("/", headers={"accept": "text/plain"})
    assert answer.status_code == 503
    assert "no snapshot" in answer.text
    assert "<html" not in answer.text


async def test_a_replica_on_an_empty_redis_serves_at_once(redis_url):
    """It has read Redis, and there is nothing: it waits for no crawl."""
    app = create_app(ApiSettings(redis_url=redis_url))
    async with app.router.lifespan_context(app):
        assert app.state.services.swarm.connected
        assert app.state.services.swarm.snapshot is None
