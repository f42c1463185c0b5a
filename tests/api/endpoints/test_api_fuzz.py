"""Schemathesis asks the real api whatever its description allows, and more, and holds the answers against it."""

from __future__ import annotations

import asyncio
import threading

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from api.endpoints.openapi import describe
from crawler.history.writer import HistoryWriter
from crawler.leader import Leadership
from shared.store.connection import connect
from shared.store.snapshots import SnapshotWriter
from tests.api.serving import serve
from tests.fakes import snapshot

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
FUZZED = r"^/(api/v1/(state|models|servers|history|incidents)|badge|incidents|openapi|livez|readyz|models|servers)"
EXAMPLES = 25
"""For each operation."""
schema = schemathesis.openapi.from_dict(describe()).include(path_regex=FUZZED)


@pytest.fixture(scope="module")
def base_url(_session_redis):
    """The api with a snapshot and a history, in a thread of its own: schemathesis asks synchronously."""
    started, found, ending = threading.Event(), [], []

    async def live():
        redis = connect(_session_redis.url, "tests")
        await redis.flushall()
        leader = Leadership(redis, "tests")
        assert await leader.hold()
        await SnapshotWriter(redis).publish(snapshot(), leader.lease)
        await HistoryWriter(redis).append(snapshot(), leader.lease)
        await redis.aclose()
        ended = asyncio.Event()
        async with serve(_session_redis.url) as url:
            swarm = serve.services.swarm
            while swarm.snapshot is None:
                await swarm.subscribers.wait()
            found.append(url)
            ending.append((asyncio.get_running_loop(), ended))
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(live()), daemon=True)
    thread.start()
    assert started.wait(20)
    yield found[0]
    loop, ended = ending[0]
    loop.call_soon_threadsafe(ended.set)
    thread.join(10)


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_question_is_answered_otherwise_than_described(case, base_url):
    """No server error, no undescribed status, media type or field, whatever the names and parameters."""
    case.call_and_validate(base_url=base_url, checks=CHECKS)
