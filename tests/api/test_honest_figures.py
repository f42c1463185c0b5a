"""Every format says what nobody probed, what contradicts itself, and what was refused."""

import re
import time

import msgspec
import pytest

from api.pages import view as pages_view
from shared.reachability import Answer, Cause, DialOutcome, decide
from shared.snapshot import Refusals, Verdict
from shared.store.snapshots import SnapshotWriter
from tests.api.past import client_of, crawl
from tests.crawler.recording import lead
from tests.fakes import REACHED, REFUSED, model, peer_id, server, snapshot

CONFLICT = "Its record says version 9.9.9, but the peer itself says 2.2.0."
DOUBTFUL = server(2, 0, 8, conflict=CONFLICT, verdict=Verdict.REACHABLE)
SEEN = snapshot(
    model(servers=(server(1, 0, 8, verdict=Verdict.REACHABLE), DOUBTFUL, server(3, 0, 8))),
    refused=Refusals({"undecodable": 4, "bad_peer_id": 3}),
    undialled_servers=1,
    unanswered_keys=2,
)


@pytest.fixture
async def client(redis, redis_url):
    now = msgspec.structs.replace(SEEN, taken_at=time.time())
    await SnapshotWriter(redis).publish(now, (await lead(redis)).lease)
    async with client_of(redis_url) as http:
        yield http


async def words_of(client, path):
    html = (await client.get(path, headers={"accept": "text/html"})).text
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


async def test_the_overview_says_what_nobody_probed_and_what_is_in_doubt(client):
    """Beside the verdict, in words."""
    words = await words_of(client, "/")
    assert "1 server could not be dialled in time." in words
    assert "1 server differs from its record." in words
    assert "2 keys of the swarm’s hash table did not answer in time" in words
    assert "7 records of the swarm could not be used" in words


async def test_a_servers_page_says_what_contradicts_its_record(client):
    """And does not call it simply fine."""
    words = await words_of(client, f"/servers/{peer_id(2)}")
    assert CONFLICT in words
    assert "is online, but differs from its record" in words
    assert "anyone can write one in this server&#39;s name" in words
    assert "differs from its record" not in await words_of(client, f"/servers/{peer_id(1)}")


async def test_the_text_the_json_and_the_metrics_have_the_same_figures(client):
    """One snapshot, one truth."""
    text = (await client.get("/swarm.txt")).text
    for line in ("2 DHT keys did not", "1 server was not dialled", "what 1 server announced", "7 records could"):
        assert f"Note: {line}" in text
    document = (await client.get("/api/v1/state")).json()
    assert document["refused_records"] == {"undecodable": 4, "bad_peer_id": 3}
    assert (document["undialled_servers"], document["unanswered_keys"]) == (1, 2)
    conflicts = [row["conflict"] for row in document["model_reports"][0]["server_rows"]]
    assert sorted(filter(None, conflicts)) == [CONFLICT]
    metrics = (await client.get("/metrics")).text
    for line in (
        'petals_records_refused{reason="undecodable"} 4.0', "petals_crawl_undialled_servers 1.0",
        "petals_servers_conflicting 1.0", "petals_crawl_unanswered_keys 2.0",
    ):  # fmt: skip
        assert line in metrics.splitlines()


async def test_a_server_that_left_has_a_page_with_its_past(redis, redis_url):
    """When it was last seen, and how it was; an id that was never seen has none."""
    now = time.time()
    both = snapshot(model(servers=(server(1, 0, 8), server(2, 0, 8))), taken_at=now - 3 * 3600)
    await crawl(redis, both, snapshot(model(servers=(server(2, 0, 8),)), taken_at=now - 60))
    async with client_of(redis_url) as http:
        words = await words_of(http, f"/servers/{peer_id(1)}")
        assert "has left the swarm" in words
        assert "It was last announced and online 3 hours ago." in words
        assert "Came online 1 time" in words
        assert "has left" not in await words_of(http, f"/servers/{peer_id(2)}")
        answer = await http.get(f"/servers/{peer_id(9)}", headers={"accept": "text/html"})
        assert answer.status_code == 404


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("outcomes", [(REACHED, REFUSED), (REFUSED, DialOutcome.unknown(Cause.NO_SLOT)), (REFUSED,)])
def test_the_page_and_the_json_judge_the_same_answers_alike(outcomes, order):
    """One rule: reachable from anywhere is reachable; unreachable needs somebody who probed."""
    answers = tuple(Answer(peer_id(1), f"v{n}", 1.0, outcome) for n, outcome in enumerate(outcomes))[::order]
    assert pages_view.CheckView(answers).verdict is decide(answers).outcome.verdict
    assert pages_view.CheckView(()).verdict is Verdict.UNKNOWN
