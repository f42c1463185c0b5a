import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.history.commands import MAX_CLOSED_INCIDENTS
from crawler.history.writer import HistoryWriter
from crawler.incidents import (
    MAX_LOST_BLOCKS,
    MAX_LOST_SERVERS,
    WITHDRAWN_AFTER,
    Held,
    Watch,
    absent,
    decode_watch,
    judged,
    step,
)
from crawler.leader import Leadership
from shared.incidents import MAX_UNUSABLE_CHARS, Fate, Outcome, summary
from shared.inference import Usability, UsabilityState
from shared.snapshot import MAX_BLOCKS, ModelState, PeerState
from shared.store import keys
from shared.store.history import HistoryReader
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


def test_a_first_crawl_remembers_the_model_as_it_was_found():
    """And the next one what has changed of it."""
    watch, ended = step(None, model(blocks=8, official=True, servers=WHOLE.servers), ModelState.HEALTHY, START)
    assert ended is None
    assert watch == Watch(
        name="demo-model", official=True, num_blocks=8, last_served=START, last_healthy=START,
        held=(Held(peer_id(1), 0, 5), Held(peer_id(2), 5, 8)), healthy_since=START,
    )  # fmt: skip
    renamed = msgspec.structs.replace(NOBODY, name="lab/demo", num_blocks=9)
    watch, _ = step(watch, renamed, None, START + 60)
    assert (watch.name, watch.official, watch.num_blocks) == ("lab/demo", False, 9)
    assert (watch.last_served, watch.healthy_since) == (START, START)
    watch, _ = step(watch, BROKEN, None, START + 120)
    assert watch.last_served == START + 120


def test_only_online_servers_hold_blocks_of_a_healthy_model():
    whole = model(blocks=8, servers=(*WHOLE.servers, server(3, 0, 8, PeerState.JOINING)))
    _, _, watch = run("H", whole=whole)
    assert [held.peer_id for held in watch.held] == [peer_id(1), peer_id(2)]


def test_health_lasts_from_the_first_crawl_of_a_row():
    """And is forgotten by a broken one."""
    _, _, watch = run("HHH")
    assert (watch.healthy_since, watch.last_healthy) == (START, START + 120)
    _, _, watch = run("HHB")
    assert (watch.healthy_since, watch.suspected.start, watch.incident) == (0.0, START + 120, None)
    _, _, watch = run("HHBH")
    assert (watch.healthy_since, watch.suspected) == (START + 180, None)
    _, _, watch = run("HHBB")
    assert (watch.suspected, watch.incident.start) == (None, START + 120)


def test_an_incident_says_all_of_itself():
    """Its id is its beginning and a mark of the model."""
    _, _, watch = run("HB", broken=msgspec.structs.replace(BROKEN, official=True, name="lab/demo"))
    found = watch.suspected
    assert found.id == f"{int(START + 60)}-{hashlib.blake2b(b'demo-model', digest_size=4).hexdigest()}"
    assert (found.dht_prefix, found.name, found.official) == ("demo-model", "lab/demo", True)
    assert (found.start, found.num_blocks, found.covered_blocks) == (START + 60, 8, 5)
    assert (found.last_healthy, found.more_blocks) == (START, 0)
    assert (found.end, found.outcome) == (None, None)
    (lost,) = found.cause
    assert (lost.start, lost.end, lost.more_servers) == (5, 8, 0)
    assert [(each.peer_id, each.start, each.end) for each in lost.servers] == [(peer_id(2), 5, 8)]


def test_a_name_that_is_no_unicode_has_a_mark_too():
    """Prefixes come from the DHT."""
    odd = [msgspec.structs.replace(each, dht_prefix="\udc80") for each in (WHOLE, BROKEN)]
    _, _, watch = run("HB", whole=odd[0], broken=odd[1])
    assert len(watch.suspected.id.partition("-")[2]) == 8


def test_what_can_be_told_of_a_cause_is_bounded_and_counted():
    """Twenty stretches, twenty servers for each; of the others it is said how many there were."""
    holes = model(blocks=60, servers=tuple(server(n, 2 * n, 2 * n + 1) for n in range(30)))
    whole = model(blocks=60, servers=(*holes.servers, server(99, 0, 60)))
    _, _, watch = run("HB", whole=whole, broken=holes)
    assert (len(watch.suspected.cause), watch.suspected.more_blocks) == (MAX_LOST_BLOCKS, 10)
    crowd = model(blocks=8, servers=tuple(server(n, 0, 8) for n in range(25)))
    _, _, watch = run("HB", whole=crowd, broken=NOBODY)
    (lost,) = watch.suspected.cause
    assert (len(lost.servers), lost.more_servers) == (MAX_LOST_SERVERS, 5)


def test_only_servers_that_held_a_missing_block_are_its_cause():
    """Neighbours that end where it begins, or begin where it ends, are not."""
    whole = model(blocks=9, servers=(server(1, 0, 3), server(2, 3, 6), server(3, 6, 9), server(4, 5, 7)))
    broken = model(blocks=9, servers=(server(1, 0, 3), server(3, 6, 9)))
    _, _, watch = run("HB", whole=whole, broken=broken)
    (lost,) = watch.suspected.cause
    assert (lost.start, lost.end) == (3, 6)
    assert {each.peer_id for each in lost.servers} == {peer_id(2), peer_id(4)}


