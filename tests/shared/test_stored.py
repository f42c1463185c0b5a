"""The edge to Redis: whatever stands there is a value or a counted refusal, and never an error of the reader."""

import math
import struct

import msgspec
import pytest
import redis as sync_redis
import redis.exceptions as errors
import structlog
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.pages import Pages, View
from api.responses.per_snapshot import Renderer
from api.responses.prepared import PreparedResponses
from crawler.incidents import Watch, decode_watch
from reachability_worker.job import BadJobError, read_check
from shared import incidents
from shared.reachability import Answer, Cause, DialOutcome, Stage, decode_answer, encode_answer
from shared.snapshot import CrawlStatus, Verdict, decode, decode_status, encode
from shared.store import rings as history
from shared.store import server_history, stored
from shared.store.clock import RedisClock
from shared.store.connection import connect
from tests.fakes import model, peer_id, refused, server, snapshot

DEEP = 5_000
NOW = 1_763_900_000.0
INCIDENT = incidents.Incident(
    "1763900000-0a1b2c3d", "demo-model", "demo", official=True, start=NOW, num_blocks=8, covered_blocks=5,
    cause=(incidents.LostBlocks(5, 8, (incidents.LostServer(peer_id(1), 5, 8, incidents.Fate.GONE),)),),
)  # fmt: skip
WATCH = Watch("demo", official=True, num_blocks=8, last_served=NOW, last_healthy=NOW, incident=INCIDENT)
ANSWER = Answer(peer_id(1), "here", NOW, DialOutcome(Verdict.UNREACHABLE, Stage.DIAL, Cause.REFUSED, "refused"))
SNAPSHOT = snapshot(model(servers=(server(1, 0, 8, next_pings={peer_id(2): 0.1}), server(2, 0, 3))), taken_at=NOW)
STATUS = CrawlStatus(NOW, ok=False, error="no bootstrap peer answered", snapshot_taken_at=NOW)

compress = zstd.compress
READERS = {
    "snapshot": (decode, encode(SNAPSHOT), lambda data: compress(msgspec.msgpack.encode(data)), SNAPSHOT),
    "status": (decode_status, msgspec.json.encode(STATUS), msgspec.json.encode, STATUS),
    "answer": (decode_answer, encode_answer(ANSWER), msgspec.json.encode, ANSWER),
    "incident": (incidents.decode, incidents.encode(INCIDENT), msgspec.msgpack.encode, INCIDENT),
    "watch": (decode_watch, msgspec.msgpack.encode(WATCH), msgspec.msgpack.encode, WATCH),
}
"""By kind: its parser, a good entry, how a document is packed, and what the good entry says."""

HOSTILE_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=40),
    st.binary(max_size=20), st.lists(st.integers(0, 9), max_size=3), st.dictionaries(st.text(max_size=5), st.none()),
    st.sampled_from([10**9, -1, math.nan, math.inf, "x" * 10_000, "\ud7ff\u202e<script>", 2**32, 1e300]),
)  # fmt: skip


