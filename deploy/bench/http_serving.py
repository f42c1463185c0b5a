"""How close the api comes to the limit: the same bytes from a bare ASGI app on the same uvicorn, and from nginx.

`make bench-http` prints ratios first. wrk (Debian) loads one server process at a time from the other core, on
127.0.0.1, for a second or two each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crawler.leader import Leadership
from deploy import embedded_redis, synthetic
from shared.redis_client import connect
from shared.snapshot_store import SnapshotWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUTES = ("/", "/api/v1/state", "/metrics")
SIZES = (60, 1_000, 10_000)
CONNECTIONS = (1, 32, 256)
ENCODING = "br"
SERVER_CORE, LOAD_CORE = "0", "1"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.bench.http_serving", description=__doc__)
    parser.add_argument("--bare", nargs=2, metavar=("FOLDER", "PORT"), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, default=2, help="of load for each figure (default 2)")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="servers in the snapshot")
    arguments = parser.parse_args()
    if arguments.bare:
        _serve_bare(Path(arguments.bare[0]), int(arguments.bare[1]))
        return 0
    if shutil.which("wrk") is None:
        print("wrk is not installed: apt-get install wrk", file=sys.stderr)
        return 2
    rows = [row for size in arguments.sizes for row in _bench(size, arguments.seconds)]
    print(f"{'route':15} {'servers':>7} {'conn':>5} {'api/s':>8} {'/bare':>6} {'/nginx':>6} {'p99 ms':>7} {'/bare':>6}")
    for row in rows:
        nginx = f"{row['to_nginx']:6.2f}" if row["to_nginx"] else "     -"
        print(
            f"{row['route']:15} {row['servers']:7} {row['connections']:5} {row['api_per_s']:8.0f} "
            f"{row['to_bare']:6.2f} {nginx} {row['p99_ms']:7.2f} {row['p99_to_bare']:6.2f}"
        )
    print(json.dumps(rows))
    return 0


def _bench(servers: int, seconds: int) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis_port, api_port, bare_port, nginx_port = (embedded_redis.free_port() for _ in range(4))
        url = f"redis://127.0.0.1:{redis_port}/0"
        stack.enter_context(_process(*embedded_redis.command(redis_port, None)))
        time.sleep(0.5)
        asyncio.run(_publish(url, servers))
        started = time.monotonic()
        api = stack.enter_context(_process(
            "taskset", "-c", SERVER_CORE, sys.executable, "-m", "api", REDIS_URL=url, API_PORT=str(api_port)
        ))  # fmt: skip
        _until(lambda: _fetch(api_port, "/api/v1/state"))
        first_page = time.monotonic() - started
        for route in ROUTES:
            body, headers = _fetch(api_port, route) or (b"", {})
            name = route.strip("/").replace("/", "_") or "index"
            (folder / name).write_bytes(body)
            (folder / f"{name}.json").write_text(json.dumps(headers))
        stack.enter_context(_process(
            "taskset", "-c", SERVER_CORE, sys.executable, "-m", "deploy.bench.http_serving",
            "--bare", str(folder), str(bare_port),
        ))  # fmt: skip
        _until(lambda: _fetch(bare_port, "/"))
        with_nginx = shutil.which("nginx") is not None
        if with_nginx:
            stack.enter_context(_nginx(folder, nginx_port))
            _until(lambda: _fetch(nginx_port, "/index"))
        memory = _rss(api.pid)
        for route in ROUTES:
            name = route.strip("/").replace("/", "_") or "index"
            for connections in CONNECTIONS:
                bare = _wrk(bare_port, route, connections, seconds)
                ours = _wrk(api_port, route, connections, seconds)
                nginx = _wrk(nginx_port, f"/{name}", connections, seconds) if with_nginx else None
                yield {
                    "route": route,
                    "servers": servers,
                    "connections": connections,
                    "api_per_s": ours[0],
                    "to_bare": ours[0] / bare[0],
                    "to_nginx": ours[0] / nginx[0] if nginx else None,
                    "p99_ms": ours[1],
                    "p99_to_bare": ours[1] / bare[1],
                    "body_bytes": (folder / name).stat().st_size,
                    "api_rss_mb": memory,
                    "cold_start_to_first_state_s": first_page,
                }


async def _publish(url: str, servers: int) -> None:
    redis = connect(url, "bench")
    leadership = Leadership(redis, "bench")
    await leadership.hold()
    await SnapshotWriter(redis).publish(synthetic.snapshot(servers), leadership.lease or "")
    await redis.aclose()


def _serve_bare(folder: Path, port: int) -> None:
    """Serve files with their headers from memory: all that an ASGI app must do, and nothing more."""
    import uvicorn

    answers = {}
    for route in ROUTES:
        name = route.strip("/").replace("/", "_") or "index"
        headers = [(key.encode(), value.encode()) for key, value in json.loads((folder / f"{name}.json").read_text())]
        answers[route] = (
            {"type": "http.response.start", "status": 200, "headers": headers},
            {"type": "http.response.body", "body": (folder / name).read_bytes()},
        )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            start, body = answers[scope["path"]]
            await send(start)
            await send(body)

    uvicorn.run(app, port=port, loop="uvloop", http="httptools", lifespan="off", log_level="error", access_log=False,
                server_header=False)  # fmt: skip


@contextmanager
def _nginx(folder: Path, port: int) -> Iterator[None]:
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; worker_processes 1; worker_cpu_affinity 01; pid {folder}/nginx.pid; error_log /dev/null; "
        f"events {{ worker_connections 1024; }} http {{ access_log off; sendfile on; "
        f"server {{ listen 127.0.0.1:{port}; root {folder}; }} }}"
    )
    folder.chmod(0o755)
    with _process("nginx", "-c", str(config), "-p", str(folder)):
        yield


@contextmanager
def _process(*command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def _fetch(port: int, route: str) -> tuple[bytes, list[tuple[str, str]]] | None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{route}", headers={"accept-encoding": ENCODING})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            headers = [(name, value) for name, value in answer.getheaders() if name not in ("date", "server")]
            return answer.read(), headers
    except OSError:
        return None


def _until(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("a server under test did not start")
        time.sleep(0.02)


_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_P99 = re.compile(r"99%\s+([\d.]+)(us|ms|s)")
_TO_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def _wrk(port: int, route: str, connections: int, seconds: int) -> tuple[float, float]:
    """Return requests a second and the 99th percentile in ms."""
    output = subprocess.run(
        ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency",
         "-H", f"accept-encoding: {ENCODING}", f"http://127.0.0.1:{port}{route}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    rate, p99 = _RATE.search(output), _P99.search(output)
    if rate is None or p99 is None:
        raise RuntimeError(f"wrk said: {output[:500]}")
    return float(rate[1]), float(p99[1]) * _TO_MS[p99[2]]


def _rss(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(main())
