"""`make bench-followers`: one api with 5,000 event streams and 10,000 feed readers per minute, at 10,000 servers.

Real: Redis, the api, its history with as many changes as are kept, snapshots and changes published meanwhile; each feed
request is a connection of its own, and sends the ETag of the last answer. The reference is a bare ASGI app on the same
uvicorn, which holds as many streams, sends them the same, and answers from memory. The api has one core, all else the
other. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec
import uvloop

from crawler.history.writer import HistoryWriter
from crawler.leader import Leadership
from deploy import embedded_redis
from shared.snapshot import CrawlStatus, PeerState
from shared.store import keys
from shared.store.connection import connect
from shared.store.snapshots import SnapshotWriter
from tests.bench.one_api import LOAD_CORE, SERVER_CORE, Sampler, Times, get, has_snapshot, run_api, run_redis
from tests.bench.processes import cpu_seconds, process, rss_mb, until
from tests.support import synthetic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.snapshot import Snapshot

MODELS = 25
CHANGED = 100
"""Servers that change from one publication to the next: one percent of 10,000."""
SERVER_FEEDS = 2_000
"""Feeds of servers that are polled; the others' are empty, or are these once more."""
TELLS = 3
"""By the bare app."""
OPENED_AT_ONCE = 100
SPARE_FILES = 500
LIVEZ, PAGE = "/livez", "/"
LATEST = 60.0
"""Seconds after which news that did not come are missed."""


