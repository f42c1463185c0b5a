"""This module records every public byte of the api: `python -m tests.support.public_bytes OUT_FOLDER`.

It serves fixed snapshots from a real Redis at a fixed time, requests every route, and writes one file per request:
status, headers and body. Two runs of the same code write the same files, so that `diff -r BEFORE AFTER` shows what a
change did to the public contract. What differs from run to run in life (request ids, how long a check took, the values
of a process's own metrics) is replaced by a word in capitals.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import re
import socket
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from unittest import mock
from urllib.parse import quote, unquote

import msgspec

from api.app import create_app
from api.settings import ApiSettings
from crawler.history.writer import HistoryWriter
from crawler.leader import Leadership
from shared import request_id
from shared.reachability import Answer, Cause, DialOutcome, Stage, encode_answer
from shared.snapshot import PeerState, Verdict, encode
from shared.store import keys
from shared.store.clock import RedisClock
from shared.store.connection import connect
from tests import page_snapshots as swarms
from tests.redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from redis.asyncio import Redis
    from starlette.applications import Starlette
    from starlette.types import Message

    from shared.snapshot import Snapshot

NOW = swarms.NOW
VANTAGE = "here"
PEER = swarms.peer_id("checked")
RELAY = swarms.peer_id("relay")
SNAPSHOT_ID = f"{int(NOW) * 1000}-0"
STATIC = ("app.css", "app.js", "history.css", "favicon.svg")

VERDICTS = {
    "reached": swarms.REACHED,
    "timed_out": swarms.TIMED_OUT,
    "joining": swarms.STILL_JOINING,
    "nobody": swarms.NOBODY_LOOKED,
    "relayed": DialOutcome(
        Verdict.REACHABLE, Stage.ANSWERED, addresses=(f"/ip4/198.51.100.9/tcp/31330/p2p/{RELAY}/p2p-circuit",),
        reached_at=f"/ip4/198.51.100.9/tcp/31330/p2p/{RELAY}/p2p-circuit", relayed=True, relay=RELAY, rtt=0.2,
        protocol_ok=True, durations={"lookup": 0.5, "dial": 0.2, "protocol": 0.1},
    ),
    "relay_refused": DialOutcome(
        Verdict.UNREACHABLE, Stage.DIAL, Cause.RELAY_REFUSED, "NO_RESERVATION (204)", relay=RELAY
    ),
    "private": DialOutcome(
        Verdict.UNREACHABLE, Stage.DIAL, Cause.NOT_DIALABLE, "no good addresses", ("/ip4/10.0.0.4/tcp/31330",)
    ),
}  # fmt: skip

BROWSER = "text/html,application/xhtml+xml,*/*;q=0.8"
Wanted: TypeAlias = "tuple[str, str, dict[str, str]]"
"""Path and query, method, headers; `client` among these is the caller's address."""
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
STRANGER = "203.0.113.5"


def relayed_swarm() -> Snapshot:
    """Servers that are reached, or not, over a relay."""
    servers = [
        swarms.make_server("r0", 0, 12, using_relay=True, relayed=True),
        swarms.make_server("r1", 12, 24, using_relay=False, relayed=True),
        swarms.make_server("r2", 12, 24, using_relay=True, relayed=False),
        swarms.make_server("r3", 0, 24, PeerState.UNREACHABLE, using_relay=True),
    ]
    models = [swarms.make_model("relayed-hf", 24, servers)]
    made: Snapshot = swarms.make_snapshot(models, unanswered_keys=2, undialled_servers=1)
    return made


SNAPSHOTS: dict[str, Callable[[], Snapshot | None]] = {
    "none": lambda: None,
    "empty": swarms.private_empty,
    "3": lambda: swarms.swarm_of(3),
    "60": swarms.swarm_of_60,
    "1000": lambda: swarms.swarm_of(1000),
    "hostile": lambda: msgspec.structs.replace(swarms.hostile_swarm(), top_contributors={swarms.EVIL: 2**60, "": 1}),
    "stale": lambda: msgspec.structs.replace(swarms.swarm_of_60(), taken_at=NOW - 3600),
    "relayed": relayed_swarm,
}


