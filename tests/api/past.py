"""A swarm with a past for the tests of the api: published, recorded and served as in life."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from xml.etree import ElementTree as ET

import httpx

from crawler.history.writer import HistoryWriter
from crawler.judge import with_since
from crawler.leader import Leadership
from shared.snapshot import PeerState
from shared.store import keys
from shared.store.snapshots import SnapshotWriter
from tests.api.serving import serve
from tests.fakes import model, peer_id, server, snapshot

HOSTILE = "<script>alert(1)</script>&\"' \u202e日本"
ATOM = "{http://www.w3.org/2005/Atom}"


def parse_xml(text):
    return ET.fromstring(text)  # noqa: S314 - the monitor's own


def swarm(state="healthy", taken_at=None):
    """By default as of now: one that a long run of tests made at its start would be stale."""
    servers = (server(1, 0, 5), server(2, 5, 8, next_pings={peer_id(1): 0.01}))
    return snapshot(
        model("official/demo", blocks=8, servers=servers if state == "healthy" else servers[:1], official=True),
        model("second", blocks=4, servers=(server(1, 0, 2), server(3, 2, 4, PeerState.UNREACHABLE))),
        model(HOSTILE, blocks=2, servers=(server(4, 0, 2),), name=HOSTILE, short_name=HOSTILE),
        taken_at=time.time() if taken_at is None else taken_at,
    )


async def crawl(redis, *snapshots):
    """Publish and record as the crawl loop does."""
    leader = Leadership(redis, "tests")
    await redis.delete(keys.CRAWLER_LEASE)
    each = None
    for crawled in snapshots:
        each = with_since(crawled, each)
        assert await leader.hold()
        await SnapshotWriter(redis).publish(each, leader.lease)
        await HistoryWriter(redis).append(each, leader.lease)


@asynccontextmanager
async def client_of(redis_url, *, ready=True, **settings):
    async with serve(redis_url, **settings) as base, httpx.AsyncClient(base_url=base, timeout=30) as http:
        if ready:
            async with asyncio.timeout(30):
                while (await http.get("/api/v1/state")).status_code != 200:
                    await asyncio.sleep(0.02)
        yield http


async def crawl_five(redis):
    """Crawl five times, the third and fourth of which find the official model broken; return when it is now."""
    states = ["healthy", "healthy", "broken", "broken", "healthy"]
    now = time.time()
    await crawl(redis, *(swarm(state, now - 60 * (len(states) - n)) for n, state in enumerate(states)))
    return now
