"""What the history, the incidents and the parts of the state promise over HTTP, from a real Redis."""

from __future__ import annotations

from urllib.parse import quote

import pytest
import pytest_asyncio

from shared.store.connection import connect
from shared.store.rings import HOUR
from tests.api.past import client_of, crawl_five, parse_xml
from tests.fakes import peer_id

in_the_modules_loop = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def now(redis_url_of_module):
    """When five crawls had been made."""
    redis = connect(redis_url_of_module, "tests")
    yield await crawl_five(redis)
    await redis.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(now, redis_url_of_module):
    """One app for all that only ask."""
    async with client_of(redis_url_of_module, rate_limit=0) as http:
        yield http


@in_the_modules_loop
async def test_a_models_history_at_every_resolution(client):
    """Minutes, hours and days of one model, with a slash in its prefix, and its uptime."""
    for resolution, step, least in (("minute", 60, 5), ("hour", 3600, 1), ("day", 86400, 1)):
        answer = await client.get(f"/api/v1/history/models/official/demo?resolution={resolution}")
        document = answer.json()
        assert (document["resolution"], document["step"]) == (resolution, step)
        assert len(document["points"]) >= least
        assert sum(point["crawls"] for point in document["points"]) == 5
        assert document["uptime"]["24h"] == pytest.approx(0.6)
        assert answer.headers["access-control-allow-origin"] == "*"
    encoded = await client.get("/api/v1/history/models/official%2Fdemo")
    assert encoded.json()["resolution"] == "hour"


@in_the_modules_loop
async def test_a_servers_history(client, now):
    """First seen, sessions, the present one, and the uptime."""
    document = (await client.get(f"/api/v1/history/servers/{peer_id(2)}")).json()
    assert document["first_seen"] == int(now - 300)
    assert document["sessions"] == 2
    assert document["online_since"] == int(now - 60)
    assert document["uptime"]["24h"] == pytest.approx(0.6)
    assert all(point["start"] % HOUR == 0 for point in document["points"])
    unreachable = (await client.get(f"/api/v1/history/servers/{peer_id(3)}")).json()
    assert (unreachable["online_since"], unreachable["last_online"], unreachable["uptime"]["24h"]) == (None, None, 0.0)


@in_the_modules_loop
async def test_models_and_servers_by_name(client):
    """The parts of the state say the same as the state."""
    state = (await client.get("/api/v1/state")).json()
    listed = (await client.get("/api/v1/models")).json()["models"]
    assert [each["dht_prefix"] for each in listed] == [each["dht_prefix"] for each in state["model_reports"]]
    for report in state["model_reports"]:
        alone = (await client.get(f"/api/v1/models/{quote(report['dht_prefix'], safe='')}")).json()
        assert alone["server_rows"] == report["server_rows"]
        assert alone["covered_blocks"] == sum(map(bool, alone["redundancy"]))
        for row in report["server_rows"]:
            shares = (await client.get(f"/api/v1/servers/{row['peer_id']}")).json()["shares"]
            assert row in [share["row"] for share in shares if share["dht_prefix"] == report["dht_prefix"]]


@in_the_modules_loop
async def test_a_bootstrap_peer_is_known_too(client):
    """It serves nothing, and is no stranger for that."""
    document = (await client.get(f"/api/v1/servers/{peer_id(0)}")).json()
    assert (document["bootstrap_state"], document["shares"]) == ("online", [])


@pytest.mark.parametrize(
    ("path", "status", "near"),
    [
        ("/api/v1/models/official/dem", 404, "official/demo"),
        ("/api/v1/history/models/official/dem", 404, "official/demo"),
        ("/api/v1/history/models/second?resolution=week", 400, None),
        ("/api/v1/history/models/second?resolution=", 400, None),
        (f"/api/v1/servers/{peer_id(1)[-6:]}", 400, peer_id(1)),
        (f"/api/v1/history/servers/{peer_id(1)[:-1]}", 400, peer_id(1)),
        (f"/api/v1/servers/{peer_id(77)}", 404, None),
        (f"/api/v1/history/servers/{peer_id(77)}", 404, None),
        ("/api/v1/incidents?limit=0", 400, None),
        ("/api/v1/incidents?limit=many", 400, None),
        ("/api/v1/incidents?limit=٣", 400, None),
        ("/badge/second.svg?metric=mood", 400, None),
    ],
)
@in_the_modules_loop
async def test_errors_are_problem_documents_that_help(client, path, status, near):
    """A malformed question is a 400, an unknown name a 404 that names what may have been meant."""
    answer = await client.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["access-control-allow-origin"] == "*"
    document = answer.json()
    assert document["status"] == status
    assert near is None or near in document["near_matches"]


@pytest.mark.parametrize(
    "path", ["/api/v1/models", "/api/v1/models/x", "/api/v1/servers/{peer}", "/api/v1/history/models/x",
             "/api/v1/history/servers/{peer}"],
)  # fmt: skip
async def test_before_the_first_snapshot_nothing_is_denied(redis_url, path):
    """Without a snapshot nobody is "not found": the answer is 503, with a time to come back."""
    async with client_of(redis_url, ready=False) as http:
        answer = await http.get(path.format(peer=peer_id(1)))
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        badge = await http.get("/badge/x.svg")
        assert badge.status_code == 503
        assert parse_xml(badge.text).tag.endswith("svg")


@in_the_modules_loop
async def test_incidents_as_json(client, now):
    """What broke, when, why, in data and in words."""
    document = (await client.get("/api/v1/incidents")).json()
    assert document["ongoing"] == 1  # one healthy crawl does not end it
    (incident,) = document["incidents"]
    assert (incident["dht_prefix"], incident["start"], incident["end"]) == ("official/demo", now - 180, None)
    assert (incident["covered_blocks"], incident["num_blocks"]) == (5, 8)
    assert incident["summary"] == (
        f"Blocks 5–7 lost all servers: …{peer_id(2)[-6:]} (blocks 5–7) was not announced any more."
    )
    assert not (await client.get("/api/v1/incidents?model=second")).json()["incidents"]


@in_the_modules_loop
async def test_histories_are_compressed_and_revalidated(client):
    """A dashboard that polls gets a 304, and otherwise a small body."""
    path = "/api/v1/history/models/official/demo?resolution=minute"
    first = await client.get(path, headers={"accept-encoding": "gzip"})
    assert first.headers["content-encoding"] == "gzip"
    again = await client.get(path, headers={"accept-encoding": "gzip", "if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