@pytest.mark.parametrize(
    ("state", "fate"),
    [
        (PeerState.JOINING, Fate.JOINING), (PeerState.OFFLINE, Fate.OFFLINE), (PeerState.UNREACHABLE, Fate.UNREACHABLE),
    ],
)  # fmt: skip
def test_a_lost_servers_fate_is_its_state(state, fate):
    broken = model(blocks=8, servers=(server(1, 0, 5), server(2, 5, 8, state)))
    _, _, watch = run("HB", broken=broken)
    assert [each.fate for each in watch.suspected.cause[0].servers] == [fate]


def test_an_incident_remembers_the_worst():
    """What comes back meanwhile does not make it smaller."""
    _, _, watch = run("HBB", broken=model(blocks=8, servers=(server(1, 0, 2),)))
    assert watch.incident.covered_blocks == 2
    watch, _ = step(watch, BROKEN, ModelState.BROKEN, START + 240)
    assert watch.incident.covered_blocks == 2
    watch, _ = step(watch, NOBODY, ModelState.BROKEN, START + 300)
    assert watch.incident.covered_blocks == 0


def test_a_week_to_the_second_withdraws_a_model():
    """With its incident, which ends then; where it had none, in silence."""
    _, _, watch = run("HBB", broken=NOBODY)
    kept, ended = step(watch, NOBODY, ModelState.BROKEN, START + WITHDRAWN_AFTER - 1)
    assert (kept is None, ended) == (False, None)
    gone, ended = step(watch, NOBODY, ModelState.BROKEN, START + WITHDRAWN_AFTER)
    assert gone is None
    assert (ended.start, ended.end) == (START + 60, START + WITHDRAWN_AFTER)
    never, _ = step(None, NOBODY, ModelState.BROKEN, START)
    assert step(never, NOBODY, ModelState.BROKEN, START + WITHDRAWN_AFTER) == (None, None)


def test_a_model_that_is_absent_is_reported_as_it_was_last_seen():
    _, _, watch = run("H", whole=model(blocks=8, name="lab/demo", servers=WHOLE.servers))
    gone = absent("demo-model", watch)
    assert (gone.dht_prefix, gone.num_blocks, gone.official) == ("demo-model", 8, False)
    assert (gone.name, gone.short_name, gone.state, gone.servers) == ("lab/demo", "lab/demo", ModelState.BROKEN, ())


def test_only_a_model_that_was_healthy_or_is_down_is_missed():
    fresh = Watch("m", official=False, num_blocks=8, last_served=START)
    assert not fresh.missed_when_absent
    assert run("H")[2].missed_when_absent
    _, _, down = run("BB", broken=model(blocks=8, official=True, servers=(server(1, 0, 5),)))
    assert (down.last_healthy, down.missed_when_absent) == (None, True)


def test_a_clock_that_was_ahead_is_cut_back():
    """Whatever was remembered from the future is from now: nothing lasts less than no time, and nothing is lost."""
    _, _, watch = run("HB")
    before = START - 3600
    back, _ = step(watch, BROKEN, None, before)
    assert (back.last_served, back.last_healthy, back.suspected.start) == (before, before, before)
    _, _, watch = run("HBBH")
    back, _ = step(watch, BROKEN, None, before)
    assert (back.healthy_since, back.incident.start) == (before, before)
    assert (back.incident.id, back.held) == (watch.incident.id, watch.held)
    never = Watch("m", official=False, num_blocks=8, last_served=START)
    back, _ = step(never, NOBODY, None, before)
    assert (back.last_served, back.last_healthy) == (before, None)


@pytest.mark.parametrize("field", ["last_served", "last_healthy", "healthy_since"])
def test_each_moment_is_cut_alone(field):
    """The others stay as they are."""
    past = {"last_served": START - 50, "last_healthy": START - 40, "healthy_since": START - 30}
    watch = Watch("m", official=False, num_blocks=8, **{**past, field: START + 50})
    back, _ = step(watch, NOBODY, None, START)
    assert {name: getattr(back, name) for name in past} == {**past, field: START}


def test_an_open_incident_tells_of_its_model():
    """Where the rest of what was remembered is lost."""
    _, _, watch = run("HBB", broken=model(blocks=8, official=True, servers=(server(1, 0, 5),)))
    found = watch.incident
    assert Watch.of(found) == Watch(
        found.name, official=True, num_blocks=8, last_served=START + 60, last_healthy=START, incident=found
    )


def test_a_watch_survives_redis():
    for pattern in ("H", "HB", "HBB"):
        _, _, watch = run(pattern)
        assert decode_watch(msgspec.msgpack.encode(watch)) == watch


PLAIN = Watch("m", official=False, num_blocks=8, last_served=START)
SUSPECTED = run("HB")[2]


