"""Prove docker-compose.yml on a real engine: `make prove-compose`.

Builds the images, starts the demo profile scaled, and tests from outside, through nginx, what docs/operations.md
promises: health, hardening, kills, Redis going and coming back, a rolling restart under load, a clean end. Exits
with 0 when all was proved, 1 when a promise was broken, 3 with "not run" where no engine can run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deploy.container_engine import NGINX_IMAGE, PYTHON_IMAGE, REDIS_IMAGE, Engine, EngineUnavailableError
from deploy.embedded_redis import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "petals-prove"
IMAGES = {"api": "petals-monitor-api:prove", "swarm": "petals-monitor-swarm:prove"}
SCALE = {"api": 3, "reachability_worker": 4, "crawler": 2, "redis": 1, "nginx": 1, "demo-swarm": 1}
WORK = Path("/var/tmp/petals-prove-compose")  # noqa: S108 - only root starts an engine there
NOT_RUN = 3
OK, NOBODY_COULD_LOOK = 200, 503
DEMO_MODELS, EVENT_WITHIN = 3, 10
LOAD_INTERVAL = 0.08
"""Seconds between requests of the load: under nginx's limit for one address."""


class BrokenPromiseError(Exception):
    """The message says what was seen instead."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def expect(condition: object, otherwise: str) -> None:
    if not condition:
        raise BrokenPromiseError(otherwise)


class Stack:
    """The project on the engine, and its page."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.port = free_port()
        self.page = f"http://127.0.0.1:{self.port}"
        engine.environment |= {
            "HTTP_PORT": str(self.port),
            "REDIS_PASSWORD": secrets.token_hex(8),
            "API_IMAGE": IMAGES["api"].partition(":")[0],
            "SWARM_IMAGE": IMAGES["swarm"].partition(":")[0],
            "IMAGE_TAG": "prove",
            "REDIS_IMAGE": REDIS_IMAGE,
            "NGINX_IMAGE": NGINX_IMAGE,
            "CRAWL_PERIOD": "5",
            "NOFILE": str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
            "COMPOSE": " ".join(self._compose),
            "DOCKER": engine.docker,
        }

    @property
    def _compose(self) -> list[str]:
        return [*self.engine.compose, "-p", PROJECT, "-f", str(ROOT / "docker-compose.yml"), "--profile", "demo"]

    def compose(self, *arguments: str) -> str:
        return self.engine.run(*self._compose, *arguments)

    def docker(self, *arguments: str, check: bool = True) -> str:
        return self.engine.run(self.engine.docker, *arguments, check=check).strip()

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "-q", service).split()

    def inspect(self, container: str) -> dict[str, Any]:
        described: dict[str, Any] = json.loads(self.docker("inspect", container))[0]
        return described

    def up(self) -> None:
        scale = [word for name, count in SCALE.items() if count > 1 for word in ("--scale", f"{name}={count}")]
        self.compose("up", "-d", "--no-build", *scale)

    def get(self, path: str, **headers: str) -> Answer:
        """Answer of any status; raises `OSError` where there is none."""
        request = urllib.request.Request(self.page + path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())

    def state(self) -> dict[str, Any]:
        answer = self.get("/api/v1/state")
        document: dict[str, Any] = answer.json() if answer.status == OK else {}
        return document

    def peers(self, state: str) -> list[str]:
        """Peer ids of the servers that the page shows in this state."""
        rows = (row for model in self.state().get("model_reports", []) for row in model["server_rows"])
        return [row["peer_id"] for row in rows if row["state"] == state]


def wait(what: str, condition: Callable[[], object], seconds: float) -> float:
    """Return the seconds until the condition held. Raises `BrokenPromiseError` where it did not in time."""
    started = time.monotonic()
    while True:
        try:
            if condition():
                return time.monotonic() - started
        except (OSError, ValueError, KeyError, IndexError):
            pass  # not up yet
        expect(time.monotonic() - started < seconds, f"not within {seconds:g} s: {what}")
        time.sleep(0.3)


def all_become_healthy(stack: Stack) -> str:
    def healthy() -> bool:
        for service, count in SCALE.items():
            found = stack.containers(service)
            if len(found) != count:
                return False
            if any(stack.inspect(one)["State"].get("Health", {}).get("Status") != "healthy" for one in found):
                return False
        return True

    seconds = wait("every container healthy", healthy, 240)
    more = wait("a snapshot with servers", lambda: stack.peers("online"), 90)
    return f"{sum(SCALE.values())} containers healthy {seconds:.0f} s after up, a snapshot {more:.0f} s later"


