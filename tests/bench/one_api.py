"""This module runs one api on a core of its own for benchmarks, and asks it from the other core.

`python -m tests.bench.one_api PORT PATH …` is the client that times single requests (`Sampler`).
"""

from __future__ import annotations

import http.client
import itertools
import json
import select
import socket
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from crawler.leader import Leadership
from deploy import embedded_redis
from shared.store.connection import connect
from shared.store.snapshots import SnapshotWriter
from tests.bench.processes import process, until
from tests.support import synthetic

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import ExitStack

ENCODING = "br"
SERVER_CORE, LOAD_CORE = "0", "1"
SAMPLE_EVERY = 0.01
"""Seconds between two requests of a `Sampler`."""


@dataclass(frozen=True)
class Answer:
    """What the api said, for others to say it too."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        return dict(self.headers).get(name, "")


def run_redis(stack: ExitStack) -> str:
    """Run Redis for as long as the stack; return its URL."""
    port = embedded_redis.free_port()
    stack.enter_context(process(*embedded_redis.command(port, None)))
    until(lambda: _listens(port))
    return f"redis://127.0.0.1:{port}/0"


def run_api(url: str, port: int, core: str = SERVER_CORE) -> Any:
    """Return the context manager of an api on one core."""
    return process("taskset", "-c", core, sys.executable, "-m", "api", REDIS_URL=url, API_PORT=str(port))


async def publish(url: str, servers: int) -> None:
    """Publish a synthetic snapshot as a crawler does. It stays new for an hour: with its age, ETags would change."""
    snapshot = msgspec.structs.replace(synthetic.snapshot(servers), update_period=3600.0)
    redis = connect(url, "bench")
    leadership = Leadership(redis, "bench")
    await leadership.hold()
    await SnapshotWriter(redis).publish(snapshot, leadership.lease or "")
    await leadership.release()
    await redis.aclose()


def get(port: int, path: str, headers: dict[str, str] | None = None) -> Answer | None:
    """Return the answer, None while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with suppress(OSError):
        connection.request("GET", path, headers={"accept-encoding": ENCODING, **(headers or {})})
        response = connection.getresponse()
        kept = [
            (name.lower(), value) for name, value in response.getheaders() if name.lower() not in ("date", "server")
        ]
        return Answer(response.status, kept, response.read())
    return None


def has_snapshot(port: int) -> bool:
    """Whether the api serves the page of a snapshot. It may take requests before it has one."""
    answer = get(port, "/", {"accept-encoding": "identity"})
    return answer is not None and b"synthetic-0" in answer.body


class Times(NamedTuple):
    """Milliseconds that requests took."""

    requests: int
    p50: float
    p99: float
    slowest: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Self:
        taken = sorted(one * 1000 for one in seconds)
        return cls(len(taken), statistics.median(taken), taken[int(len(taken) * 0.99)], taken[-1])


class Sampler:
    """One client in a process of its own, which asks for each path in turn, a request every 10 ms.

    Where an answer is late, the requests that it kept from being sent count as well, each by what is left of it.
    """

    def __init__(self, port: int, *paths: str) -> None:
        command = ["taskset", "-c", LOAD_CORE, sys.executable, "-m", "tests.bench.one_api", str(port), *paths]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._taken: dict[str, list[tuple[float, float]]] = {}
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it has begun

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.communicate()

    def stop(self) -> None:
        """End the client, and keep what it measured."""
        self._taken = json.loads(self._process.communicate()[0])

    def times(self, path: str, begin: float = 0.0, end: float = float("inf")) -> Times:
        """Return what requests took that were sent between two times (monotonic seconds)."""
        return Times.of(seconds for sent, seconds in self._taken[path] if begin <= sent < end)


def _sample(port: int, paths: list[str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    taken: dict[str, list[tuple[float, float]]] = {path: [] for path in paths}
    turns = itertools.cycle(paths)
    while not select.select([sys.stdin], [], [], SAMPLE_EVERY)[0]:
        path, sent = next(turns), time.monotonic()
        connection.request("GET", path, headers={"accept-encoding": ENCODING})
        connection.getresponse().read()
        seconds = time.monotonic() - sent
        missed = range(int(seconds / SAMPLE_EVERY) + 1)
        if not any(taken.values()):
            print(flush=True)
        taken[path] += [(sent, seconds - number * SAMPLE_EVERY) for number in missed]
    print(json.dumps(taken))


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


if __name__ == "__main__":
    _sample(int(sys.argv[1]), sys.argv[2:])