@pytest.mark.parametrize(
    ("watch", "why"),
    [
        (msgspec.structs.replace(PLAIN, num_blocks=0), r"^Expected .* at `\$\.num_blocks`$"),
        (msgspec.structs.replace(PLAIN, num_blocks=MAX_BLOCKS + 1), r"^Expected .* at `\$\.num_blocks`$"),
        (msgspec.structs.replace(PLAIN, last_served=-1.0), r"^Expected .* at `\$\.last_served`$"),
        (msgspec.structs.replace(PLAIN, healthy_since=1e12), r"^Expected .* at `\$\.healthy_since`$"),
        (msgspec.structs.replace(PLAIN, unusable_since=-1.0), r"^Expected .* at `\$\.unusable_since`$"),
        (
            msgspec.structs.replace(PLAIN, suspected=msgspec.structs.replace(SUSPECTED.suspected, id="<b>")),
            "^not an incident: id",
        ),
        (
            msgspec.structs.replace(PLAIN, incident=msgspec.structs.replace(SUSPECTED.suspected, start=-1.0)),
            "^time .* is out of range",
        ),
    ],
)
def test_what_only_looks_like_a_watch_is_refused(watch, why):
    with pytest.raises(ValueError, match=why):
        decode_watch(msgspec.msgpack.encode(watch))


def test_a_watch_at_its_limits_is_read():
    watch = msgspec.structs.replace(PLAIN, num_blocks=MAX_BLOCKS, last_served=1e11, last_healthy=0.0, healthy_since=0.0)
    assert decode_watch(msgspec.msgpack.encode(watch)) == watch
    one = msgspec.structs.replace(PLAIN, num_blocks=1, last_served=0.0)
    assert decode_watch(msgspec.msgpack.encode(one)) == one


def chain(state, minute, reason=None):
    """The model with all servers, and a chain that began in this minute."""
    return msgspec.structs.replace(WHOLE, usability=Usability(state, START + 60 * minute, reason))


@pytest.mark.parametrize(
    ("chains", "opens", "closed"),
    [
        ("UNNNNNNN", False, []),  # one chain without tokens, however many crawls show it
        ("UUUUNUUU", False, []),  # nor does one that failed between two that did not
        ("UNUnNN", False, []),
        ("UNHnNN", False, []),
        ("UNnNnNnN", True, []),
        ("UNnNUUUU", True, [(3, 4)]),
        ("UNnN????", True, []),  # nobody could judge: no reason to end it
        ("UNnNHHHH", True, [(3, 4)]),  # inference checks were switched off
        ("????????", False, []),
    ],
)
def test_answers_but_does_not_compute_is_an_incident(chains, opens, closed):
    """Two chains in a row without a token, seen by two crawls: a capital N is the same chain as before, n a new one."""
    watch, ended, opened, began = None, [], False, 0
    for minute, letter in enumerate(chains):
        began = minute if letter != "N" or chains[minute - 1] not in "Nn" else began
        state = {"U": "usable", "N": "unusable", "n": "unusable", "?": "unknown", "H": None}[letter]
        found = WHOLE if state is None else chain(UsabilityState(state), began, "blocks 0:5: not_finite")
        watch, closes = step(watch, found, judged(found, 0), START + 60 * minute)
        watch = decode_watch(msgspec.msgpack.encode(watch))
        opened = opened or watch.incident is not None
        if watch.incident is not None:
            assert "do not compute" in summary(watch.incident)
            assert "not_finite" in summary(watch.incident)
            assert watch.incident.cause == ()
        if closes is not None:
            ended.append(((closes.start - START) / 60, (closes.end - START) / 60))
    assert opened is opens
    assert [start for _, start in ended] == [end for _, end in closed]


@pytest.mark.parametrize(("reason", "told"), [(None, ""), ("x" * 1000, "x" * MAX_UNUSABLE_CHARS)])
def test_an_incident_tells_why_servers_do_not_compute(reason, told):
    """In the chain's words, cut; none where it had none."""
    watch = None
    for minute, state in enumerate((UsabilityState.USABLE, UsabilityState.UNUSABLE, UsabilityState.UNUSABLE)):
        watch, _ = step(watch, chain(state, minute, reason), ModelState.HEALTHY, START + 60 * minute)
    assert watch.suspected.unusable == told


def test_servers_that_are_back_end_the_incident_of_missing_ones():
    """Where nobody knows whether they compute; one chain without tokens is a crawl that did not find it healthy."""
    _, _, watch = run("HBB")
    for minute in (3, 4):
        watch, closed = step(watch, chain(UsabilityState.UNKNOWN, minute), ModelState.HEALTHY, START + 60 * minute)
    assert (watch.incident, closed.end, closed.outcome) == (None, START + 180, Outcome.RECOVERED)
    _, _, watch = run("HBBH")
    watch, _ = step(watch, chain(UsabilityState.UNUSABLE, 4), ModelState.HEALTHY, START + 240)
    watch, closed = step(watch, WHOLE, ModelState.HEALTHY, START + 300)
    assert (watch.healthy_since, closed) == (START + 300, None)
