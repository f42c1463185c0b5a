"""How close the api comes to the limit: the same answers from a bare ASGI app on the same uvicorn, and from nginx.

`make bench-http` prints ratios and JSON. wrk (Debian) loads one server process at a time from the other core, on
127.0.0.1, for a second; each figure of the api stands between two of the bare app, because machines are noisy.
Beside it: memory, the time to the first page, and how soon a published snapshot is served.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import http.client
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crawler.leader import Leadership
from deploy import embedded_redis
from shared.store.connection import connect
from shared.store.snapshots import SnapshotWriter
from tests.bench.one_api import (
    ENCODING,
    LOAD_CORE,
    SERVER_CORE,
    Answer,
    get,
    has_snapshot,
    publish,
    run_api,
    run_redis,
)
from tests.bench.processes import cpu_seconds, process, rss_mb, until
from tests.support import synthetic

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = (60, 1_000, 10_000)
CONNECTIONS = (1, 32, 256)
PREFIX = synthetic.snapshot(1, 1).models[0].dht_prefix
LIVEZ_SECONDS = 5
"""For which `/livez` is asked, alone and beside a load of each of `BESIDE`."""
PUBLICATIONS = 5


_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_REQUESTS = re.compile(r"(\d+) requests in")
_P99 = re.compile(r"99%\s+([\d.]+)(us|ms|s)")
_TO_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True)
class Case:
    """One kind of request. `revalidates` sends the ETag that was given: the answer is 304."""

    name: str
    path: str
    revalidates: bool = False

    def condition(self, answer: Answer) -> tuple[str, str] | None:
        return ("if-none-match", answer.header("etag")) if self.revalidates else None


CASES = (
    Case("page", "/"),
    Case("page-304", "/", revalidates=True),
    Case("state", "/api/v1/state"),
    Case("state-304", "/api/v1/state", revalidates=True),
    Case("metrics", "/metrics"),
    Case("badge", f"/badge/{PREFIX}.svg"),
    Case("query", "/?utm_source=bench"),
    Case("text", "/swarm.txt?color=1"),
    Case("model", f"/models/{PREFIX}"),
)
BESIDE = ("query", "text", "model")


class Target(NamedTuple):
    """A server under load."""

    port: int
    pid: int


@dataclass(frozen=True)
class Targets:
    """All of them."""

    api: Target
    bare: Target
    nginx: Target | None


class Result(NamedTuple):
    """What wrk measured, and what the server took for it."""

    per_s: float
    p99_ms: float
    cpu_seconds: float
    """Of the server, for one request: what a busy machine does not change."""


@dataclass(frozen=True)
class Load:
    """What wrk does."""

    connections: int
    seconds: int
    header: tuple[str, str] | None

    def on(self, target: Target, path: str) -> Result:
        more = ["-H", f"{self.header[0]}: {self.header[1]}"] if self.header else []
        cpu = cpu_seconds(target.pid)
        output = subprocess.run(
            ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{self.connections}", f"-d{self.seconds}s", "--latency",
             "-H", f"accept-encoding: {ENCODING}", *more, f"http://127.0.0.1:{target.port}{path}"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        rate, p99, requests = _RATE.search(output), _P99.search(output), _REQUESTS.search(output)
        if rate is None or p99 is None or requests is None:
            raise RuntimeError(f"wrk said: {output[:500]}")
        per_request = (cpu_seconds(target.pid) - cpu) / max(1, int(requests[1]))
        return Result(float(rate[1]), float(p99[1]) * _TO_MS[p99[2]], per_request)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.serving", description=__doc__)
    parser.add_argument("--bare", nargs=2, metavar=("FOLDER", "PORT"), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, default=1, help="seconds of load for each figure (default 1)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts (default 3)")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="servers in the snapshot")
    arguments = parser.parse_args()
    if arguments.bare:
        _serve_bare(Path(arguments.bare[0]), int(arguments.bare[1]))
        return 0
    if shutil.which("wrk") is None:
        print("wrk is not installed: apt-get install wrk", file=sys.stderr)
        return 2
    sizes = [_bench(size, arguments.seconds, arguments.rounds) for size in arguments.sizes]
    figures = {"import_seconds": _import_seconds(), "sizes": sizes}
    print(f"importing api.app takes {figures['import_seconds']:.2f} s")
    print(json.dumps(figures))
    return 0


def _bench(servers: int, seconds: int, rounds: int) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        api_port, bare_port, nginx_port = (embedded_redis.free_port() for _ in range(3))
        url = run_redis(stack)
        asyncio.run(publish(url, servers))
        started = time.monotonic()
        api = stack.enter_context(run_api(url, api_port))
        until(lambda: has_snapshot(api_port))
        first_page = time.monotonic() - started
        rested = rss_mb(api.pid)
        answers = {case: _answer(api_port, case) for case in CASES}
        for case, answer in answers.items():
            (folder / case.name).write_bytes(answer.body)
            (folder / f"{case.name}.json").write_text(json.dumps([answer.status, answer.headers]))
        bare = stack.enter_context(process(
            "taskset", "-c", SERVER_CORE, sys.executable, "-m", "tests.bench.serving",
            "--bare", str(folder), str(bare_port),
        ))  # fmt: skip
        until(lambda: get(bare_port, "/page"))
        nginx = None
        if shutil.which("nginx") is not None:
            nginx = Target(nginx_port, stack.enter_context(_nginx(folder, nginx_port)).pid)
            until(lambda: get(nginx_port, "/page"))
        targets = Targets(Target(api_port, api.pid), Target(bare_port, bare.pid), nginx)
        rows = []
        for case, answer in answers.items():
            for connections in CONNECTIONS:
                load = Load(connections, seconds, case.condition(answer))
                rows.append({"servers": servers, "body_bytes": len(answer.body), **_row(case, load, targets, rounds)})
                _print(rows[-1])
        loaded = rss_mb(api.pid)
        alone = _livez(targets.api, None)
        beside = {case.name: _livez(targets.api, case.path) for case in CASES if case.name in BESIDE}
        fresh = asyncio.run(_freshness(url, servers, stack, api_port))
    print(
        f"{servers} servers: first page {first_page:.2f} s after the start, {rested:.0f} MB, {loaded:.0f} MB after the "
        f"load; a new snapshot is served after {fresh * 1000:.0f} ms (slowest of two replicas, median); /livez p99 "
        f"{alone:.1f} ms alone; while four clients load another resource: "
        + ", ".join(f"{name} {p99:.1f} ms" for name, p99 in beside.items()),
        flush=True,
    )
    return {
        "servers": servers, "first_page_seconds": first_page, "rss_mb": rested, "rss_after_load_mb": loaded,
        "fresh_seconds": fresh, "livez_p99_ms": alone, "livez_p99_ms_beside": beside, "rows": rows,
    }  # fmt: skip


def _row(case: Case, load: Load, targets: Targets, rounds: int) -> dict[str, Any]:
    """Compare by turns, and keep the median of each figure: a machine is not equally fast for two seconds."""
    figures = []
    before = load.on(targets.bare, f"/{case.name}")
    for _ in range(rounds):
        ours = load.on(targets.api, case.path)
        after = load.on(targets.bare, f"/{case.name}")
        bare = Result(*(statistics.mean(pair) for pair in zip(before, after, strict=True)))
        figures.append({
            "api_per_s": ours.per_s, "to_bare": ours.per_s / bare.per_s,
            "p99_ms": ours.p99_ms, "p99_to_bare": ours.p99_ms / bare.p99_ms,
            "cpu_us": ours.cpu_seconds * 1e6, "cpu_to_bare": bare.cpu_seconds / ours.cpu_seconds,
        })  # fmt: skip
        before = after
    row: dict[str, Any] = {key: statistics.median(figure[key] for figure in figures) for key in figures[0]}
    if targets.nginx is not None and not case.revalidates:
        row["to_nginx"] = row["api_per_s"] / load.on(targets.nginx, f"/{case.name}").per_s
    return {"case": case.name, "connections": load.connections, "to_nginx": None, **row}


def _livez(api: Target, loaded: str | None) -> float:
    """Return the p99 of `/livez` for one client, in ms, while four others load a path as fast as they can, if any."""
    with ExitStack() as stack:
        if loaded is not None:
            stack.enter_context(process(
                "taskset", "-c", LOAD_CORE, "wrk", "-t1", "-c4", f"-d{LIVEZ_SECONDS + 3}s",
                "-H", f"accept-encoding: {ENCODING}", f"http://127.0.0.1:{api.port}{loaded}",
            ))  # fmt: skip
        return Load(1, LIVEZ_SECONDS, None).on(api, "/livez").p99_ms


def _print(row: dict[str, Any]) -> None:
    nginx = f"{row['to_nginx']:.2f} of nginx" if row["to_nginx"] else ""
    print(
        f"{row['servers']:6} servers, {row['case']:9} {row['connections']:3} connections: {row['api_per_s']:6.0f}/s, "
        f"{row['to_bare']:.2f} of bare ASGI ({row['cpu_to_bare']:.2f} by CPU time), "
        f"p99 {row['p99_ms']:.2f} ms, {row['p99_to_bare']:.2f} of bare; {nginx}",
        flush=True,
    )


def _import_seconds() -> float:
    """Return what importing the api adds to starting Python: the median of five."""

    def take(code: str) -> float:
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.monotonic() - started

    return statistics.median(take("import api.app") - take("pass") for _ in range(5))


async def _freshness(url: str, servers: int, stack: ExitStack, api_port: int) -> float:
    """Return the seconds from a publication until every one of two replicas serves its page: the median of some."""
    other_port = embedded_redis.free_port()
    stack.enter_context(run_api(url, other_port, LOAD_CORE))  # nothing loads that one now
    ports = (api_port, other_port)
    for port in ports:
        await asyncio.to_thread(until, partial(has_snapshot, port))
    redis = connect(url, "bench")
    leadership = Leadership(redis, "bench-fresh")
    writer = SnapshotWriter(redis)
    taken = []
    for number in range(PUBLICATIONS):
        # Another number of servers: another page.
        snapshot = synthetic.snapshot(servers + 1 + number)
        await leadership.hold()
        old = [_page(port) for port in ports]
        await writer.publish(snapshot, leadership.lease or "")
        published = time.monotonic()
        waits = [
            asyncio.to_thread(until, partial(_page_is_not, port, tag)) for port, tag in zip(ports, old, strict=True)
        ]
        await asyncio.gather(*waits)
        taken.append(time.monotonic() - published)
        await asyncio.sleep(3)
    await redis.aclose()
    return statistics.median(taken)


def _serve_bare(folder: Path, port: int) -> None:
    """Say the same from memory: all that an ASGI app must do, and nothing more."""
    import uvicorn

    answers = {}
    for case in CASES:
        status, headers = json.loads((folder / f"{case.name}.json").read_text())
        packed = [(key.encode(), value.encode()) for key, value in headers]
        answers[f"/{case.name}"] = (
            {"type": "http.response.start", "status": status, "headers": packed},
            {"type": "http.response.body", "body": (folder / case.name).read_bytes()},
        )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            start, body = answers[scope["path"]]
            await send(start)
            await send(body)

    gc.freeze()  # as the api does
    uvicorn.run(app, port=port, loop="uvloop", http="httptools", lifespan="off", log_level="error", access_log=False,
                server_header=False)  # fmt: skip


@contextmanager
def _nginx(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; worker_processes 1; worker_cpu_affinity 01; pid {folder}/nginx.pid; error_log /dev/null; "
        f"events {{ worker_connections 1024; }} http {{ access_log off; sendfile on; "
        f"server {{ listen 127.0.0.1:{port}; root {folder}; }} }}"
    )
    folder.chmod(0o755)
    with process("nginx", "-c", str(config), "-p", str(folder)) as started:
        yield started


def _answer(port: int, case: Case) -> Answer:
    answer = get(port, case.path)
    if answer is not None and case.revalidates:
        answer = get(port, case.path, {"if-none-match": answer.header("etag")})
    expected = http.client.NOT_MODIFIED if case.revalidates else http.client.OK
    if answer is None or answer.status != expected:
        raise RuntimeError(f"{case}: the api answered {answer}")
    return answer


def _page_is_not(port: int, etag: str) -> bool:
    return _page(port) != etag


def _page(port: int) -> str:
    """Return the ETag of the page that is served."""
    answer = get(port, "/")
    return "" if answer is None else answer.header("etag")


if __name__ == "__main__":
    sys.exit(main())