def page_and_json_come_through_nginx(stack: Stack) -> str:
    page = stack.get("/", Accept="text/html", Accept_Encoding="br")
    expect(page.status == OK and page.headers["content-type"].startswith("text/html"), f"page: {page[:2]}")
    expect(page.headers.get("content-encoding") == "br", f"compression was not passed on: {page.headers}")
    again = [stack.get("/", Accept="text/html", Accept_Encoding="br").headers.get("x-cache") for _ in range(5)]
    expect("HIT" in again, f"five requests at once were not cached: {again}")
    models = len(stack.state()["model_reports"])
    expect(models == DEMO_MODELS, f"the demo swarm has {DEMO_MODELS} models, the page shows {models}")
    return f"3 models, {len(stack.peers('online'))} servers online; brotli, cached"


def live_server_is_reachable_and_dead_one_is_not(stack: Stack) -> str:
    live, dead = stack.peers("online")[0], stack.peers("unreachable")[0]
    started = time.monotonic()
    answer = stack.get(f"/api/v1/is_reachable/{live}")
    took = time.monotonic() - started
    expect(answer.status == OK and answer.json()["success"] is True, f"live: {answer.status} {answer.body[:300]!r}")
    answer = stack.get(f"/api/v1/is_reachable/{dead}")
    expect(answer.status == OK and answer.json()["success"] is False, f"dead: {answer.status} {answer.body[:300]!r}")
    spoofed = stack.get(f"/api/v1/is_reachable/{live}", X_Forwarded_For="203.0.113.9").json()
    expect(spoofed["your_ip"] != "203.0.113.9", "a client's own X-Forwarded-For was believed")
    return f"live: true in {took * 1000:.0f} ms; dead: false; a made-up X-Forwarded-For is not believed"


def events_are_not_buffered(stack: Stack) -> str:
    started = time.monotonic()
    with urllib.request.urlopen(stack.page + "/events", timeout=15) as stream:
        while not stream.readline().startswith(b"event: snapshot"):
            expect(time.monotonic() - started < EVENT_WITHIN, f"no event within {EVENT_WITHIN} s")
    return f"first event after {(time.monotonic() - started) * 1000:.0f} ms"


def containers_are_hardened(stack: Stack) -> str:
    for service in SCALE:
        for container in stack.containers(service):
            described = stack.inspect(container)
            host, name = described["HostConfig"], described["Name"]
            expect(host["ReadonlyRootfs"], f"{name}: its root is writable")
            expect("ALL" in (host["CapDrop"] or []), f"{name}: capabilities {host['CapDrop']}")
            expect("no-new-privileges:true" in host["SecurityOpt"], f"{name}: {host['SecurityOpt']}")
            expect(host["Memory"] > 0 and host["PidsLimit"] > 0, f"{name}: no limits")
            expect(described["Config"]["User"] not in ("", "0", "root"), f"{name} runs as root")
            published = any((described["NetworkSettings"]["Ports"] or {}).values())
            expect(published == (service == "nginx"), f"{name}: published ports {published}")
    written = stack.docker("exec", stack.containers("api")[0], "touch", "/app/x", check=False)
    expect(not written, written)
    alone = stack.containers("api")[0]
    out = "import socket; socket.create_connection(('1.1.1.1', 53), 3)"
    code = subprocess.run(
        [stack.engine.docker, "exec", alone, "python", "-c", out],
        env=stack.engine.environment, capture_output=True, check=False,
    ).returncode  # fmt: skip
    expect(code != 0, "the api has a way out of the backend network")
    return "read-only, no capabilities, no root, limits everywhere; only nginx is published, the api has no way out"


def what_is_killed_comes_back(stack: Stack) -> str:
    told = []
    lease = stack.docker(
        "exec", stack.containers("redis")[0], "redis-cli", "--no-auth-warning", "get", "petals:crawler:lease"
    )
    leader = next(one for one in stack.containers("crawler") if one[:12] in lease)
    for name, container in (
        ("leading crawler", leader),
        ("worker", stack.containers("reachability_worker")[0]),
        ("api", stack.containers("api")[0]),
        ("nginx", stack.containers("nginx")[0]),
    ):
        before = stack.inspect(container)
        updated = stack.state().get("last_updated", 0.0)
        os.kill(before["State"]["Pid"], 9)

        def back(container: str = container, count: int = before["RestartCount"]) -> bool:
            now = stack.inspect(container)
            return bool(now["RestartCount"] > count and now["State"]["Health"]["Status"] == "healthy")

        if name == "leading crawler":
            seconds = wait("the other crawler's snapshot", lambda: stack.state()["last_updated"] > updated + 1, 40)  # noqa: B023
            told.append(f"next snapshot {seconds:.0f} s after the leader's end")
        told.append(f"{name} {wait(f'{name} restarted and healthy', back, 90):.0f} s")
    return "kill -9, then healthy again: " + ", ".join(told)


