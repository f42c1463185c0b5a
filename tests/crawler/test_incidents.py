from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.history import HistoryWriter
from crawler.history_commands import MAX_CLOSED_INCIDENTS
from crawler.incidents import WITHDRAWN_AFTER, Watch, absent, judged, missing_stretches, step
from crawler.leader import Leadership
from shared import keys
from shared.history_store import HistoryReader
from shared.incidents import Fate, Outcome
from shared.snapshot import ModelState, PeerState
from tests.fakes import model, peer_id, server, snapshot

START = 1_763_900_000.0
WHOLE = model(blocks=8, servers=(server(1, 0, 5), server(2, 5, 8)))
BROKEN = model(blocks=8, servers=(server(1, 0, 5),))
NOBODY = model(blocks=8)


def run(pattern, *, whole=WHOLE, broken=BROKEN, watch=None):
    """Step through crawls, a minute each: H healthy, B broken, ? could not judge, - not announced at all."""
    closed, opened = [], []
    for minute, letter in enumerate(pattern):
        report = {"H": whole, "B": broken, "?": broken, "-": None}[letter]
        state = None if letter == "?" else judged(report, 0)
        if report is None:
            report = absent("demo-model", watch)
        watch, ended = step(watch, report, state, START + 60 * minute)
        if ended is not None:
            closed.append(((ended.start - START) / 60, (ended.end - START) / 60))
        opened.append(watch is not None and watch.incident is not None)
    return closed, opened, watch


@pytest.mark.parametrize(
    ("pattern", "open_after", "closed"),
    [
        ("HB", None, []),  # one broken crawl is not yet an outage
        ("HBH", None, []),
        ("HBHBHBH", None, []),  # flapping by the crawl never counts as two in a row
        ("HBB", 2, []),
        ("HBBH", 2, []),  # one healthy crawl is not yet the end
        ("HBBHB", 2, []),
        ("HBBHBHH", 2, [(1, 5)]),
        ("HBBHH", 2, [(1, 3)]),
        ("H??B?B", 5, []),  # crawls that could not judge count for neither
        ("HBB?H??H", 2, [(1, 4)]),
        ("H--HH", 2, [(1, 3)]),  # not announced any more is broken too
        ("BBBB", None, []),  # never healthy and not official: somebody's experiment
        ("BBBHBB", 5, []),
        ("HBBHHBBHH", 2, [(1, 3), (5, 7)]),
    ],
)
def test_debouncing(pattern, open_after, closed):
    """An incident opens at the second broken crawl in a row and ends likewise; its times are those of the first."""
    ended, opened, _ = run(pattern)
    assert ended == closed
    assert (opened.index(True) if True in opened else None) == open_after


@given(st.text("HB?-", max_size=40))
def test_incidents_never_overlap_and_never_end_before_they_begin(pattern):
    """Whatever the crawls find: ended incidents are in order, apart, and last some time."""
    ended, _, _ = run("H" + pattern)
    moments = [moment for times in ended for moment in times]
    assert moments == sorted(set(moments))


def test_an_official_model_that_nobody_serves_is_no_incident():
    """Settings list models that may come; only one that had servers can lose them."""
    wanted = model(blocks=8, official=True)
    _, opened, _ = run("BBBB", broken=wanted)
    assert not any(opened)
    _, opened, _ = run("BB", broken=model(blocks=8, official=True, servers=(server(1, 0, 5),)))
    assert opened == [False, True]


def test_the_cause_names_blocks_servers_and_what_became_of_them():
    """Each stretch of missing blocks names those that held it when the model was healthy."""
    whole = model(blocks=12, servers=(
        server(1, 0, 4), server(2, 0, 4), server(3, 4, 8), server(4, 6, 10), server(5, 8, 12),
    ))  # fmt: skip
    broken = model(blocks=12, servers=(
        server(1, 0, 4, PeerState.UNREACHABLE), server(3, 8, 11), server(4, 6, 10), server(5, 8, 12, PeerState.OFFLINE),
    ))  # fmt: skip
    _, _, watch = run("HBB", whole=whole, broken=broken)
    cause = watch.incident.cause
    assert [(lost.start, lost.end) for lost in cause] == [(0, 6), (11, 12)]
    fates = [{server.peer_id: server.fate for server in lost.servers} for lost in cause]
    assert fates[0] == {peer_id(1): Fate.UNREACHABLE, peer_id(2): Fate.GONE, peer_id(3): Fate.MOVED}
    assert fates[1] == {peer_id(5): Fate.OFFLINE}
    assert watch.incident.last_healthy == START
    assert watch.incident.covered_blocks == 5


