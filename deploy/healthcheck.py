"""Is the service in this container fit? For HEALTHCHECK and exec probes.

    python -m deploy.healthcheck api|crawler|worker     (without a name: whichever of crawler and worker runs here)

Exits with 0 or 1 and prints one line. Only what a restart can mend counts as ill: Redis or the swarm being away
does not, since every service waits for them by itself.

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
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT = 3.0
CRAWL_MAY_TAKE = 300.0
"""Seconds after which the crawler itself gives a crawl up (`crawler.crawl_loop.MAX_CRAWL_SECONDS`)."""
BEAT_AT_LEAST = 60.0
"""Seconds. A worker beats every ten; RQ forgets it after thirty more than that."""
LEASE_KEY = "petals:crawler:lease"
CRAWLS_KEY = "petals:crawls"
"""As in `shared.keys`; spelled here so that the check imports nothing of the services."""


class UnfitError(Exception):
    """The service needs a restart. The message says why."""


def check_api() -> str:
    """Ask `/readyz`: the api has a snapshot to serve, or a Redis that will bring one."""
    port = os.environ.get("API_PORT") or "8000"
    body = _get(f"http://127.0.0.1:{port}/readyz")
    return f"ready: {body.strip()}"


def check_crawler() -> str:
    """A standby is fit when it answers; a leader when it holds the lease and crawls."""
    metrics = _get(f"http://127.0.0.1:{_port('CRAWLER_METRICS_PORT', '9102')}/metrics")
    _need_all_tasks(metrics)
    if not _value(metrics, "petals_crawler_leading"):
        return "standing by"
    try:
        redis = _redis()
        lease, attempts, clock = redis.get(LEASE_KEY), redis.xrevrange(CRAWLS_KEY, count=1), redis.time()
        started = _container_started()
    except OSError as error:
        return f"leading; Redis is away: {error}"
    # The name in the lease is "NUMBER:HOST-PID".
    if lease is None or socket.gethostname() not in lease:
        raise UnfitError(f"it thinks that it leads, and the lease is {lease or 'nobody'}'s: its loop is stuck")
    now = clock[0]
    last = int(attempts[0][0].split("-")[0]) / 1000 if attempts else started
    allowed = CRAWL_MAY_TAKE + 2 * float(os.environ.get("CRAWL_PERIOD") or 60)
    if now - max(last, started) > allowed:
        raise UnfitError(f"it leads, and the last crawl attempt ended {now - last:.0f} s ago")
    return f"leading; last attempt {max(0.0, now - last):.0f} s ago"


def check_worker() -> str:
    """The metrics answer from a thread of their own; the beat comes from the loop that runs the checks."""
    _need_all_tasks(_get(f"http://127.0.0.1:{_port('WORKER_METRICS_PORT', '9103')}/metrics"))
    here = socket.gethostname()
    try:
        redis = _redis()
        beats = [redis.hmget(key, "hostname", "last_heartbeat") for key in redis.smembers("rq:workers")]
    except OSError as error:
        return f"answering; Redis is away: {error}"
    ages = [_age(beat) for host, beat in beats if host == here and beat]
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
    with socket.socket() as probe:
        probe.settimeout(1)
        taken = probe.connect_ex(("127.0.0.1", int(_port("WORKER_METRICS_PORT", "9103")))) == 0
    return "worker" if taken else "crawler"


def _port(variable: str, default: str) -> str:
    return os.environ.get(variable) or default


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
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


def _redis() -> Any:
    """Return a connected client. Raises `OSError` where Redis does not answer, whatever its reason."""
    import redis

    client = redis.Redis.from_url(
        os.environ.get("REDIS_URL") or "redis://127.0.0.1:6379/0",
        decode_responses=True,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        retry=None,
    )
    try:
        client.ping()
    except redis.RedisError as error:
        raise OSError(str(error)) from error
    return client


def _container_started() -> float:
    """When process 1 began, in Unix seconds: a crawler that has just begun has had no time to crawl."""
    with open("/proc/1/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime") as file:
        uptime = float(file.read().split()[0])
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")


def _age(beat: str) -> float:
    """Seconds since RQ's timestamp, which is UTC and ends with Z."""
    return (datetime.now(UTC) - datetime.fromisoformat(beat)).total_seconds()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
