"""Prove the alerts: `make prove-alerts`, about six minutes, needs Debian's `prometheus`.

Runs the whole monitor on a private swarm (two crawlers, two apis, two workers, Redis) under a real Prometheus with
the rules that ship, time in them divided by `FASTER`. After a quiet while in which nothing may fire, it cuts off
one part after the other, waits for the alerts that this should raise, mends it, waits for their end, and prints how
long both took. Exits with 1 where an alert did not come, did not go, or came for no reason.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.proof.local_monitor import Monitor, Part, until
from tests.support.local_prometheus import LocalPrometheus

if TYPE_CHECKING:
    from collections.abc import Sequence

FASTER = 15.0
CRAWL_PERIOD = 60 / FASTER
QUIET_SECONDS = 30.0
FIRE_TIMEOUT, RESOLVE_TIMEOUT = 100.0, 120.0
LOOK_EVERY = 0.5
OF_THE_DEMO = {"PetalsModelThin"}
"""True of the demo swarm at all times: some of its blocks hang on one server."""
NOT_RUN = 3


class BrokenPromiseError(Exception):
    """The message says what was seen instead."""


class Cut(NamedTuple):
    """Parts to be cut off at once, the alerts that must come of it, and those that may."""

    what: str
    parts: Sequence[Part]
    raises: set[str]
    may_raise: set[str]
    frozen: bool = False
    """Whether the parts are frozen and thawed instead of killed and started."""


class Row(NamedTuple):
    what: str
    alert: str
    fired: float
    """Seconds after the cut."""
    resolved: float
    """Seconds after it was mended."""


def cuts(monitor: Monitor) -> list[Cut]:
    """Return what is proved, in this order."""
    down, stale, unanswered = {"PetalsTargetDown"}, {"PetalsSnapshotStale"}, {"PetalsChecksUnanswered"}
    blind = {"PetalsNoWorkerLooks", "PetalsVantageBlind"}
    # What runs no faster than ever may raise alerts that it would not raise otherwise: to these rules the
    # lease of five seconds ends after more than a minute, and so do the ten seconds of a check that nobody takes.
    late = {"PetalsQueueOld"}
    return [
        Cut("the leading crawler", [monitor.leader()], down, {"PetalsNoCrawlerLeads"} | stale),
        Cut("both crawlers", monitor.crawlers, down | stale | {"PetalsNoCrawlerLeads"}, set()),
        Cut("both workers", monitor.workers, down | unanswered | {"PetalsNoWorkerLooks"}, set()),
        Cut("one api of two", monitor.apis[1:], down, set()),
        Cut("both apis", monitor.apis, down | {"PetalsPageDown"}, {"PetalsSnapshotMissing"} | unanswered),
        Cut(
            "Redis",
            [monitor.redis],
            stale | unanswered | {"PetalsRedisDown"},
            blind | late | {"PetalsNoCrawlerLeads"},
        ),
        Cut(
            "the swarm (frozen)",
            [monitor.swarm],
            stale | unanswered | blind | {"PetalsCrawlsFail"},
            late | {"PetalsModelBroken", "PetalsSwarmUnreachable", "PetalsBootstrapPeerDown"},
            frozen=True,
        ),
    ]


def prove(prometheus: LocalPrometheus, cut: Cut) -> list[Row]:
    """Cut, wait for the alerts, mend, wait for their end. Raises `BrokenPromiseError`."""
    for part in cut.parts:
        part.signal(signal.SIGSTOP) if cut.frozen else part.kill()
    fired = _until_fired(prometheus, cut)
    for part in cut.parts:
        part.signal(signal.SIGCONT) if cut.frozen else part.start()
    resolved = _until_resolved(prometheus, cut)
    return [
        Row(cut.what, alert, fired.get(alert, float("nan")), resolved.get(alert, 0.0))
        for alert in sorted({*fired, *resolved})
    ]


def _until_fired(prometheus: LocalPrometheus, cut: Cut) -> dict[str, float]:
    started, first = time.monotonic(), dict[str, float]()
    while not cut.raises <= set(first):
        passed = time.monotonic() - started
        if passed > FIRE_TIMEOUT:
            missing = ", ".join(sorted(cut.raises - set(first)))
            raise BrokenPromiseError(f"{cut.what}: did not fire within {FIRE_TIMEOUT:g} s: {missing}")
        for alert in _firing(prometheus, cut):
            first.setdefault(alert, passed)
        time.sleep(LOOK_EVERY)
    return first


def _until_resolved(prometheus: LocalPrometheus, cut: Cut) -> dict[str, float]:
    started, last = time.monotonic(), dict[str, float]()
    while firing := _firing(prometheus, cut):
        passed = time.monotonic() - started
        if passed > RESOLVE_TIMEOUT:
            left = ", ".join(sorted(firing))
            raise BrokenPromiseError(f"{cut.what}: still fires {RESOLVE_TIMEOUT:g} s after it was mended: {left}")
        last |= dict.fromkeys(firing, passed)
        time.sleep(LOOK_EVERY)
    return last


def _firing(prometheus: LocalPrometheus, cut: Cut) -> set[str]:
    firing = prometheus.firing() - OF_THE_DEMO
    if unexpected := firing - cut.raises - cut.may_raise:
        raise BrokenPromiseError(f"{cut.what}: fired for no reason: {', '.join(sorted(unexpected))}")
    return firing


def stay_quiet(prometheus: LocalPrometheus, seconds: float) -> None:
    """Raises `BrokenPromiseError` where a monitor that is well raises an alert, or a target is not scraped."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if fired := prometheus.firing() - OF_THE_DEMO:
            raise BrokenPromiseError(f"fired though all is well: {', '.join(sorted(fired))}")
        time.sleep(LOOK_EVERY)
    if down := prometheus.query("up == 0"):
        raise BrokenPromiseError(f"not scraped: {[series['metric'] for series in down]}")


def main() -> int:
    if shutil.which("prometheus") is None:
        print("prove-alerts: NOT RUN: apt-get install prometheus", file=sys.stderr)
        return NOT_RUN
    rows: list[Row] = []
    stop = threading.Event()
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="petals-prove-alerts-")))
        monitor = Monitor(folder, running, crawl_period=CRAWL_PERIOD)
        asking = threading.Thread(target=monitor.ask, args=(stop,), daemon=True)
        asking.start()
        running.callback(asking.join, 12)
        running.callback(stop.set)
        prometheus = running.enter_context(LocalPrometheus(folder, monitor.ports, faster=FASTER))
        targets = sum(map(len, monitor.ports.values()))
        until(lambda: len(prometheus.query("up == 1")) == targets, "a scrape of each part")
        until(lambda: not prometheus.firing() - OF_THE_DEMO, "the end of what fired before the first scrapes")
        try:
            stay_quiet(prometheus, QUIET_SECONDS)
            print(f"all is well for {QUIET_SECONDS:g} s, with {targets} targets up: no alert", flush=True)
            for cut in cuts(monitor):
                rows += prove(prometheus, cut)
                print(f"proved: {cut.what}", flush=True)
        except BrokenPromiseError as error:
            print(f"prove-alerts: {error}", file=sys.stderr)
            return 1
        finally:
            _print(rows)
    return 0


def _print(rows: list[Row]) -> None:
    print(f"\n{'cut off':<22}{'alert':<26}{'fires after':>12}{'ends after':>12}   (times in the rules / {FASTER:g})")
    for row in rows:
        print(f"{row.what:<22}{row.alert:<26}{row.fired:>10.0f} s{row.resolved:>10.0f} s")


if __name__ == "__main__":
    sys.exit(main())
