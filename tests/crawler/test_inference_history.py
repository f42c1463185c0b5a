"""Inference checks are kept by the hour: each once, bounded, and apart from what was kept before."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.history.writer import HistoryWriter
from crawler.leader import Leadership
from shared.advice.inference import record_words
from shared.inference import InferenceOutcome, ServerInference, Usability, UsabilityState
from shared.public.history import model_history_document, server_history_document
from shared.store import keys
from shared.store.fencing import DeposedError
from shared.store.history import HistoryReader
from shared.store.inference_history import OUTCOMES, SERVER_HOURS, Proof, pack, unpack
from shared.store.rings import HOUR, Resolution
from tests.fakes import model, peer_id, server, snapshot


def swarm(at, began, outcome=InferenceOutcome.COMPUTED, seconds=0.2):
    found = ServerInference(outcome, (0, 8), began, seconds, seconds)
    usability = Usability(UsabilityState.USABLE, began, None, (), seconds, seconds)
    return snapshot(model("m", servers=(server(1, 0, 8, inference=found),), usability=usability), taken_at=at)


@pytest.fixture
async def record(redis):
    """Record crawls as a leading crawler does: each time by a new one, which remembers nothing."""

    leader = Leadership(redis, "tests")
    await leader.hold()

    async def crawls(*snapshots):
        for each in snapshots:
            await HistoryWriter(redis).append(each, leader.lease)

    return crawls


async def test_each_check_is_kept_once_with_its_outcome_and_seconds(redis, record):
    """However many crawls show it, and whoever leads; those of one hour become one record."""
    now = float((await redis.time())[0] // HOUR * HOUR)
    await record(
        swarm(now + 10, now + 1),
        swarm(now + 20, now + 1),
        swarm(now + 30, now + 25, seconds=0.4),
        swarm(now + 40, now + 35, InferenceOutcome.TIMEOUT, None),
    )
    reader = HistoryReader(redis)
    hours = await reader.model("m", Resolution.HOUR, now + 60)
    (point,) = model_history_document(hours, hours, hours).inference
    assert (point.checks, point.computed, point.outcome, point.checked_at) == (3, 3, "usable", now + 35)
    (point,) = server_history_document(await reader.server(peer_id(1), now + 60)).inference
    assert (point.checks, point.computed, point.outcome) == (3, 2, "timeout")
    assert point.seconds_per_token == pytest.approx(0.3, rel=1e-3)


async def test_a_check_whose_crawl_was_not_recorded_is_recorded_with_the_next(redis):
    """Redis was away in that moment, or the write was refused."""
    now = float((await redis.time())[0] // HOUR * HOUR)
    leader, writer = Leadership(redis, "tests"), HistoryWriter(redis)
    assert await leader.hold()
    with pytest.raises(DeposedError):
        await writer.append(swarm(now + 10, now + 1), "another's")
    for at in (now + 20, now + 30):
        await writer.append(swarm(at, now + 1), leader.lease)
    (proof,) = (await HistoryReader(redis).server(peer_id(1), now + 60)).proofs
    assert proof.checks == 1


async def test_history_without_checks_is_read_as_before(redis, record):
    """What an earlier version kept has no such key; what is none of ours there is a gap."""
    now = float((await redis.time())[0])
    bare = snapshot(model("m", servers=(server(1, 0, 8),)), taken_at=now)
    await record(bare)
    await redis.set(keys.inference_of_server(peer_id(1)), b"\xff" * SERVER_HOURS.size)
    reader = HistoryReader(redis)
    hours = await reader.model("m", Resolution.HOUR, now)
    assert (len(hours.slots), hours.proofs) == (1, ())
    assert (await reader.server(peer_id(1), now)).proofs == ()


async def test_a_forgotten_server_keeps_no_checks(redis, record, monkeypatch):
    monkeypatch.setattr("crawler.history.writer.MAX_SERVERS", 1)
    now = float((await redis.time())[0])
    await record(swarm(now - 60, now - 60))
    other = ServerInference(InferenceOutcome.COMPUTED, (0, 8), now - 1, 0.2, 0.2)
    await record(snapshot(model("m", servers=(server(2, 0, 8, inference=other),)), taken_at=now))
    assert not await redis.exists(keys.inference_of_server(peer_id(1)))
    assert await redis.strlen(keys.inference_of_server(peer_id(2))) == SERVER_HOURS.size


@given(st.binary(min_size=14, max_size=14))
def test_any_bytes_are_a_record_or_a_gap(data):
    found = unpack(data)
    assert found is None or unpack(pack(found)) == found


def test_a_record_in_words():
    proofs = [Proof(7200, 3, 2, "timeout", 0.3), Proof(3600, 1, 1, "computed", 0.6)]
    assert record_words(proofs, days=7) == "75 % of 4 checks in 7 days gave numbers, 0.4 s per token on average"
    assert record_words([], days=7) == ""
    assert len(set(OUTCOMES)) == len(OUTCOMES)
    assert {*UsabilityState, *InferenceOutcome} == set(OUTCOMES)
    assert msgspec.to_builtins(proofs[0])[0] == 7200