def redis_may_go_and_come_back(stack: Stack) -> str:
    live = stack.peers("online")[0]
    container = stack.containers("redis")[0]
    stack.docker("stop", container)
    time.sleep(2)
    page, check = stack.get("/?no-cache"), stack.get(f"/api/v1/is_reachable/{live}")
    expect(page.status == OK, f"without Redis the page is {page.status}")
    expect(check.status == NOBODY_COULD_LOOK, f"without Redis a check is {check.status}: {check.body[:200]!r}")
    stale = stack.state()
    expect(stale.get("model_reports"), "without Redis the last state is gone")
    time.sleep(6)
    unfit = [one for one in stack.containers("api") if stack.inspect(one)["State"]["Health"]["Status"] != "healthy"]
    expect(not unfit, "an api that can serve its last snapshot was called ill")
    stack.docker("start", container)
    checks = wait(
        "a check succeeds", lambda: stack.get(f"/api/v1/is_reachable/{live}").json().get("success") is True, 40
    )
    crawls = wait("a new snapshot", lambda: stack.state()["last_updated"] > stale["last_updated"], 60)
    return f"page 200, check 503 meanwhile; once back, checks in {checks:.1f} s, a new snapshot {crawls:.1f} s later"


def backup_can_be_restored(stack: Stack) -> str:
    def redis(*command: str) -> str:
        return stack.docker("exec", stack.containers("redis")[0], "redis-cli", *command)

    redis("set", "prove:kept", "yes")
    redis("bgsave")
    wait("the dump is written", lambda: "rdb_bgsave_in_progress:0" in redis("info", "persistence"), 20)
    with tempfile.TemporaryDirectory() as folder:
        backup = f"{folder}/backup.rdb"
        stack.docker("cp", f"{stack.containers('redis')[0]}:/data/dump.rdb", backup)
        redis("set", "prove:kept", "no")
        started = time.monotonic()
        stack.engine.run("bash", str(ROOT / "deploy/restore_redis.sh"), backup)
    wait("Redis answers", lambda: redis("ping") == "PONG", 30)
    seconds = time.monotonic() - started
    expect(redis("get", "prove:kept") == "yes", "the restored Redis holds something else")
    # Once more: now it starts from the append-only file that the restore wrote.
    stack.docker("restart", stack.containers("redis")[0])
    wait("Redis answers again", lambda: redis("ping") == "PONG", 30)
    expect(redis("get", "prove:kept") == "yes", "what was restored did not outlive a restart")
    before = stack.state()["last_updated"]
    wait("a new snapshot", lambda: stack.state()["last_updated"] > before, 60)
    return f"restored in {seconds:.0f} s, and kept over a restart"


def rolling_restart_fails_no_request(stack: Stack) -> str:
    before = set(stack.containers("api"))
    live = stack.peers("online")[0]
    stop = threading.Event()
    counts: dict[object, int] = {}
    slowest = 0.0

    def load() -> None:
        nonlocal slowest
        number = 0
        while not stop.is_set():
            number += 1
            # Every path misses the cache: each request reaches an api.
            path = f"/api/v1/is_reachable/{live}" if number % 4 == 0 else f"/?n={number}"
            started = time.monotonic()
            try:
                answer = stack.get(path)
                result: object = answer.status if answer.status == OK else (answer.status, path[:16], answer.body[:160])
            except OSError as error:
                result = repr(error)
            slowest = max(slowest, time.monotonic() - started)
            counts[result] = counts.get(result, 0) + 1
            time.sleep(LOAD_INTERVAL)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    try:
        stack.engine.run("bash", str(ROOT / "deploy/rolling_restart.sh"), "api")
        seconds = time.monotonic() - started
        time.sleep(3)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    after = set(stack.containers("api"))
    expect(len(after) == SCALE["api"] and not before & after, f"containers before {before}, after {after}")
    expect(set(counts) == {OK}, f"answers during the restart: {counts}")
    return (
        f"{SCALE['api']} containers replaced in {seconds:.0f} s; "
        f"{counts[OK]} of {sum(counts.values())} requests 200, the slowest {slowest:.2f} s"
    )


