import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.history import writer as history
from shared.snapshot import PeerState
from shared.store import keys
from shared.store.history import HistoryReader, ModelHistory, OutageEnd, ServerHistory, ServerOutage
from shared.store.rings import HOUR, HOURS_KEPT, MINUTE, ModelSlot, Resolution
from shared.store.server_history import SIZE, ServerHour, ServerRecord, changes, seen, unpack_header, unpack_hours
from tests.crawler.recording import START, record
from tests.fakes import model, peer_id, server, snapshot


async def test_a_servers_sessions_and_uptime(redis):
    """Online from crawl to crawl is one session, a break ends it, and a crawl that did not happen does not."""

    def crawl(minute, state):
        servers = () if state is None else (server(1, 0, 8, state),)
        return snapshot(model(servers=(*servers, server(2, 0, 8))), taken_at=START + 60.0 * minute)

    up, down = PeerState.ONLINE, PeerState.UNREACHABLE
    await record(redis, crawl(0, up), crawl(1, up), crawl(7, up), crawl(8, down), crawl(9, None), crawl(10, up))
    found = await HistoryReader(redis).server(peer_id(1), START + 601)
    assert (found.record.first_seen, found.record.last_seen) == (START, START + 600)
    assert (found.record.sessions, found.record.online_since, found.online) == (2, START + 600, True)
    (hour,) = found.hours
    assert (hour.crawled, hour.online) == (6, 4)
    assert found.uptimes() == dict.fromkeys(("24h", "7d", "30d"), pytest.approx(4 / 6, abs=1e-5))


async def test_a_server_is_not_blamed_for_the_time_before_it_came(redis):
    """One that joined late in the hour has an uptime of 100 %, not of the share of the hour."""
    crawls = [snapshot(model(servers=(server(2, 0, 8),)), taken_at=START + 60.0 * minute) for minute in range(50)]
    late = [
        snapshot(model(servers=(server(1, 0, 8), server(2, 0, 8))), taken_at=START + 60.0 * minute)
        for minute in range(50, 55)
    ]
    await record(redis, *crawls, *late)
    found = await HistoryReader(redis).server(peer_id(1), START + 60 * 55)
    assert found.uptimes()["24h"] == 1.0


def past(hours, *, online, last_online=0, online_since=0):
    """A server's history from `{hour: (looked, online)}`, first seen in hour 0, read at the end of hour 9."""
    record = ServerRecord(first_seen=0, last_seen=0, last_online=last_online, online_since=online_since)
    found = tuple(ServerHour(hour, *minutes) for hour, minutes in hours.items())
    return ServerHistory(peer_id(1), record, found, online=online, read_at=10 * 3600.0)


def test_outages_join_neighbouring_hours_and_say_how_they_ended():
    """Back in the next hour; unknown where no crawl ran then; still down at the end, to the second."""
    up, down, partly = (60, 60), (60, 0), (60, 50)
    hours = {0: up, 1: partly, 2: down, 3: up, 4: down, 6: up, 9: down}
    assert past(hours, online=False, last_online=9 * 3600 + 12).outages() == [
        ServerOutage(3600.0, 3 * 3600.0, 70, OutageEnd.RETURNED),
        ServerOutage(4 * 3600.0, 5 * 3600.0, 60, OutageEnd.UNWATCHED),
        ServerOutage(9 * 3600.0 + 12, None, 60, OutageEnd.LASTS),
    ]
    (back,) = past({8: up, 9: partly}, online=True, online_since=9 * 3600 + 600).outages()
    assert (back.end, back.ended) == (9 * 3600.0 + 600, OutageEnd.RETURNED)
    assert past({0: up}, online=True).outages() == []


def test_what_was_watched_is_counted_and_not_the_window():
    """A server: the minutes with a crawl. A model: hours with a crawl, the first from its first minute on."""
    assert past({0: (20, 20), 9: (60, 0)}, online=False).watched()["24h"] == 80 * 60
    slots = [ModelSlot(hour, 1, 1, 8, 8, 1) for hour in (7, 9)]
    minutes = [ModelSlot(7 * 60 + 45, 1, 1, 8, 8, 1)]
    read_at = 9 * 3600 + 900.0
    hourly = ModelHistory("m", Resolution.HOUR, tuple(slots), read_at)
    minutely = ModelHistory("m", Resolution.MINUTE, tuple(minutes), read_at)
    assert hourly.watched(minutely)["24h"] == 15 * 60 + 900
    assert hourly.first_crawl(minutely) == 7 * 3600 + 45 * 60
    assert ModelHistory("m", Resolution.HOUR, (), read_at).first_crawl(minutely) is None


@given(
    st.lists(
        st.tuples(st.integers(1, 40 * 24 * 60), st.sampled_from(("online", "offline", "absent"))),
        min_size=1,
        max_size=40,
    )
)
def test_the_ring_agrees_with_a_plain_account(steps):
    """Whatever the gaps, bytes written piecewise say the same as a list of all crawls would."""
    data, looks, online, minute, last_look = bytearray(), {}, {}, START // MINUTE, 0
    first = None
    for gap, state in steps:
        minute += gap
        at, hour = minute * MINUTE, minute * MINUTE // HOUR
        looked = looks.get(hour, 0)
        looks[hour] = looked + 1
        if state != "absent":
            before = unpack_header(bytes(data))
            after = seen(before, at, online=state == "online", last_crawl=last_look, missed=looked)
            if before is None:
                first, missed = hour, looked
            for place, piece in changes(before, after):
                data.extend(bytes(max(0, place + len(piece) - len(data))))
                data[place : place + len(piece)] = piece
            assert len(data) == SIZE
            online[hour] = online.get(hour, 0) + (state == "online")
        last_look = at
    now = minute * MINUTE
    current = now // HOUR
    expected = {}
    for hour, looked in looks.items():
        if first is not None and max(first, current - HOURS_KEPT + 1) <= hour <= current:
            counted = looked - (missed if hour == first else 0)
            if counted > 0:
                expected[hour] = (counted, online.get(hour, 0))
    kept = {hour: looked for hour, looked in looks.items() if hour > current - HOURS_KEPT}
    assert {hour.hour: (hour.crawled, hour.online) for hour in unpack_hours(bytes(data), kept, now)} == expected


async def test_servers_that_were_never_online_are_forgotten_first(redis, monkeypatch):
    """Where room is short, it is for those that serve."""
    monkeypatch.setattr(history, "MAX_SERVERS", 3)
    early = model(servers=(server(1, 0, 8), server(2, 0, 8)))
    writer, leader = await record(redis, snapshot(early, taken_at=START + 0.0))
    fakes = tuple(server(number, 0, 8, PeerState.UNREACHABLE) for number in range(10, 20))
    await writer.append(snapshot(model(servers=(*fakes, server(3, 0, 8))), taken_at=START + 60.0), leader.lease)
    kept = {member.decode() for member in await redis.zrange(keys.HISTORY_SERVERS, 0, -1)}
    assert kept == {peer_id(1), peer_id(2), peer_id(3)}
