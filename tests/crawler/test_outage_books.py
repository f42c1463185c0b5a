"""What is kept of outages cannot disagree with itself, and tells nobody of outages that are none."""

import msgspec
import pytest

from crawler.history.writer import HistoryWriter
from crawler.incidents import Watch
from shared import changes, incidents
from shared.incidents import Outcome
from shared.snapshot import PeerState, Refusals, Verdict
from shared.store import keys
from shared.store.history import HistoryReader
from tests.crawler.recording import START, lead, record
from tests.fakes import model, server, snapshot

WHOLE, PART = (server(1, 0, 8),), (server(1, 0, 5),)


def crawls(*servers, official=True, first=0):
    """A crawl a minute; None is one in which nobody announces the model, and no settings name it."""
    return [
        snapshot(*([] if each is None else [model(servers=each, official=official)]), model("other", servers=WHOLE),
                 taken_at=START + 60.0 * (first + minute))
        for minute, each in enumerate(servers)
    ]  # fmt: skip


async def told(redis):
    return [(each.dht_prefix, each.official, each.outcome) for each in await HistoryReader(redis).incidents()]


async def test_a_model_taken_off_the_list_that_nobody_serves_is_no_outage(redis):
    """It was healthy, its servers left, and the operator dropped it from MODELS: nobody waits for it."""
    await record(redis, *crawls(WHOLE, WHOLE, None, None, None, None))
    assert await told(redis) == []
    assert not await redis.hexists(keys.INCIDENT_WATCH, "demo-model")


async def test_a_model_taken_off_the_list_ends_its_outage_as_withdrawn(redis):
    """It was down when the operator dropped it: the outage ends with that crawl, and not in a week."""
    await record(redis, *crawls(WHOLE, PART, PART, None))
    assert await told(redis) == [("demo-model", True, Outcome.WITHDRAWN)]
    assert await redis.hkeys(keys.OPEN_INCIDENTS) == []
    assert await redis.zscore(keys.HISTORY_MODELS, "demo-model") <= START + 300


async def test_a_model_that_goes_on_without_the_list_is_one_that_is_announced(redis):
    """Dropped from MODELS while servers hold it: if it breaks later, that is an announced model's outage."""
    writer, leader = await record(redis, *crawls(WHOLE))
    for each in crawls(WHOLE, PART, PART, official=False, first=1):
        assert await writer.append(each, leader.lease)
    assert await told(redis) == [("demo-model", False, None)]


async def test_an_official_model_that_nobody_serves_any_more_is_down(redis):
    """Still on the list, and gone: that is what the list is for."""
    await record(redis, *crawls(WHOLE, (), ()))
    assert await told(redis) == [("demo-model", True, None)]


async def test_a_model_that_there_was_no_room_to_read_is_neither_broken_nor_left(redis):
    """Where more models are announced than are read, one that is missing may be served: nobody looked."""
    seen = (server(1, 0, 8, verdict=Verdict.REACHABLE),)
    flooded = [
        msgspec.structs.replace(each, refused=Refusals({"too_many_models": 1}))
        for each in crawls(None, None, None, first=1)
    ]
    await record(redis, *crawls(seen, official=False), *flooded)
    assert await told(redis) == []
    assert await changed(redis) == []
    await record(redis, *crawls(None, None, first=4))
    assert await told(redis) == [("demo-model", False, None)]
    assert {(each.kind, each.state) for each in await changed(redis)} == {("outage", "broken"), ("down", "gone")}


async def test_a_suspicion_does_not_outlive_a_time_in_which_nobody_looked(redis):
    """Of a model or a server: one bad crawl before a monitor stopped and one after it are not two in a row."""
    silent = (server(1, 0, 8, PeerState.UNREACHABLE, verdict=Verdict.UNREACHABLE),)
    seen = (server(1, 0, 8, verdict=Verdict.REACHABLE),)
    await record(redis, *crawls(seen, seen, silent), *crawls(silent, seen, first=600))
    assert await told(redis) == []
    assert [each.kind for each in await changed(redis)] == []
    await record(redis, *crawls(silent, silent, first=602))
    (incident,) = await HistoryReader(redis).incidents()
    assert incident.start == START + 60.0 * 602
    assert {each.start for each in await changed(redis)} == {incident.start}


async def changed(redis):
    return [changes.decode(fields[b"change"]) for _, fields in await redis.xrange(keys.CHANGES)]


@pytest.mark.parametrize(
    "loss", ["watch is gone", "watch has no incident", "watch is junk", "open is gone", "open is junk"]
)
async def test_a_watch_and_an_open_incident_that_disagree_are_made_to_agree(redis, loss):
    """Whichever of the two was lost: the incident stays open while the model is broken, and ends when it is whole."""
    writer, leader = await record(redis, *crawls(WHOLE, PART, PART))
    (opened,) = await HistoryReader(redis).incidents()
    match loss:
        case "watch is gone":
            await redis.hdel(keys.INCIDENT_WATCH, "demo-model")
        case "watch has no incident":
            watch = msgspec.msgpack.decode(await redis.hget(keys.INCIDENT_WATCH, "demo-model"), type=Watch)
            without = msgspec.msgpack.encode(msgspec.structs.replace(watch, incident=None))
            await redis.hset(keys.INCIDENT_WATCH, "demo-model", without)
        case "watch is junk":
            await redis.hset(keys.INCIDENT_WATCH, "demo-model", b"\xff")
        case "open is gone":
            await redis.hdel(keys.OPEN_INCIDENTS, "demo-model")
        case "open is junk":
            await redis.hset(keys.OPEN_INCIDENTS, "demo-model", b"\xff")
    for each in crawls(PART, first=3):
        assert await writer.append(each, leader.lease)
    assert [each.id for each in await HistoryReader(redis).incidents()] == [opened.id]
    for each in crawls(WHOLE, WHOLE, first=4):
        assert await writer.append(each, leader.lease)
    (closed,) = await HistoryReader(redis).incidents()
    assert (closed.id, closed.outcome, closed.end) == (opened.id, Outcome.RECOVERED, START + 240)
    assert await redis.hkeys(keys.OPEN_INCIDENTS) == []


async def test_an_incident_of_a_model_that_nobody_follows_any_more_does_not_stay_open(redis):
    """It stands among the open ones, and no crawl finds its model: after a week without servers it is withdrawn."""
    left = incidents.Incident(
        "1-ab", "gone", "gone", official=False, start=START - 8 * 86400.0, num_blocks=8, covered_blocks=0
    )
    await redis.hset(keys.OPEN_INCIDENTS, "gone", incidents.encode(left))
    writer, leader = HistoryWriter(redis), await lead(redis)
    assert await writer.append(crawls(WHOLE)[0], leader.lease)
    assert await told(redis) == [("gone", False, Outcome.WITHDRAWN)]
    assert await redis.hkeys(keys.OPEN_INCIDENTS) == []


async def test_more_open_incidents_than_models_are_followed_do_not_stay_open(redis, monkeypatch):
    """Those that there is no room for are dropped from the list, and not shown for ever."""
    monkeypatch.setattr("crawler.history.writer.MAX_MODELS", 2)
    for number in range(5):
        left = incidents.Incident(
            f"1-{number}", f"gone-{number}", "gone", official=False, start=START - 60.0, num_blocks=8, covered_blocks=0
        )
        await redis.hset(keys.OPEN_INCIDENTS, f"gone-{number}", incidents.encode(left))
    writer, leader = HistoryWriter(redis), await lead(redis)
    assert await writer.append(crawls(WHOLE)[0], leader.lease)
    assert len(await redis.hkeys(keys.OPEN_INCIDENTS)) <= 2
