"""This module tells whether the service in this container is fit, for HEALTHCHECK and exec probes.

    python -m deploy.healthcheck api|crawler|worker     (without a name: whichever of crawler and worker runs here)

Exits with 0 or 1 and prints one line; with 2 where the service's settings are bad, which are read as it reads them.
Only what a restart can mend counts as ill: Redis or the swarm being away does not, since every service waits for
them by itself.

api      `/readyz` answers 200.
crawler  its metrics answer, and all of its loops run; if it says that it leads, the lease in Redis is its own (else
         its loop is stuck: the lease needs renewal every second) and its last crawl attempt is not older than a
         crawl may take.
worker   its metrics answer, all of its loops run, and the worker that RQ knows under this host name beats.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import urllib.request
from contextlib import closing
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

import redis as sync_redis

from shared.settings import load
from shared.store import keys
from shared.store.connection import connect_sync

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT = 3.0
"""Seconds for the service, and again for Redis: probes are given eight."""
CRAWL_MAY_TAKE = 300.0
"""Seconds after which the crawler itself gives a crawl up (`crawler.observe.observer.MAX_CRAWL_SECONDS`)."""
MAX_WORKERS = 10_000
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Docker gives containers the http_proxy of the host: no proxy reaches 127.0.0.1 here."""
BEAT_AT_LEAST = 60.0
"""Seconds. A worker beats every ten; RQ forgets it after thirty more than that."""


class UnfitError(Exception):
    """The service needs a restart. The message says why."""


def check_api() -> str:
    """Ask `/readyz`: the api has a snapshot to serve, or a Redis that will bring one."""
    settings = _settings("api", "ApiSettings")
    body = _get(f"http://{reached_at(settings.api_host)}:{settings.api_port}/readyz")
    return f"ready: {body.strip()}"


def check_crawler() -> str:
    """A standby is fit when it answers; a leader when it holds the lease and crawls."""
    settings = _settings("crawler", "CrawlerSettings")
    metrics = _get(f"http://{reached_at(settings.metrics_host)}:{settings.crawler_metrics_port or 9102}/metrics")
    _need_all_tasks(metrics)
    if not _value(metrics, "petals_crawler_leading"):
        return "standing by"
    try:
        with _redis(settings.redis_url) as redis:
            asked = redis.pipeline(transaction=False)
            asked.get(keys.CRAWLER_LEASE)
            asked.xrevrange(keys.CRAWLS, count=1)
            asked.time()
            lease, attempts, clock = asked.execute()
    except sync_redis.RedisError as error:
        return f"leading; {_words(error)}"
    # The name in the lease is "NUMBER:HOST-PID".
    holder = (lease or b"nobody").decode(errors="replace")
    if socket.gethostname() not in holder:
        raise UnfitError(f"it thinks that it leads, and the lease is {holder}'s: its loop is stuck")
    idle = age = _container_age()
    if attempts:
        idle = max(0.0, clock[0] - int(attempts[0][0].split(b"-")[0]) / 1000)
    if min(idle, age) > CRAWL_MAY_TAKE + 2 * settings.crawl_period:
        raise UnfitError(f"it leads, and the last crawl attempt ended {idle:.0f} s ago")
    return f"leading; last attempt {idle:.0f} s ago"


def check_worker() -> str:
    """The metrics answer from a thread of their own; the beat comes from the loop that runs the checks."""
    settings = _settings("reachability_worker", "WorkerSettings")
    _need_all_tasks(_get(f"http://{reached_at(settings.metrics_host)}:{settings.worker_metrics_port or 9103}/metrics"))
    here = socket.gethostname().encode()
    try:
        with _redis(settings.redis_url) as redis:
            asked = redis.pipeline(transaction=False)
            for key in sorted(redis.smembers("rq:workers"))[:MAX_WORKERS]:
                asked.hmget(key, "hostname", "last_heartbeat")
            beats = asked.execute()
    except sync_redis.RedisError as error:
        return f"answering; {_words(error)}"
    ages = [_age(beat.decode()) for host, beat in beats if host == here and beat]
    if not ages:
        # Redis came back empty a moment ago, or the worker has just begun.
        return "answering; not registered yet"
    if min(ages) > BEAT_AT_LEAST:
        raise UnfitError(f"its last heartbeat is {min(ages):.0f} s old: its loop is stuck")
    return f"beating: {min(ages):.0f} s ago"


CHECKS: dict[str, Callable[[], str]] = {"api": check_api, "crawler": check_crawler, "worker": check_worker}


def main(arguments: list[str]) -> int:
    name = arguments[0] if arguments else _running_here()
    if name not in CHECKS:
        print(f"expected one of {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    try:
        print(f"{name}: {CHECKS[name]()}")
    except UnfitError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"{name}: no answer: {error}", file=sys.stderr)
        return 1
    return 0


def _running_here() -> str:
    """Whose metrics port listens."""
    settings = _settings("reachability_worker", "WorkerSettings")
    place = reached_at(settings.metrics_host).strip("[]"), settings.worker_metrics_port or 9103
    try:
        socket.create_connection(place, timeout=1).close()
    except OSError:
        return "crawler"
    return "worker"


def _settings(service: str, name: str) -> Any:
    """Read a service's settings, imported where they are needed: each image has those of its own services alone."""
    return load(getattr(import_module(f"{service}.settings"), name))


def reached_at(host: str) -> str:
    """Return where a process of this machine reaches what listens on `host`, as it stands in a URL."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _get(url: str) -> str:
    with _DIRECT.open(url, timeout=TIMEOUT) as answer:
        body: bytes = answer.read()
    return body.decode()


def _value(metrics: str, name: str) -> float:
    """Return a metric's value in Prometheus's text; 0 where it is missing."""
    found = re.search(rf"^{name} (\S+)$", metrics, re.MULTILINE)
    return float(found[1]) if found else 0.0


def _need_all_tasks(metrics: str) -> None:
    """Raise `UnfitError` where a loop of the process does not run: started anew, the process may."""
    if failing := re.findall(r'^petals_background_task_up\{task="([^"]+)"\} 0\.0$', metrics, re.MULTILINE):
        raise UnfitError(f"failing: {', '.join(failing)}")


def _redis(url: str) -> closing[sync_redis.Redis]:
    return closing(connect_sync(url, timeout=TIMEOUT / 2))


def _words(error: sync_redis.RedisError) -> str:
    if isinstance(error, sync_redis.TimeoutError):
        return f"Redis does not answer within {TIMEOUT / 2:g} s"
    return f"Redis is away: {error}"


def _container_age() -> float:
    """Seconds since process 1 began: a crawler that has just begun has had no time to crawl.

    By the kernel's own count: this machine's clock may differ from Redis's.
    """
    with open("/proc/1/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime") as file:
        uptime = float(file.read().split()[0])
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


def _age(beat: str) -> float:
    """Seconds since RQ's timestamp, which is UTC and ends with Z."""
    return (datetime.now(UTC) - datetime.fromisoformat(beat)).total_seconds()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