class Client:
    """Requests an app's answers over ASGI and writes each into a file."""

    def __init__(self, app: Starlette, folder: Path) -> None:
        self._app = app
        self._folder = folder
        self._number = 0

    async def request(self, target: str, method: str = "GET", *, client: str = "127.0.0.1", **headers: str) -> int:
        """Record the answer, and return its status."""
        path, _, query = target.partition("?")
        sent: list[Message] = []
        asked = False

        async def receive() -> Message:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)

        given = {"host": "monitor.example", **{name.replace("_", "-"): value for name, value in headers.items()}}
        http_version = given.pop("http-version", "1.1")
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": http_version,
            "method": method, "scheme": "http", "path": unquote(path), "raw_path": path.encode(), "root_path": "",
            "query_string": query.encode(), "client": (client, 4000), "server": ("127.0.0.1", 80),
            "headers": [(name.encode(), value.encode()) for name, value in given.items()], "state": {},
        }  # fmt: skip
        answering = asyncio.ensure_future(self._app(scope, receive, send))
        # An event stream goes on for ever: its first events are what a subscriber is told.
        await asyncio.wait([answering], timeout=0.3 if target.startswith("/events") and http_version == "1.1" else None)
        if answering.done():
            answering.exception()  # after the answer: Starlette raises what it has answered with a 500
        else:
            answering.cancel()
        start = sent[0]
        body = b"".join(message.get("body", b"") for message in sent[1:])
        shown = " ".join(f"{name}={value}" for name, value in headers.items())
        self._write(f"{method} {target} {shown}".strip(), start["status"], start.get("headers", ()), body)
        status: int = start["status"]
        return status

    def _write(self, title: str, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        self._number += 1
        name = re.sub(r"[^A-Za-z0-9.=?-]+", "_", title)[:100]
        digest = hashlib.sha256(title.encode()).hexdigest()[:6]
        lines = [title, f"{status}", *sorted(f"{name.decode()}: {value.decode('latin-1')}" for name, value in headers)]
        encoded = any(name == b"content-encoding" for name, _ in headers)
        content = b"sha256 " + hashlib.sha256(body).hexdigest().encode() if encoded else body
        text = normalised("\n".join(lines).encode() + b"\n\n" + content)
        (self._folder / f"{self._number:03}_{name}_{digest}").write_bytes(text)


def normalised(text: bytes) -> bytes:
    """Return what was recorded without what differs from run to run."""
    if b" /static/" in text[:100]:  # by when the files were checked out
        text = re.sub(rb"(?m)^(etag|last-modified): .*$", rb"\1: OF A FILE", text)
    text = re.sub(rb"(?m)^allow: HEAD, GET$", b"allow: GET, HEAD", text)  # Starlette keeps methods in a set
    text = re.sub(rb"(?m)^(retry-after: |ratelimit: .*;t=)([3-6]\d|[12]\d)$", rb"\1SECONDS LEFT", text)
    text = re.sub(rb"(probe_duration_seconds|stage=\"queue\"\}) [0-9.e-]+", rb"\1 SECONDS", text)
    return re.sub(rb"(?m)^(etag|content-length): .*$", rb"\1: OF A DURATION", text) if b" SECONDS\n" in text else text


def metrics_without_values(text: str) -> str:
    """Return names, helps, types and label sets of a process's own metrics: their values are never the same twice."""
    lines = [line if line.startswith("#") else line.rpartition(" ")[0] for line in text.splitlines()]
    return "\n".join(line for line in lines if "_created" not in line) + "\n"


def requests_of(snapshot: Snapshot | None) -> Iterator[Wanted]:
    """Yield (target, method, headers) for every route, known and unknown names, errors, encodings and methods."""
    yield from _routes()
    yield from _names(snapshot)
    yield from _checks()
    yield from _negotiations()
    yield from _other_pages(snapshot)


def _routes() -> Iterator[Wanted]:
    for target in (
        "/", "/check", f"/check?peer_id={PEER}", "/check/notanid", "/incidents", "/incidents.atom", "/swarm.txt",
        "/swarm.txt?color=1", "/swarm.txt?utm_source=x", "/api/v1/state", "/api/v1/state?x=1", "/api/v1/models",
        "/api/v1/incidents", "/api/v1/incidents?limit=1", "/api/v1/incidents?limit=0", "/api/v1/incidents?limit=x",
        "/api/v1/incidents?model=falcon-180B-chat", "/api/v1/is_reachable", "/api/v1/is_reachable/",
        "/api/v1/is_reachable/notanid", "/metrics", "/api/prometheus", "/metrics/servers", "/probe", "/probe?target=",
        "/probe?target=notanid", "/openapi.json", "/livez", "/readyz", "/events", "/nothing", "/api/v2/state",
        "/static/nothing.css", "/models", "/models/", "/servers/", "/badge/.svg", *(f"/static/{n}" for n in STATIC),
        *(f"/{kind}/{name}" for kind in ("models", "servers", "check") for name in ("nobody", "falcon")),
        *(f"/api/v1/{kind}/{name}" for kind in ("models", "servers") for name in ("nobody", "falcon")),
        *(f"/api/v1/history/{kind}/{name}" for kind in ("models", "servers") for name in ("nobody", PEER)),
    ):  # fmt: skip
        yield target, "GET", {}
        yield target, "GET", {"accept": BROWSER}


def _names(snapshot: Snapshot | None) -> Iterator[Wanted]:
    models = [model.dht_prefix for model in snapshot.models][:6] if snapshot is not None else ["demo"]
    for prefix in models:
        name = quote(prefix, safe="")
        for target in (
            f"/models/{name}", f"/api/v1/models/{name}", f"/api/v1/history/models/{name}", f"/badge/{name}.svg",
            f"/badge/{name}.svg?metric=coverage", f"/badge/{name}.svg?metric=uptime", f"/badge/{name}.svg?metric=x",
            *(f"/api/v1/history/models/{name}?resolution={each}" for each in ("minute", "day", "week")),
        ):  # fmt: skip
            yield target, "GET", {}
    ids = [server.peer_id for model in snapshot.models for server in model.servers] if snapshot is not None else []
    bootstrap = [peer.peer_id for peer in snapshot.bootstrap_peers][:1] if snapshot is not None else []
    for peer in [*ids[:3], *ids[-2:], *bootstrap, PEER]:
        name = quote(peer, safe="")
        for path in ("/servers/", "/api/v1/servers/", "/api/v1/history/servers/"):
            yield path + name, "GET", {}
    if ids:
        yield f"/servers/{ids[0][-6:]}", "GET", {"accept": BROWSER}
        yield f"/api/v1/servers/{ids[0][:-1]}", "GET", {}


def _checks() -> Iterator[Wanted]:
    for name in VERDICTS:
        peer = swarms.peer_id(name)
        for target in (f"/api/v1/is_reachable/{peer}", f"/check/{peer}", f"/probe?target={peer}"):
            yield target, "GET", {}
    reached = swarms.peer_id("reached")
    yield f"/api/v1/is_reachable/{reached}?vantage=elsewhere", "GET", {}
    yield f"/api/v1/is_reachable/{swarms.peer_id('private')}", "GET", {"client": "198.51.100.1"}
    yield f"/api/v1/is_reachable/{reached}?fresh=1", "GET", {"client": STRANGER}
    yield f"/api/v1/is_reachable/{reached}", "GET", {"client": STRANGER}
    yield f"/api/v1/is_reachable/{reached}", "GET", {"client": STRANGER}  # one more than the limit
    yield f"/check/{reached}", "GET", {"client": STRANGER}
    yield f"/probe?target={reached}", "GET", {"accept": OPENMETRICS}


def _negotiations() -> Iterator[Wanted]:
    for target in ("/", "/api/v1/state", "/swarm.txt", "/metrics", "/openapi.json", "/incidents", "/api/v1/models"):
        for encoding in ("gzip", "br", "zstd", "gzip;q=0.5, br;q=0.9, zstd;q=0", "identity", "*", "nonsense"):
            yield target, "GET", {"accept_encoding": encoding}
        yield target, "GET", {"if_none_match": "*"}
        yield target, "HEAD", {"accept_encoding": "gzip"}
        for method in ("POST", "DELETE", "OPTIONS"):
            yield target, method, {"origin": "https://elsewhere.example"}
    for target in ("/events", "/api/v1/is_reachable/x", "/badge/x.svg", "/incidents.atom", "/livez", "/nothing"):
        for method in ("HEAD", "OPTIONS", "PUT"):
            yield target, method, {"origin": "https://elsewhere.example"}
    for target in ("/", "/metrics", "/api/prometheus", "/metrics/servers"):
        yield target, "GET", {"accept": OPENMETRICS}
        yield target, "GET", {"accept": "text/plain"}
    yield "/events", "GET", {"http_version": "1.0"}
    yield "/events", "GET", {"last_event_id": SNAPSHOT_ID}
    yield "/livez", "GET", {"x_request_id": "given-by-the-caller"}
    yield "/incidents.atom", "GET", {"host": "bad host"}


def _other_pages(snapshot: Snapshot | None) -> Iterator[Wanted]:
    models = [quote(model.dht_prefix, safe="") for model in snapshot.models][:2] if snapshot is not None else ["demo"]
    names = [quote(name, safe="") for name in snapshot.top_contributors][:2] if snapshot is not None else ["nobody"]
    peers = (
        [server.peer_id for model in snapshot.models for server in model.servers][:1] if snapshot is not None else []
    )
    asked = [*names, *models, *(peer[-6:] for peer in peers), "a1", "%20"]
    for target in (
        "/docs", "/help", "/help?gpu=24", "/help?gpu=1", "/glossary", "/contributors", "/data", "/data/nothing",
        "/reports", "/reports/2026-W48", "/reports/x", "/reports.atom", "/places", "/og.png", "/changes.atom",
        "/i/nothing", "/robots.txt", "/api/v1/contributors", "/api/v1/data", "/api/v1/reports", "/api/v1/changes",
        "/api/v1/reports/2026-W48", "/api/v1/servers", "/api/v1/servers.csv", "/api/v1/models.ndjson",
        "/api/v1/servers?limit=2&sort=-throughput&fields=peer_id,state", "/api/v1/servers?sort=x",
        *(f"{start}{name}" for start in ("/search?q=", "/api/v1/search?q=", "/check?q=") for name in asked),
        *(f"{start}{name}" for start in ("/contributors/", "/api/v1/contributors/") for name in [*names, "nobody"]),
        *(f"{start}{name}" for start in ("/share/models/", "/embed/models/") for name in [*models, "nobody"]),
        *(f"/og/models/{name}.png" for name in [*models, "nobody"]),
        *(f"/changes.atom?model={name}" for name in models),
        *(f"/changes.atom?server={peer}" for peer in peers),
        *(f"/badge/{name}.svg?metric={metric}" for name in models for metric in ("usable", "speed")),
    ):  # fmt: skip
        yield target, "GET", {}
        yield target, "GET", {"accept": BROWSER}


async def publish(redis: Redis, snapshot: Snapshot | None) -> None:
    """Write a snapshot with a past, as a crawler does, but under a fixed id; and the verdicts of one vantage point."""
    await redis.flushall()
    seconds, _ = await redis.time()
    await redis.zadd(keys.VANTAGES, {VANTAGE: (seconds + 3600) * 1000})
    for name, outcome in VERDICTS.items():
        peer = swarms.peer_id(name)
        answer = Answer(peer, VANTAGE, NOW - 2, outcome)
        await redis.set(keys.verdict(VANTAGE, peer), encode_answer(answer), ex=3600)
    if snapshot is None:
        return
    leader = Leadership(redis, "recorder")
    assert await leader.hold()
    assert leader.lease is not None
    broken = msgspec.structs.replace(
        snapshot, models=tuple(msgspec.structs.replace(m, servers=m.servers[:1]) for m in snapshot.models)
    )
    for age, each in ((240, snapshot), (180, broken), (120, broken), (60, snapshot), (0, snapshot)):
        crawl = msgspec.structs.replace(each, taken_at=snapshot.taken_at - age)
        await HistoryWriter(redis).append(crawl, leader.lease)
    fields: dict[Any, Any] = {"taken_at": repr(snapshot.taken_at), "snapshot": encode(snapshot)}
    await redis.xadd(keys.SNAPSHOTS, fields, id=SNAPSHOT_ID)


async def record(name: str, redis_url: str, snapshot: Snapshot | None, folder: Path, **settings: Any) -> None:
    """Start an api, request everything of it, and write the answers into a folder of their own."""
    folder = folder / name
    folder.mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {
        "per_server_metrics": "on", "probe_endpoint": "on", "rate_limit": 2, "trusted_networks": ["127.0.0.0/8"],
        "api_metrics_port": port, "reachability_deadline": 1.0,
    }  # fmt: skip
    app = create_app(ApiSettings(redis_url=redis_url, **given, **settings))
    client = Client(app, folder)
    async with app.router.lifespan_context(app):
        if snapshot is not None:
            await until_served(app, folder)
        for target, method, headers in requests_of(snapshot):
            await client.request(target, method, **headers)
        url = f"http://127.0.0.1:{port}/metrics"
        own = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
        (folder / "own_metrics").write_text(metrics_without_values(own))


async def until_served(app: Starlette, folder: Path) -> None:
    """Wait until the api has the snapshot's documents."""
    scratch = folder / "scratch"
    scratch.mkdir()
    try:
        async with asyncio.timeout(30):
            while (await Client(app, scratch).request("/api/v1/state")) != 200:
                await asyncio.sleep(0.05)
    finally:
        for each in scratch.iterdir():
            each.unlink()
        scratch.rmdir()


def freeze(stack: ExitStack) -> None:
    """Stop the clock at `NOW`, and give each request the same id."""

    async def ask(self: RedisClock) -> float:
        return NOW

    stack.enter_context(mock.patch.object(RedisClock, "now", return_value=NOW))
    stack.enter_context(mock.patch.object(RedisClock, "ask", ask))
    stack.enter_context(mock.patch.object(request_id, "new", return_value="REQUEST-ID"))


async def main(folder: Path) -> None:
    server = RedisServer()
    server.start()
    try:
        redis = connect(server.url, "recorder")
        for name, make in SNAPSHOTS.items():
            snapshot = make()
            await publish(redis, snapshot)
            await record(name, server.url, snapshot, folder)
        await publish(redis, swarms.swarm_of_60())
        await record("hidden", server.url, swarms.swarm_of_60(), folder, peer_addresses="hidden")
        await publish(redis, swarms.swarm_of_60())
        await redis.delete(keys.VANTAGES)
        await record("no_worker", server.url, swarms.swarm_of_60(), folder)
        await redis.aclose()
    finally:
        server.kill()
    await record("redis_away", server.url, None, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    started = time.monotonic()
    with ExitStack() as patches:
        freeze(patches)
        asyncio.run(main(parser.parse_args().folder))
    print(f"recorded in {time.monotonic() - started:.0f} s", file=sys.stderr)