def test_the_cause_is_of_the_crawl_that_broke():
    """What is lost later deepens the incident; it is not what began it."""
    _, _, watch = run("HB")
    watch, _ = step(watch, NOBODY, ModelState.BROKEN, START + 120)
    assert [(lost.start, lost.end) for lost in watch.incident.cause] == [(5, 8)]
    assert watch.incident.covered_blocks == 0


def test_a_model_that_nobody_serves_for_a_week_is_withdrawn():
    """It does not stay an outage for ever: the incident ends as withdrawn, and nothing is remembered."""
    _, _, watch = run("HBB", broken=NOBODY)
    watch, ended = step(watch, NOBODY, ModelState.BROKEN, START + WITHDRAWN_AFTER - 60)
    assert watch.incident is not None
    assert ended is None
    watch, ended = step(watch, NOBODY, ModelState.BROKEN, START + WITHDRAWN_AFTER + 60)
    assert watch is None
    assert ended.outcome is Outcome.WITHDRAWN


def test_unanswered_keys_prove_nothing():
    """A model is only called broken where more blocks are missing than keys that did not answer."""
    assert judged(BROKEN, 2) is ModelState.BROKEN
    assert judged(BROKEN, 3) is None
    assert judged(None, 1) is None
    assert judged(WHOLE, 100) is ModelState.HEALTHY


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60))
def test_missing_stretches_are_exactly_the_missing_blocks(redundancy):
    """Every block without a server is in one stretch, and no other block is in any."""
    stretches = list(missing_stretches(redundancy))
    assert [block for start, end in stretches for block in range(start, end)] == [
        block for block, held in enumerate(redundancy) if not held
    ]
    assert all(a[1] < b[0] for a, b in pairwise(stretches))


async def crawl(redis, name, minute, *models):
    """One crawl of a crawler that has just started: it remembers nothing of its own."""
    await redis.delete(keys.CRAWLER_LEASE)
    leader = Leadership(redis, name)
    assert await leader.hold()
    await HistoryWriter(redis).append(snapshot(*models, taken_at=START + 60 * minute), leader.lease)


async def test_incidents_survive_restarts_and_changes_of_the_leader(redis):
    """Every crawl may be another process's: counters, suspicion, cause and the open incident are in Redis."""
    await crawl(redis, "a", 0, WHOLE)
    await crawl(redis, "b", 1, BROKEN)
    assert await HistoryReader(redis).incidents() == ()
    await crawl(redis, "c", 2, BROKEN)
    (found,) = await HistoryReader(redis).incidents()
    assert (found.start, found.end, found.dht_prefix) == (START + 60, None, "demo-model")
    assert found.cause[0].servers[0].peer_id == peer_id(2)
    await crawl(redis, "d", 3, WHOLE)
    await crawl(redis, "e", 4, WHOLE)
    (found,) = await HistoryReader(redis).incidents()
    assert (found.start, found.end, found.outcome) == (START + 60, START + 180, Outcome.RECOVERED)
    assert not await redis.hlen(keys.OPEN_INCIDENTS)


async def test_the_list_of_incidents_is_bounded(redis):
    """Of models that anyone can announce, and apart from those of official ones, the newest are kept."""
    official = model("official", official=True, servers=(server(1, 0, 8),))
    down = model("official", official=True, servers=(server(1, 0, 5),))
    flapping = [model(f"flap-{n}", servers=(server(9, 0, 8),)) for n in range(90)]
    broken = [model(f"flap-{n}", servers=(server(9, 0, 5),)) for n in range(90)]
    pattern = [(official, flapping), (down, broken), (down, broken), (official, flapping), (official, flapping)]
    pattern += [(official, broken), (official, broken), (official, flapping), (official, flapping)] * 7
    for minute, (first, others) in enumerate(pattern):
        await crawl(redis, "a", minute, first, *others)
    assert await redis.xlen(keys.closed_incidents(official=False)) == MAX_CLOSED_INCIDENTS
    assert await redis.xlen(keys.closed_incidents(official=True)) == 1
    assert any(incident.dht_prefix == "official" for incident in await HistoryReader(redis).incidents())


async def test_what_another_version_remembered_is_learnt_again(redis):
    """Unreadable memory costs the memory, not the history."""
    await redis.hset(keys.INCIDENT_WATCH, "demo-model", b"\xc1 not ours")
    await redis.hset(keys.OPEN_INCIDENTS, "other", b"\xc1")
    await crawl(redis, "a", 0, WHOLE)
    assert await HistoryReader(redis).incidents() == ()


def test_a_watch_is_small():
    """Servers are remembered by id and blocks only, and no more than can be told."""
    _, _, watch = run("H", whole=model(blocks=8, servers=tuple(server(n, 0, 8) for n in range(3_000))))
    assert len(watch.held) == 2_000
    assert isinstance(watch, Watch)
