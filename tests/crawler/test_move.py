"""Moving a monitor: the whole history comes through a file, and nothing else does."""

import msgspec
import pytest
from backports import zstd

from crawler.history import move
from crawler.history.move import MoveError, parse, read_history, write_history
from shared.inference import InferenceOutcome, ServerInference, Usability, UsabilityState
from shared.store import keys
from tests.crawler.recording import START, lead, record
from tests.fakes import model, peer_id, server, snapshot


def packed(*entries, version=1):
    return zstd.compress(msgspec.msgpack.encode({"version": version, "entries": entries}))


def entry(key=keys.HISTORY_HEAD, kind="string", value=b"1.0", life=None):
    return {"type": kind, "key": key, "life": life, "value": value}


async def contents(redis):
    """Every key of the history with its value and whether it has an end."""
    names = sorted(await redis.keys("petals:history:*") + await redis.keys("petals:incidents:*"))
    return {name: (await redis.dump(name), await redis.ttl(name) > 0) for name in names}


async def test_a_history_moves_as_it_is(redis, tmp_path):
    """Rings, indexes, outages and what was told are the same afterwards, and the next crawl goes on from them."""
    computed = ServerInference(InferenceOutcome.COMPUTED, (0, 8), START + 1.0, 0.1, 0.1)
    chain = Usability(UsabilityState.USABLE, START + 1.0, seconds_per_token=0.1)
    whole = model(blocks=8, servers=(server(1, 0, 8, inference=computed),), usability=chain)
    half = model(blocks=8, servers=(server(1, 0, 4),))
    crawls = [
        snapshot(each, taken_at=START + 60.0 * n) for n, each in enumerate((whole, half, half, whole, whole, half))
    ]
    await record(redis, *crawls)
    await redis.set("somebody:else", 1)
    assert await redis.exists(keys.inference_of_model("demo-model"), keys.inference_of_server(peer_id(1))) == 2
    before = await contents(redis)
    assert "1 models, 1 servers" in await write_history(redis, tmp_path / "history")
    await redis.flushall()
    await read_history(redis, tmp_path / "history")
    assert await contents(redis) == before
    assert not await redis.exists("somebody:else", keys.CRAWLER_LEASE)
    await record(redis, snapshot(half, taken_at=START + 400.0))
    assert await redis.hlen(keys.OPEN_INCIDENTS) == 1


async def test_an_import_spoils_nothing_that_is_there(redis, tmp_path):
    """Not beside a crawler that leads, and not over another history; an export overwrites no file."""
    _, leader = await record(redis, snapshot(taken_at=START + 1.0))
    await write_history(redis, tmp_path / "history")
    with pytest.raises(FileExistsError):
        await write_history(redis, tmp_path / "history")
    before = await contents(redis)
    with pytest.raises(MoveError, match="a crawler leads"):
        await read_history(redis, tmp_path / "history")
    await leader.release()
    with pytest.raises(MoveError, match="history already"):
        await read_history(redis, tmp_path / "history")
    assert await contents(redis) == before
    await lead(redis, "the lease was given back")


async def test_an_import_that_was_interrupted_can_be_repeated(redis, tmp_path, monkeypatch):
    """Half of a history counts as none: the same command makes it whole."""
    await record(redis, snapshot(taken_at=START + 1.0))
    before = await contents(redis)
    await write_history(redis, tmp_path / "history")
    await redis.flushall()
    write, written = move._write, []

    async def fail_at_the_third(redis, entries):
        written.append(entries)
        if len(written) == 3:
            raise ConnectionError
        await write(redis, entries)

    monkeypatch.setattr(move, "KEYS_AT_ONCE", 2)
    monkeypatch.setattr(move, "_write", fail_at_the_third)
    with pytest.raises(ConnectionError):
        await read_history(redis, tmp_path / "history")
    monkeypatch.setattr(move, "_write", write)
    await read_history(redis, tmp_path / "history")
    assert await contents(redis) == before


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no zstd",
        packed(entry())[:-3],
        packed(entry(), version=2),
        zstd.compress(b"\x91" * 100_000),
        packed(entry("petals:crawler:lease")),
        packed(entry("rq:job:x", "hash", {b"data": b"pickle"})),
        packed(entry("petals:snapshots", "stream", [("1-1", {b"a": b"b"})])),
        packed(entry(keys.HISTORY_MODELS)),
        packed(entry(value=b"x" * 1_000_000)),
        packed(entry(keys.history_of_server("x"), value=b"x" * 1_000)),
        packed(entry(keys.closed_incidents(official=True), "stream", [("18446744073709551615-1", {b"a": b"b"})])),
        packed(entry(keys.OPEN_INCIDENTS, "hash", {})),
    ],
)
def test_a_hostile_file_is_refused_whole(data):
    """What is no history, or would write other keys than the history's, is said to be so before anything is written."""
    with pytest.raises(MoveError, match="this file"):
        parse(data)


def test_no_imported_ring_lives_for_ever():
    """A ring without an end in the file gets its own; so one that no index names is deleted by itself."""
    (ring,) = parse(packed(entry(keys.history_of_server("x"), life=None)))
    (long_ring,) = parse(packed(entry(keys.history_of_server("x"), life=10**12)))
    assert ring.life == long_ring.life == 31 * 86400
