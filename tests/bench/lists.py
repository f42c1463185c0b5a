"""`make bench-lists`: what pages of `/api/v1/servers` cost over HTTP with 10,000 servers, and how long others wait.

One client reads page after page by its cursors, no address twice, so that nothing is prepared; each round begins with a
new snapshot, whose index and orders the first requests make. Meanwhile another client times `/livez` and `/`, before
and beside it: the reference. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import re
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from deploy import embedded_redis
from tests.bench.one_api import LOAD_CORE, Sampler, Times, get, has_snapshot, publish, run_api, run_redis
from tests.bench.processes import cpu_seconds, until

if TYPE_CHECKING:
    from collections.abc import Iterator

LIST = "/api/v1/servers"
LIVEZ, PAGE = "/livez", "/"
KINDS: dict[str, tuple[tuple[str, ...], int]] = {
    "100 rows": ((f"{LIST}?",), 20),
    "filtered": (
        (
            f"{LIST}?state=online", f"{LIST}?contributor=Ada", f"{LIST}?relayed=true&version=2.1.0",
            f"{LIST}?model=synthetic-1-hf&state=joining&state=unreachable",
        ),
        5,
    ),
    "sorted": (
        tuple(f"{LIST}?sort={sort}" for sort in ("-throughput", "peer_id", "-cache_tokens_left", "contributor")), 5
    ),
    "filtered, sorted, some fields": (
        (f"{LIST}?verdict=reachable&sort=-inference_rps&fields=peer_id,model,inference_rps",), 20
    ),
    "1,000 rows": ((f"{LIST}?limit=1000",), 10),
    "all of it as CSV, 1,000 rows at a time": ((f"{LIST}.csv?limit=1000",), 10),
    "all of it as NDJSON, 1,000 rows at a time": ((f"{LIST}.ndjson?limit=1000",), 10),
}  # fmt: skip
"""First addresses, and how many pages are read from each on."""
_NEXT = re.compile(r'<([^>]+)>; rel="next"')


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.lists", description=__doc__)
    parser.add_argument("--servers", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each with a new snapshot (default 3)")
    parser.add_argument("--alone", type=float, default=5.0, help="seconds of the reference without load (default 5)")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        url, port = run_redis(stack), embedded_redis.free_port()
        asyncio.run(publish(url, arguments.servers))
        api = stack.enter_context(run_api(url, port))
        until(lambda: has_snapshot(port))
        get(port, "/api/v1/state")  # which comes once all of the snapshot is rendered
        os.sched_setaffinity(0, {int(LOAD_CORE)})
        sampler = stack.enter_context(Sampler(port, LIVEZ, PAGE))
        begun, used = time.monotonic(), cpu_seconds(api.pid)
        time.sleep(arguments.alone)
        usual = (cpu_seconds(api.pid) - used) / (time.monotonic() - begun)
        begun = time.monotonic()
        taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
        cpu = dict.fromkeys(KINDS, 0.0)
        firsts = []
        for number in range(arguments.rounds):
            _publish_another(url, port, arguments.servers + 1 + number)
            firsts.append(_seconds(port, f"{LIST}?sort=rtt"))
            for kind, (addresses, pages) in KINDS.items():
                before = cpu_seconds(api.pid)
                for address in addresses:
                    taken[kind] += _read(port, address, pages)
                cpu[kind] += cpu_seconds(api.pid) - before
        ended = time.monotonic()
        sampler.stop()
    alone, beside = (0.0, begun), (begun, ended)
    figures = {
        "servers": arguments.servers,
        "kinds": {
            kind: {
                "ms": Times.of(seconds),
                # Without what the other client and the ages of all pages take meanwhile.
                "cpu_ms": max(0.0, cpu[kind] - usual * sum(seconds)) * 1000 / len(seconds),
            }
            for kind, seconds in taken.items()
        },
        "first_ms": Times.of(firsts),
        "livez_ms": {"alone": sampler.times(LIVEZ, *alone), "beside": sampler.times(LIVEZ, *beside)},
        "page_ms": {"alone": sampler.times(PAGE, *alone), "beside": sampler.times(PAGE, *beside)},
    }
    _print(figures)
    print(json.dumps(figures))
    return 0


def _publish_another(url: str, port: int, servers: int) -> None:
    """Publish a snapshot of so many servers, and wait until all of it is rendered."""
    old = get(port, "/api/v1/state")
    asyncio.run(publish(url, servers))
    until(lambda: old != get(port, "/api/v1/state"))


def _read(port: int, address: str, pages: int) -> Iterator[float]:
    """Yield the seconds that each page takes, from one address on."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    following: str | None = address
    for _ in range(pages):
        if following is None:
            return
        began = time.monotonic()
        connection.request("GET", following, headers={"accept-encoding": "gzip"})
        answer = connection.getresponse()
        answer.read()
        yield time.monotonic() - began
        if answer.status != http.client.OK:
            raise RuntimeError(f"{following}: {answer.status}")
        found = _NEXT.search(answer.getheader("link") or "")
        following = found[1] if found else None


def _seconds(port: int, address: str) -> float:
    (seconds,) = _read(port, address, 1)
    return seconds


def _print(figures: dict[str, Any]) -> None:
    print(f"{figures['servers']:,} servers; a page of a list that is not prepared:")
    for kind, row in figures["kinds"].items():
        times = row["ms"]
        print(
            f"  {kind:42} p50 {times.p50:6.1f} ms, p99 {times.p99:6.1f} ms of {times.requests}; "
            f"{row['cpu_ms']:.1f} ms of processor"
        )
    print(f"  the first of a snapshot, in an order that nobody asked for: {figures['first_ms'].slowest:.1f} ms at most")
    for name, path in (("livez_ms", LIVEZ), ("page_ms", PAGE)):
        alone, beside = figures[name]["alone"], figures[name]["beside"]
        print(
            f"{path}: p50 {alone.p50:.1f} ms, p99 {alone.p99:.1f} alone; {beside.p50:.1f} and {beside.p99:.1f} beside",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