class Publication(msgspec.Struct):
    """When something was published (monotonic seconds), and how many changes."""

    snapshot_at: float
    changes_at: float
    changes: int


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.followers", description=__doc__)
    parser.add_argument("--servers", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=5_000)
    parser.add_argument("--readers", type=int, default=10_000, help="each polls once a minute (default 10,000)")
    parser.add_argument("--every", type=float, default=15.0, help="seconds between publications (default 15)")
    parser.add_argument("--publications", type=int, default=2, help="while all of them follow (default 2)")
    parser.add_argument("--bare", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--publish", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        _serve_bare(arguments.bare)
        return 0
    if arguments.publish:
        asyncio.run(_publish_on_request(arguments.publish, arguments.servers))
        return 0
    if not _may_open(arguments.streams + SPARE_FILES):
        print(f"needs {arguments.streams + SPARE_FILES} open files; raise the hard limit: ulimit -Hn", file=sys.stderr)
        return 2
    figures = uvloop.run(_bench(arguments))
    _print(figures)
    print(json.dumps(figures))
    return 0


def _may_open(files: int) -> bool:
    """Raise the limit of open files for this process and its children; return whether it suffices."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard == resource.RLIM_INFINITY or hard >= files


async def _bench(arguments: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as stack:
        url = run_redis(stack)
        api_port, bare_port = embedded_redis.free_port(), embedded_redis.free_port()
        publisher = stack.enter_context(Publisher(url, arguments.servers))
        peers = await publisher.ready()
        api = stack.enter_context(run_api(url, api_port))
        bare = stack.enter_context(process(
            "taskset", "-c", SERVER_CORE, sys.executable, "-m", "tests.bench.followers", "--bare", str(bare_port)
        ))  # fmt: skip
        await asyncio.to_thread(until, lambda: has_snapshot(api_port) and get(bare_port, LIVEZ))
        os.sched_setaffinity(0, {int(LOAD_CORE)})
        os.nice(5)  # so that this crowd is not what the sampler waits for
        reference = await _measure_bare(bare_port, bare.pid, peers, arguments)
        ours = await _measure_api(api_port, api.pid, peers, publisher, arguments)
    return {
        "servers": arguments.servers, "streams": arguments.streams, "readers": arguments.readers,
        "api": ours, "bare": reference,
    }  # fmt: skip


async def _measure_bare(port: int, pid: int, peers: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    rested = rss_mb(pid)
    crowd = await Crowd.gather(port, arguments.streams, peers)
    held = rss_mb(pid)
    told, cpu = [], cpu_seconds(pid)
    for _ in range(TELLS):
        began = crowd.listen()
        await asyncio.to_thread(get, port, "/tell")
        told.append(await crowd.all_told(began))
        await asyncio.sleep(0.5)
    told_cpu = (cpu_seconds(pid) - cpu) / TELLS
    polls = Polls(port, _feeds(peers))
    cpu = cpu_seconds(pid)
    await polls.go_on(arguments.readers / 60, arguments.every / 3)
    figures = {
        "mb_per_1000_streams": (held - rested) * 1000 / arguments.streams,
        "told_seconds": statistics.median(told),
        "told_cpu_seconds": told_cpu,
        "poll_cpu_ms": (cpu_seconds(pid) - cpu) * 1000 / len(polls.seconds),
    }
    crowd.leave()
    return figures


async def _measure_api(
    port: int, pid: int, peers: Sequence[str], publisher: Publisher, arguments: argparse.Namespace
) -> dict[str, Any]:
    quiet, watched = arguments.every / 3, arguments.every * 2 / 3
    with Sampler(port, LIVEZ, PAGE) as sampler:
        # Nobody follows but one.
        began, rested = time.monotonic(), rss_mb(pid)
        one = await Crowd.gather(port, 1, peers)
        await asyncio.sleep(quiet)
        alone_cpu, began_at = cpu_seconds(pid), time.monotonic()
        told_one = await _publication(publisher, one)
        await asyncio.sleep(max(0.0, began_at + watched - time.monotonic()))
        alone_cpu = cpu_seconds(pid) - alone_cpu
        one.leave()
        # Each feed is asked for once: nothing of it is prepared yet.
        alone_end = time.monotonic()
        polls = Polls(port, _feeds(peers))
        cold = await polls.each_once()
        # All follow, and nothing happens.
        opened = time.monotonic()
        crowd = await Crowd.gather(port, arguments.streams, peers)
        opened = time.monotonic() - opened
        await asyncio.sleep(1.0)
        held = rss_mb(pid)
        cpu = cpu_seconds(pid)
        await asyncio.sleep(quiet)
        idle_share = (cpu_seconds(pid) - cpu) / quiet
        # Readers poll as well, and then there is news.
        crowded = time.monotonic()
        polls = Polls(port, polls.feeds, polls.etags)
        per_s = arguments.readers / 60
        seconds = arguments.every * (arguments.publications + 1)
        polling = asyncio.create_task(polls.go_on(per_s, seconds))
        cpu = crowd_cpu = cpu_seconds(pid)
        await asyncio.sleep(watched)
        poll_cpu, poll_count = cpu_seconds(pid) - cpu - idle_share * watched, len(polls.seconds)
        await asyncio.sleep(quiet)
        told, news_cpu, peak = [], [], held
        for _ in range(arguments.publications):
            cpu, began_at = cpu_seconds(pid), time.monotonic()
            told.append(await _publication(publisher, crowd))
            await asyncio.sleep(max(0.0, began_at + watched - time.monotonic()))
            usual = (idle_share + poll_cpu / watched) * (time.monotonic() - began_at)
            news_cpu.append(cpu_seconds(pid) - cpu - usual)
            peak = max(peak, rss_mb(pid))
            await asyncio.sleep(max(0.0, began_at + arguments.every - time.monotonic()))
        await polling
        end = time.monotonic()
        share = (cpu_seconds(pid) - crowd_cpu) / (end - crowded)
        sampler.stop()
        crowd.leave()
    extra = [max(0.0, cpu - alone_cpu) for cpu in news_cpu]
    alone, beside = ((began, alone_end), (crowded, end))
    return {
        "rss_mb": rested, "rss_with_streams_mb": held, "rss_highest_mb": peak,
        "mb_per_1000_streams": (held - rested) * 1000 / arguments.streams,
        "opened_seconds": opened,
        "cold_feeds": len(polls.feeds), "cold_feeds_per_s": cold,
        "livez_ms": {"alone": sampler.times(LIVEZ, *alone), "followed": sampler.times(LIVEZ, *beside)},
        "page_ms": {"alone": sampler.times(PAGE, *alone), "followed": sampler.times(PAGE, *beside)},
        "polls": len(polls.seconds), "polls_per_s": len(polls.seconds) / seconds,
        "poll_ms": Times.of(polls.seconds), "poll_cpu_ms": max(0.0, poll_cpu) * 1000 / poll_count,
        "not_modified": polls.answers["304"], "answers": dict(polls.answers),
        "idle_streams_cpu": idle_share, "cpu": share,
        "told_one_seconds": told_one.snapshot, "told_seconds": statistics.median(one.snapshot for one in told),
        "changes_told_seconds": statistics.median(one.changes for one in told),
        "told_cpu_seconds": statistics.median(extra),
        "changes_missed": sum(one.missed for one in told), "streams_lost": crowd.lost,
    }  # fmt: skip


class Told(NamedTuple):
    """Seconds until the last stream knew, and how many changes did not come to streams that follow all of them."""

    snapshot: float
    changes: float
    missed: int


async def _publication(publisher: Publisher, crowd: Crowd) -> Told:
    crowd.listen()
    published = await publisher.publish()
    snapshot = await crowd.all_told(published.snapshot_at)
    expected = published.changes * crowd.follow_all
    end = time.monotonic() + LATEST
    while crowd.changes < expected and time.monotonic() < end:
        await asyncio.sleep(0.05)
    return Told(snapshot, max(0.0, crowd.changed_at - published.changes_at), expected - crowd.changes)


@dataclass
class Crowd:
    """Open event streams: two of five plain, two follow one server, one of ten a model, one of ten all changes."""

    size: int
    follow_all: int = 0
    told: int = 0
    told_at: float = 0.0
    changes: int = 0
    """That came to streams that follow all."""
    changed_at: float = 0.0
    lost: int = 0
    streams: list[Stream] = field(default_factory=list)

    @classmethod
    async def gather(cls, port: int, size: int, peers: Sequence[str]) -> Self:
        """Open the streams. Raises `TimeoutError` where one does not begin within 20 s."""
        crowd, loop = cls(size), asyncio.get_running_loop()

        async def open_one(number: int) -> None:
            match number % 10:
                case 0 | 1 | 2 | 3:
                    query = ""
                case 4:
                    query = f"?model={_prefix(number // 10 % MODELS)}"
                case 5:
                    query = "?changes=all"
                case _:
                    query = f"?server={peers[number % len(peers)]}"
            path = f"/events{query}"
            stream = Stream(crowd, path)
            crowd.follow_all += stream.follows_all
            await loop.create_connection(lambda: stream, "127.0.0.1", port)
            crowd.streams.append(stream)
            await asyncio.wait_for(stream.begun.wait(), 20)

        for first in range(0, size, OPENED_AT_ONCE):
            await asyncio.gather(*(open_one(number) for number in range(first, min(size, first + OPENED_AT_ONCE))))
        return crowd

    def listen(self) -> float:
        """Count from now on; return the time."""
        self.told, self.changes, self.changed_at = 0, 0, 0.0
        return time.monotonic()

    async def all_told(self, since: float) -> float:
        """Return the seconds from a time until each stream was told. Raises `TimeoutError` after a minute."""
        async with asyncio.timeout(60):
            while self.told < self.size:
                await asyncio.sleep(0.005)
        return self.told_at - since

    def leave(self) -> None:
        """Close all of them."""
        for stream in self.streams:
            stream.close()


class Stream(asyncio.Protocol):
    """One that reads server-sent events."""

    def __init__(self, crowd: Crowd, path: str) -> None:
        self._crowd = crowd
        self._request = f"GET {path} HTTP/1.1\r\nhost: bench\r\naccept: text/event-stream\r\n\r\n".encode()
        self.follows_all = path.endswith("=all")
        self.begun = asyncio.Event()
        self._rest = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        whole, _, self._rest = (self._rest + data).rpartition(b"\n\n")
        if b"event: snapshot" in whole:
            if self.begun.is_set():
                self._crowd.told += 1
                self._crowd.told_at = time.monotonic()
            self.begun.set()
        if self.follows_all and (found := whole.count(b"event: change")):
            self._crowd.changes += found
            self._crowd.changed_at = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._crowd.lost += 1

    def close(self) -> None:
        transport, self._transport = self._transport, None
        transport.close()


class Polls:
    """Feed readers, each with the ETag of the last answer."""

    def __init__(self, port: int, feeds: Sequence[str], etags: dict[str, str] | None = None) -> None:
        self._port = port
        self.feeds = feeds
        self.etags = {} if etags is None else etags
        self.seconds: list[float] = []
        self.answers: Counter[str] = Counter()

    async def each_once(self, at_once: int = 8) -> float:
        """Ask for each feed once, as fast as it is answered; return feeds per second."""
        left, began = list(self.feeds), time.monotonic()

        async def client() -> None:
            while left:
                await self._poll(left.pop())

        await asyncio.gather(*(client() for _ in range(at_once)))
        return len(self.feeds) / (time.monotonic() - began)

    async def go_on(self, per_s: float, seconds: float) -> None:
        """Poll feeds by chance at this rate, whether or not those before were answered."""
        chance, began = random.Random(1), time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(int(per_s * seconds)):
                await asyncio.sleep(max(0.0, began + number / per_s - time.monotonic()))
                group.create_task(self._poll(_any_feed(self.feeds, chance)))

    async def _poll(self, path: str) -> None:
        began = time.monotonic()
        condition = f"if-none-match: {self.etags[path]}\r\n" if path in self.etags else ""
        try:
            async with asyncio.timeout(20):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.write(
                    f"GET {path} HTTP/1.1\r\nhost: bench\r\naccept-encoding: gzip\r\n{condition}"
                    "connection: close\r\n\r\n".encode()
                )
                answer = await reader.read(-1)
                writer.close()
        except OSError as error:
            self.answers[type(error).__name__] += 1
            return
        head = answer.partition(b"\r\n\r\n")[0].decode("latin-1").lower()
        self.seconds.append(time.monotonic() - began)
        self.answers[head[9:12]] += 1
        if "\r\netag: " in head:
            self.etags[path] = head.partition("\r\netag: ")[2].partition("\r\n")[0]


def _prefix(number: int) -> str:
    return f"synthetic-{number}-hf"


def _feeds(peers: Sequence[str]) -> list[str]:
    """Return the feeds: the swarm's, its models', its contributors', and those of servers."""
    return [
        "/changes.atom", "/incidents.atom", "/changes.atom?contributor=Ada", "/changes.atom?contributor=GPU%20Club",
        *(f"/changes.atom?model={_prefix(number)}" for number in range(MODELS)),
        *(f"/changes.atom?server={peer}" for peer in peers[:SERVER_FEEDS]),
    ]  # fmt: skip


def _any_feed(feeds: Sequence[str], chance: random.Random) -> str:
    """Choose one: of three readers two follow a server, one something larger."""
    larger = 4 + MODELS
    return feeds[chance.randrange(larger)] if chance.random() < 1 / 3 else feeds[chance.randrange(larger, len(feeds))]


class Publisher:
    """The crawler's part, in a process of its own, as making a snapshot takes seconds."""

    def __init__(self, url: str, servers: int) -> None:
        command = ["taskset", "-c", LOAD_CORE, "nice", "-n", "10", sys.executable, "-m", "tests.bench.followers"]
        command += ["--publish", url, "--servers", str(servers)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    async def ready(self) -> list[str]:
        """Wait until Redis has the swarm and its history; return the peer ids of servers that changed."""
        peers: list[str] = json.loads(await self._line())
        return peers

    async def publish(self) -> Publication:
        """Publish the next snapshot, and the changes in it."""
        assert self._process.stdin is not None
        self._process.stdin.write("next\n")
        self._process.stdin.flush()
        return msgspec.json.decode(await self._line(), type=Publication)

    async def _line(self) -> str:
        assert self._process.stdout is not None
        return await asyncio.to_thread(self._process.stdout.readline)


async def _publish_on_request(url: str, servers: int) -> None:
    """Publish a swarm all of whose servers have changed once, then one more snapshot for each line of input."""
    redis, chance = connect(url, "bench"), random.Random(1)
    leadership, writer, history = Leadership(redis, "bench"), SnapshotWriter(redis), HistoryWriter(redis)
    snapshot = synthetic.snapshot(servers, MODELS)
    online = [
        server.peer_id for model in snapshot.models for server in model.servers if server.state is PeerState.ONLINE
    ]
    chance.shuffle(online)

    async def publish(changed: set[str], number: int) -> Publication:
        nonlocal snapshot
        snapshot = _next(snapshot, changed, number)
        await leadership.hold()
        await redis.expire(keys.CRAWLER_LEASE, 60)  # on a busy machine the history's entry takes long
        lease, changes = leadership.lease or "", await _changes(redis)
        await writer.publish(snapshot, lease)
        snapshot_at = time.monotonic()
        status = CrawlStatus(ok=True, attempted_at=snapshot.taken_at)
        await writer.report(status, lease)
        await history.append(snapshot, lease)
        return Publication(snapshot_at, time.monotonic(), await _changes(redis) - changes)

    await publish(set(), 0)
    await publish(set(online), 1)
    fields: Any = await redis.hkeys(keys.WATCHED_SERVERS)
    watched = {name.decode().partition(" ")[0] for name in fields}
    online = [peer for peer in online if peer in watched]
    print(json.dumps(online), flush=True)
    number = 1
    while await asyncio.to_thread(sys.stdin.readline):
        number += 1
        print(
            msgspec.json.encode(await publish(set(chance.sample(online, min(CHANGED, len(online)))), number)).decode(),
            flush=True,
        )
    await redis.aclose()


def _next(snapshot: Snapshot, changed: set[str], number: int) -> Snapshot:
    """Return a later snapshot, in which some servers announce another version."""
    models = tuple(
        msgspec.structs.replace(model, servers=tuple(
            msgspec.structs.replace(server, version=f"2.3.{number}") if server.peer_id in changed else server
            for server in model.servers
        ))
        for model in snapshot.models
    )  # fmt: skip
    return msgspec.structs.replace(snapshot, models=models, taken_at=time.time())


async def _changes(redis: Any) -> int:
    if not await redis.exists(keys.CHANGES):
        return 0
    added: int = (await redis.xinfo_stream(keys.CHANGES))["entries-added"]
    return added


def _serve_bare(port: int) -> None:
    """Do the same from memory: all that an ASGI app must do, and nothing more."""
    import uvicorn

    event = b"id: 1764000000000-0\nevent: snapshot\ndata: 1764000000000-0\n\n"
    etag = b'"0123456789abcdef01234567-gzip"'
    feed = {"type": "http.response.body", "body": os.urandom(600)}
    start = {"type": "http.response.start", "status": 200, "headers": [(b"etag", etag), (b"content-length", b"600")]}
    not_modified = {"type": "http.response.start", "status": 304, "headers": [(b"etag", etag)]}
    news = asyncio.Event()

    async def stream(send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while True:
            await send({"type": "http.response.body", "body": event, "more_body": True})
            await news.wait()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal news
        if scope["path"] == "/events":
            await stream(send)
            return
        if scope["path"] == "/tell":
            told, news = news, asyncio.Event()
            told.set()
        known = dict(scope["headers"]).get(b"if-none-match") == etag
        await send(not_modified if known else start)
        await send({"type": "http.response.body"} if known else feed)

    gc.freeze()  # as the api does
    uvicorn.run(app, port=port, loop="uvloop", http="httptools", lifespan="off", log_level="error", access_log=False,
                server_header=False, timeout_graceful_shutdown=1)  # fmt: skip


def _print(figures: dict[str, Any]) -> None:
    ours, bare = figures["api"], figures["bare"]
    print(
        f"{figures['servers']:,} servers, {figures['streams']:,} event streams, {figures['readers']:,} polls a minute\n"
        f"/livez p99 {ours['livez_ms']['alone'].p99:.1f} ms alone, {ours['livez_ms']['followed'].p99:.1f} ms followed "
        f"(slowest {ours['livez_ms']['followed'].slowest:.1f}); / {ours['page_ms']['alone'].p99:.1f} and "
        f"{ours['page_ms']['followed'].p99:.1f} ms\n"
        f"polls: {ours['polls_per_s']:.0f}/s, p50 {ours['poll_ms'].p50:.1f} ms, p99 {ours['poll_ms'].p99:.1f} ms, "
        f"{ours['poll_cpu_ms']:.2f} ms of processor (bare {bare['poll_cpu_ms']:.2f}); answers {ours['answers']}; "
        f"feeds that are not prepared: {ours['cold_feeds_per_s']:.0f}/s\n"
        f"told: {ours['told_seconds']:.2f} s after a snapshot, {ours['changes_told_seconds']:.2f} s after changes; one "
        f"stream alone {ours['told_one_seconds']:.2f} s, by the bare app {bare['told_seconds']:.2f} s; "
        f"{ours['told_cpu_seconds']:.2f} s of processor (bare {bare['told_cpu_seconds']:.2f}); "
        f"{ours['changes_missed']} changes missed, {ours['streams_lost']} streams lost\n"
        f"memory: {ours['rss_mb']:.0f} MB, {ours['rss_with_streams_mb']:.0f} with the streams, highest "
        f"{ours['rss_highest_mb']:.0f}; {ours['mb_per_1000_streams']:.1f} MB per 1,000 streams "
        f"(bare {bare['mb_per_1000_streams']:.1f})\n"
        f"processor: {ours['idle_streams_cpu']:.3f} of a core for streams alone, {ours['cpu']:.3f} for all",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