def last_page_outlives_every_api(stack: Stack) -> str:
    headers = {"Accept": "text/html", "Accept_Encoding": "identity"}
    stack.get("/", **headers)
    live = stack.peers("online")[0]
    old = stack.containers("api")
    stack.docker("stop", *old)
    time.sleep(3)
    page, check = stack.get("/", **headers), stack.get(f"/api/v1/is_reachable/{live}")
    stack.docker("start", *old)
    expect(page.status == OK, f"with every api dead the page is {page.status}")
    expect(page.headers.get("x-cache") == "STALE", f"the page was not nginx's: {page.headers}")
    expect(check.status == NOBODY_COULD_LOOK, f"with every api dead a check is {check.status}")
    seconds = wait("the page is fresh again", lambda: stack.get("/?fresh").status == OK, 60)
    return f"page 200 (stale), check 503; fresh {seconds:.1f} s after they came back"


def demo_swarm_may_restart(stack: Stack) -> str:
    before = set(stack.peers("online"))
    stack.docker("restart", "-t", "15", stack.containers("demo-swarm")[0])
    seconds = wait("new servers shown", lambda: (now := set(stack.peers("online"))) and not now <= before, 240)
    return f"its new servers are shown {seconds:.0f} s later: the bootstrap peer keeps its identity"


def crowds_are_limited(stack: Stack) -> str:
    statuses: list[int] = []

    def burst() -> None:
        statuses.extend(stack.get(f"/swarm.txt?{number}").status for number in range(60))

    threads = [threading.Thread(target=burst) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = statuses.count(429)
    expect(refused and set(statuses) <= {200, 429}, f"480 requests at once: {set(statuses)}, {refused} refused")
    return f"480 requests at once from one address: {refused} got 429"


def nothing_is_left(stack: Stack) -> str:
    started = time.monotonic()
    stack.compose("down", "-v", "--timeout", "20")
    seconds = time.monotonic() - started
    label = f"label=com.docker.compose.project={PROJECT}"
    left = {
        "containers": stack.docker("ps", "-aq", "--filter", label),
        "volumes": stack.docker("volume", "ls", "-q", "--filter", label),
        "networks": stack.docker("network", "ls", "-q", "--filter", label),
    }
    expect(not any(left.values()), f"left over: {left}")
    return f"no container, volume or network left after {seconds:.0f} s"


PROMISES: tuple[Callable[[Stack], str], ...] = (
    all_become_healthy,
    page_and_json_come_through_nginx,
    live_server_is_reachable_and_dead_one_is_not,
    events_are_not_buffered,
    containers_are_hardened,
    what_is_killed_comes_back,
    redis_may_go_and_come_back,
    backup_can_be_restored,
    rolling_restart_fails_no_request,
    last_page_outlives_every_api,
    demo_swarm_may_restart,
    crowds_are_limited,
    nothing_is_left,
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.prove_compose", description=__doc__)
    parser.add_argument(
        "--work",
        type=Path,
        default=WORK,
        help="where an engine started here keeps its data",
    )
    parser.add_argument("--only", metavar="WORD", help="besides the start and the end, prove what has this in its name")
    arguments = parser.parse_args()
    first, *others, last = PROMISES
    promises = (first, *(one for one in others if (arguments.only or "") in one.__name__), last)
    try:
        with Engine(arguments.work) as engine:
            return _prove(engine, promises)
    except EngineUnavailableError as error:
        print(f"prove-compose: NOT RUN: {error}", file=sys.stderr)
        return NOT_RUN


def _prove(engine: Engine, promises: Sequence[Callable[[Stack], str]]) -> int:
    for image in (PYTHON_IMAGE, REDIS_IMAGE, NGINX_IMAGE):
        engine.provide(image)
    stack = Stack(engine)
    for target, tag in IMAGES.items():
        seconds = engine.build(target, tag, ROOT)
        size = int(stack.docker("image", "inspect", "--format", "{{.Size}}", tag)) / 1e6
        print(f"built  {tag}: {size:.0f} MB in {seconds:.0f} s", flush=True)
    failed = 0
    try:
        stack.up()
        for promise in promises:
            name = promise.__name__.replace("_", " ")
            try:
                print(f"PROVED {name}: {promise(stack)}", flush=True)
            except (BrokenPromiseError, OSError, subprocess.CalledProcessError, LookupError) as error:
                failed += 1
                print(f"BROKEN {name}: {error!r}", flush=True)
                if failed == 1:
                    print(stack.compose("ps"), stack.compose("logs", "--tail", "15"), sep="\n", file=sys.stderr)
    finally:
        stack.compose("down", "-v", "--timeout", "5")
    print(f"prove-compose: {len(promises) - failed} of {len(promises)} promises proved")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
