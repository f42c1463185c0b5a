"""Replacing services under load: no request fails."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Self

import httpx

from deploy.proof.failures import everything_works_again
from deploy.proof.stack import ROOT, SCALE, Stack, expect

if TYPE_CHECKING:
    from types import TracebackType

LOAD_INTERVAL = 0.1
"""Seconds between requests of one thread: all together stay under nginx's limits for one address."""


class Load:
    """Pages and checks, from several threads, each on a new connection, none from the cache."""

    def __init__(self, stack: Stack) -> None:
        self._page = str(stack.client.base_url)
        self._peers = stack.peers("online")
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(3)]
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
        number = 0
        while not self._stop.is_set():
            number += 1
            peer_id = self._peers[(number + thread) % len(self._peers)]
            what = "checks" if number % 4 == 0 else "pages"
            path = f"/api/v1/is_reachable/{peer_id}" if what == "checks" else f"/?n={thread}-{number}"
            started = time.monotonic()
            try:
                answer = httpx.get(self._page + path, timeout=20)
                fine = answer.status_code == httpx.codes.OK and (what == "pages" or answer.json()["success"] is True)
                words = f"{answer.status_code} {answer.text[:200]!r}"
            except httpx.HTTPError as error:
                fine, words = False, repr(error)
            took = time.monotonic() - started
            self.answers[what] += 1
            self.slowest[what] = max(self.slowest.get(what, 0.0), took)
            if not fine:
                self.failures.append(f"{started - self._began:.1f} s: {path}: {words}")
            self._stop.wait(LOAD_INTERVAL)

    def told(self) -> str:
        return ", ".join(
            f"{count} {what} (slowest {self.slowest[what]:.2f} s)" for what, count in sorted(self.answers.items())
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