def plain(value):
    """A document of dicts and lists."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value))


def places(document, here=()):
    """Every path in a document of dicts and lists."""
    found = [here]
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            found += places(value, (*here, key))
    return found


def broken(document, path, value):
    """The document with another value at a path."""
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = broken(copy[path[0]], path[1:], value)
    return copy


@pytest.fixture(params=list(READERS))
def kind(request):
    return request.param


def test_good_entries_are_read(kind):
    """What was packed is what comes out: the tests below are about these very readers."""
    parse, good, _, value = READERS[kind]
    assert stored.read(kind, parse, good) == value


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_value_or_a_refusal(kind, data):
    """No reader raises, and what it refuses is counted."""
    before = refused(kind)
    value = stored.read(kind, READERS[kind][0], data)
    assert (value is None) == (refused(kind) == before + 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=st.integers(0, 10_000), flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4))
def test_truncated_and_flipped_entries_are_a_value_or_a_refusal(kind, cut, flips):
    """Half of an entry, and one with other bytes in it."""
    parse, good, _, _ = READERS[kind]
    data = bytearray(good[: cut % (len(good) + 1)])
    for place, byte in flips:
        if data:
            data[place % len(data)] = byte
    stored.read(kind, parse, bytes(data))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=HOSTILE_VALUES)
def test_each_field_broken_costs_the_entry_and_nothing_else(kind, data, value):
    """A field of another type, out of any range, huge: refused, or a document that everything can be made of."""
    parse, _, pack, good = READERS[kind]
    document = plain(good)
    entry = pack(broken(document, data.draw(st.sampled_from(places(document))), value))
    read = stored.read(kind, parse, entry)
    if read is not None:
        USED[kind](read)


PAGES = Pages()
BROKEN_VALUES = (
    None, True, 0, -1, 1, 7, 9, 2**31, 2**63, -5.0, 1e12, 1e300, math.nan, math.inf, -math.inf, "", "2", "a/b c\x00",
    "\u202e<script>", "x" * 10_000, [], ["x"], [1, 2, 3], {}, {"a": 1}, {"": None},
)  # fmt: skip


def test_every_field_broken_in_every_way_costs_the_entry_and_nothing_else(kind):
    """As above, place by place: what chance may miss."""
    parse, _, pack, good = READERS[kind]
    document, bad, used = plain(good), 0, 0
    for path in places(document):
        for value in BROKEN_VALUES:
            try:
                entry = pack(broken(document, path, value))
            except (ValueError, OverflowError):
                continue  # it cannot be written in this form
            read = stored.read(kind, parse, entry)
            if read is None:
                bad += 1
            else:
                USED[kind](read)
                used += 1
    assert bad > used > 0


def draw(made):
    view = View(made, None, NOW + 60, True, "1-0", 180.0)
    table = PreparedResponses()
    for bodies in Renderer(PAGES).render(view):
        table.replace(*bodies)


def draw_status(status):
    view = View(None, status, NOW + 60, True, None, 180.0)
    for _ in Renderer(PAGES).render(view):
        pass


def draw_incident(incident):
    from api.pages.feed import atom_feed
    from api.pages.incidents import make_incidents
    from crawler.notify.notice_queue import job_id
    from shared.public.incidents import incidents_document

    msgspec.json.encode(incidents_document([incident], limit=10))
    make_incidents(View(None, None, NOW, True, None, 180.0), [incident], {})
    atom_feed([incident], base="http://localhost", now=NOW)
    assert job_id(f"{incident.id}:opened").replace("-", "").isalnum()


def step_on(watch):
    from crawler.incidents import absent, step
    from shared.snapshot import ModelState

    for state in (ModelState.HEALTHY, ModelState.BROKEN, None):
        after, closed = step(watch, absent("demo-model", watch), state, NOW)
        msgspec.msgpack.encode((after, closed))


def show(answer):
    from shared.public.check import reachability_document

    msgspec.json.encode(reachability_document([answer], your_ip="127.0.0.1"))


USED = {
    "snapshot": draw,
    "status": draw_status,
    "answer": show,
    "incident": draw_incident,
    "watch": step_on,
}


def test_nested_entries_are_refused(kind):
    """Five thousand lists in one another end no reader."""
    parse, _, pack, _ = READERS[kind]
    before = refused(kind)
    if pack is msgspec.json.encode:
        nested = [b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP]
    else:
        raw = [b"\x91" * DEEP + b"\x01", b"\x81\xa1a" * DEEP + b"\x01"]
        nested = [compress(each) for each in raw] if kind == "snapshot" else raw
    assert [stored.read(kind, parse, each) for each in nested] == [None, None]
    assert refused(kind) == before + 2


def test_a_snapshot_that_names_a_size_of_terabytes_allocates_nothing():
    """The size in the frame's header is the writer's word."""
    bomb = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**42) + b"\x01\x00\x00"
    assert zstd.get_frame_info(bomb).decompressed_size == 2**42
    assert stored.read("snapshot", decode, bomb) is None


JOB = (f"{peer_id(1)}-ab".encode(), b"x", 5000, b"", b"")


@given(data=st.data(), value=st.binary(max_size=60))
def test_a_job_with_any_bytes_in_it_is_refused(data, value):
    """Its id, its call, who asked, the trace."""
    place = data.draw(st.sampled_from([0, 1, 3, 4]))
    job = (*JOB[:place], value, *JOB[place + 1 :])
    with pytest.raises(BadJobError):
        read_check(job)


@given(st.binary(max_size=4000))
def test_any_ring_of_a_model_is_slots_that_can_be_drawn(data):
    """Counts within their whole, no number that is none, nothing of another lap."""
    ring = history.RINGS[history.Resolution.HOUR]
    for slot in history.unpack_model_ring(data, ring, NOW):
        assert 0 < slot.crawls >= slot.healthy
        assert slot.covered_blocks <= slot.num_blocks
        assert all(math.isfinite(mean) for mean in (slot.online, slot.slowest_block))
        assert history.pack_model(slot.merge(slot))
    single = history.unpack_model(data)
    assert single is None or history.pack_model(single.merge(single))


@given(
    header=st.binary(min_size=24, max_size=24), ring=st.binary(min_size=720, max_size=720), looks=st.binary(max_size=99)
)
def test_any_ring_of_a_server_is_hours_that_can_be_drawn(header, ring, looks):
    """At most sixty minutes an hour, and never more online than looked."""
    for hour in server_history.unpack_hours(header + ring, history.unpack_crawled_ring(looks, NOW), NOW):
        assert 0 <= hour.online <= hour.crawled <= 60
    before = server_history.unpack_header(header)
    after = server_history.seen(before, NOW, online=True, last_crawl=int(NOW) - 60, missed=0)
    assert server_history.changes(before, after)


@given(st.one_of(st.binary(max_size=30), st.floats(), st.text(max_size=10), st.integers()))
def test_a_number_is_finite(entry):
    """`nan`, `inf`, a hex float: none of them is a time or a size."""
    value = stored.read("number", stored.number, entry)
    assert value is None or abs(value) < 1e14


def test_refusals_of_a_kind_are_logged_once_a_minute(monkeypatch):
    """Who writes bad entries can write many."""
    monkeypatch.setattr(stored, "_logged_at", {})
    before = refused("noisy")
    with structlog.testing.capture_logs() as logs:
        for _ in range(1000):
            assert stored.read("noisy", int, "x") is None
    assert len(logs) == 1
    assert refused("noisy") == before + 1000


@pytest.mark.parametrize(
    "error",
    [
        errors.ConnectionError("gone"), errors.TimeoutError("slow"), errors.BusyLoadingError("loading"),
        errors.ReadOnlyError("replica"), errors.OutOfMemoryError("full"), errors.AuthenticationError("no"),
        errors.ClusterDownError("down"), errors.ResponseError("MISCONF Redis is configured to save RDB snapshots"),
        errors.ResponseError("ERR Error running script: @user_script:1: -READONLY You can't write"),
        errors.ResponseError("NOREPLICAS Not enough good replicas"), OSError("gone"), TimeoutError("slow"),
    ],
)  # fmt: skip
def test_outages_are_waited_out(error):
    """What time or an operator mends is tried again."""
    assert stored.is_outage(error)


async def test_what_a_real_server_answers_is_told_apart(redis_server):
    """A wrong type, a script that stumbles, a bad argument are for ever; a full or a read-only server is not."""
    client = sync_redis.Redis.from_url(redis_server.url)
    client.set("text", "x")
    client.eval("return redis.call('SET', 'other', '1')", 0)
    for command in (
        ("LPUSH", "text", "1"),
        ("INCR", "text"),
        ("EVAL", "return redis.call('LPUSH', 'text', '1')", 0),
        ("EVAL", "return 'a' .. nil", 0),
        ("NO-SUCH-COMMAND",),
    ):
        with pytest.raises(errors.ResponseError) as raised:
            client.execute_command(*command)
        assert not stored.is_outage(raised.value), command
    client.config_set("maxmemory", "1")
    for command in (("SET", "more", "x"), ("EVAL", "return redis.call('SET', 'more', 'x')", 0)):
        with pytest.raises(errors.RedisError) as raised:
            client.execute_command(*command)
        assert stored.is_outage(raised.value), command
    client.config_set("maxmemory", "0")
    client.replicaof("127.0.0.1", "1")
    for command in (("SET", "more", "x"), ("EVAL", "return redis.call('SET', 'more', 'x')", 0)):
        with pytest.raises(errors.RedisError) as raised:
            client.execute_command(*command)
        assert stored.is_outage(raised.value), command
    client.close()


async def test_mending_deletes_what_has_another_type_and_nothing_else(redis):
    """An owner's keys are as it writes them afterwards; those that are right, or not there, stay as they are."""
    await redis.set("a", "x")
    await redis.rpush("b", "x")
    await redis.xadd("c", {"f": "v"}, id="18446744073709551615-18446744073709551615")
    await redis.xadd("d", {"f": "v"})
    before = refused("key")
    await stored.delete_unusable(redis, {"a": "string", "b": "hash", "c": "stream", "d": "stream", "e": "zset"})
    assert set(await redis.keys()) == {b"a", b"d"}
    assert refused("key") == before + 2


async def test_one_refused_answer_of_a_pipeline_costs_itself(redis):
    """The others are used; an outage is raised."""
    await redis.set("a", "x")
    pipeline = redis.pipeline(transaction=False)
    pipeline.get("a")
    pipeline.hgetall("a")
    answers = await pipeline.execute(raise_on_error=False)
    assert [stored.answered("test", answer, {}) for answer in answers] == [b"x", {}]
    with pytest.raises(errors.ReadOnlyError):
        stored.answered("test", errors.ReadOnlyError("replica"), {})


async def test_a_clock_that_answers_nonsense_is_not_believed(redis_url):
    """Redis's own answer is typed by the client; a proxy between may send anything."""
    client = connect(redis_url, "tests")
    clock = RedisClock(client)
    await clock.ask()
    assert abs(clock.now() - await clock.ask()) < 1
    await client.aclose()
