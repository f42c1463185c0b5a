"""Reading the past costs Redis little, and Redis being away costs the reader little."""

from __future__ import annotations

import asyncio

import pytest

from api.responses.history_cache import HistoryAwayError
from api.responses.read_through import ReadThrough
from shared.store.connection import connect
from tests.api.past import client_of, crawl, crawl_five, swarm


@pytest.fixture
async def client(redis, redis_url):
    await crawl_five(redis)
    async with client_of(redis_url) as http:
        yield http


async def test_many_readers_cost_one_read(client, redis):
    """However many ask, Redis is read once in a while: a crowd on one page is no load. The api's own loops read too."""
    await redis.config_resetstat()
    answers = await asyncio.gather(*(client.get("/api/v1/history/models/second") for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    stats = await redis.info("commandstats")
    assert stats.get("cmdstat_get", {"calls": 0})["calls"] <= 5


async def test_pages_do_without_a_past_that_cannot_be_read(redis_server):
    """Redis went away: pages stay, what was read before is still served, the rest says 503."""
    redis = connect(redis_server.url, "tests")
    await crawl(redis, swarm())
    await redis.aclose()
    async with client_of(redis_server.url) as http:
        assert (await http.get("/api/v1/history/models/second")).status_code == 200
        redis_server.kill()
        assert (await http.get("/api/v1/history/models/second")).status_code == 200
        lost = await http.get("/api/v1/history/models/official/demo")
        assert (lost.status_code, lost.headers["content-type"]) == (503, "application/problem+json")
        page = await http.get("/models/official/demo", headers={"accept": "text/html"})
        assert page.status_code == 200
        assert 'id="history"' not in page.text
        assert (await http.get("/badge/official/demo.svg?metric=uptime")).status_code == 200


async def test_what_was_read_is_served_while_redis_is_away():
    """A value that is no longer fresh is better than none; without one, the failure is told."""
    cache, fails = ReadThrough(fresh=0.0, max_size=10), False

    async def load():
        if fails:
            raise HistoryAwayError
        return 1

    assert await cache.get("known", load) == 1
    fails = True
    assert await cache.get("known", load) == 1
    with pytest.raises(HistoryAwayError):
        await cache.get("unknown", load)


async def test_what_is_read_is_bounded():
    """Names that nobody knows do not fill the memory of a process."""
    cache = ReadThrough(fresh=60.0, max_size=10)

    async def load():
        return None

    for number in range(1_000):
        await cache.get(number, load)
    assert len(cache._entries) == 10
    assert not cache._loading
