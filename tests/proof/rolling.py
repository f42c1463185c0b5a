"""Replacing services under load: no request fails."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Self

import httpx

from deploy.demo.swarm import HEALTHY
from tests.proof.failures import everything_works_again
from tests.proof.stack import ROOT, SCALE, Stack, expect

if TYPE_CHECKING:
    from types import TracebackType

SHOWN = HEALTHY.dht_prefix.removesuffix("-hf")
"""A model of the demo swarm, as each form of the snapshot names it."""
THREADS = 3
LOAD_INTERVAL = 0.1
"""Seconds between requests of one thread: all together stay under nginx's limits for one address."""


class Load:
    """Checks, pages, documents and pictures, each on a new connection, none from the cache.

    An answer is right when it says something: a page that knows no models is as wrong as an error.
    """

    def __init__(self, stack: Stack) -> None:
        self._site = str(stack.client.base_url)
        self._peers = itertools.cycle(stack.peers("online"))
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(THREADS)]
        self.failures: list[str] = []
        self.answers: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, thread: int) -> None:
        for number in itertools.count():
            kind, path, expected = self._next(f"{thread}-{number}", number + thread)
            started = time.monotonic()
            try:
                answer = httpx.get(self._site + path, headers={"accept": "text/html, */*"}, timeout=20)
                fine = answer.status_code == httpx.codes.OK and expected in answer.text
                words = f"{answer.status_code} {answer.text[:200]!r}"
            except httpx.HTTPError as error:
                fine, words = False, repr(error)
            self.answers[kind] += 1
            self.slowest[kind] = max(self.slowest.get(kind, 0.0), time.monotonic() - started)
            if not fine:
                self.failures.append(f"{started - self._began:.1f} s: {path}: {words}")
            if self._stop.wait(LOAD_INTERVAL):
                return

    def _next(self, name: str, turn: int) -> tuple[str, str, str]:
        """A kind of request, its path, and what its answer must contain."""
        match turn % 4:
            case 0:
                return "checks", f"/api/v1/is_reachable/{next(self._peers)}?{name}", '"success":true'
            case 1:
                return "pages", f"/?{name}", SHOWN
            case 2:
                return "documents", f"/api/v1/state?{name}", SHOWN
            case _:
                return "pictures", f"/swarm.txt?{name}", SHOWN

    def told(self) -> str:
        return ", ".join(
            f"{count} {kind} (slowest {self.slowest[kind]:.2f} s)" for kind, count in sorted(self.answers.items())
        )


def rolling_restart_fails_no_request(stack: Stack) -> str:
    """Of the apis, then of the workers."""
    everything_works_again(stack)
    told = []
    for service in ("api", "reachability_worker"):
        before = set(stack.containers(service))
        started = time.monotonic()
        with Load(stack) as load:
            stack.engine.run("bash", str(ROOT / "deploy/rolling_restart.sh"), service)
            seconds = time.monotonic() - started
            time.sleep(3)
        after = set(stack.containers(service))
        expect(len(after) == SCALE[service] and not before & after, f"containers before {before}, after {after}")
        failed = f"{service}: {len(load.failures)} of {load.told()} failed: {load.failures[:5]}"
        expect(not load.failures, failed)
        told.append(f"{len(after)} of {service} in {seconds:.0f} s, none of {load.told()} failed")
    return "; ".join(told)
