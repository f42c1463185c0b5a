"""Real parts for all tests: a Redis-compatible server and a private swarm of hivemind nodes.

Tests that use no real part are marked `fast`, and are held to it. In a parallel run the long ones begin first.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
import traceback

import jinja2
import pytest
import pytest_asyncio
import redis as sync_redis
from hypothesis import settings

from shared.store.connection import connect
from shared.tasks import end
from tests.redis_server import RedisServer

# A machine that runs other tests at the same time is slow at any moment: that is no finding of a property test.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

_compile, _compiled = jinja2.Environment.compile, {}


def _compile_once(environment, *template):
    """Compile what the templates of each app are compiled to: once for all the apps that tests build (0.1 s each)."""
    key = (*template, *sorted(environment.filters))
    if key not in _compiled:
        _compiled[key] = _compile(environment, *template)
    return _compiled[key]


jinja2.Environment.compile = _compile_once

REAL_PARTS = {"_session_redis", "redis_server", "swarm"}
"""Fixtures that start processes. What uses one of them, directly or not, is no fast test."""
SLOW_MARKS = ("slow", "end_to_end", "petals_server", "browser", "swarm", "real_parts")
"""Markers of tests that are not fast, those that take longest first."""
FORBIDDEN_TO_FAST_TESTS = {"socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.posix_spawn"}
"""Audit events of processes and of the network (https://docs.python.org/3/library/audit_events.html)."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is fast, and let a parallel run begin with what takes long, so that its end waits for nobody."""
    for item in items:
        if not REAL_PARTS & set(item.fixturenames) and _rank(item) == len(SLOW_MARKS):
            item.add_marker(pytest.mark.fast)
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.xdist_group("slow"))  # one after another: the other core is the others'
    if hasattr(config, "workerinput"):
        items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    return next((place for place, mark in enumerate(SLOW_MARKS) if item.get_closest_marker(mark)), len(SLOW_MARKS))


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> object:
    """Keep what failed in a parallel run under the names that `--last-failed` compares: xdist adds "@group" to them."""
    result = yield
    cache = getattr(session.config, "cache", None)  # mutmut runs without it
    if cache is not None and not hasattr(session.config, "workerinput"):
        failed = cache.get("cache/lastfailed", {})
        cache.set("cache/lastfailed", {re.sub(r"@[\w-]+$", "", name): True for name in failed})
    return result


class _FastTests:
    """Whether a fast test runs now, and what it tried to do that fast tests do not do."""

    running = False
    tried: list[str] = []  # noqa: RUF012 - there is one for the process, as audit hooks are


def _forbid(event: str, arguments: tuple[object, ...], _FastTests=_FastTests) -> None:  # noqa: N803 - kept to the end
    tries_an_address = event == "socket.bind" and arguments[1][1:2] == (0,)  # as settings do; nobody listens there
    if _FastTests.running and event in FORBIDDEN_TO_FAST_TESTS and not tries_an_address:
        stack = "".join(traceback.format_stack(limit=12))
        _FastTests.tried.append(f"{event} {arguments!r:.200} in {threading.current_thread().name}:\n{stack}")
        raise AssertionError(f"{_FastTests.tried[-1]} in a fast test: mark it real_parts, or use a fixture of conftest")


sys.addaudithook(_forbid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> object:
    """Fail a fast test that starts a process or uses the network, also where it survives that this is refused."""
    _FastTests.running, _FastTests.tried = item.get_closest_marker("fast") is not None, []
    try:
        return (yield)
    finally:
        _FastTests.running = False
        if _FastTests.tried:
            pytest.fail("no fast test: " + "\n".join(_FastTests.tried))


@pytest.fixture(scope="session")
def _session_redis():
    server = RedisServer()
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(_session_redis):
    """An empty Redis for this test."""
    with _session_redis.client() as client:
        client.flushdb()
    return _session_redis.url


@pytest.fixture(scope="module")
def redis_url_of_module(_session_redis):
    """Another database of it, empty when the module begins: for tests that only read what one fixture wrote."""
    url = _session_redis.url.removesuffix("0") + "1"
    with sync_redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def redis_server():
    """A Redis of this test's own, to be killed and started."""
    server = RedisServer()
    server.start()
    yield server
    server.kill()


@pytest_asyncio.fixture
async def redis(redis_url):
    client = connect(redis_url, "tests")
    yield client
    await client.aclose()


class PrivateSwarm:
    """A bootstrap peer and simulated servers, on a loop and thread of their own: tests come and go with theirs."""

    def __init__(self) -> None:
        from deploy.demo.simulated_server import SimulatedServer

        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._servers: list[SimulatedServer] = []
        self.bootstrap = self.start()
        self.initial_peers: list[str] = self.call(self.bootstrap.addresses())

    def call(self, coroutine, timeout=60):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    def start(self, announcement=None, *, serves=True, announce=True, joins=True, **more):
        """Start a server and write its records; one that does not join is known to nobody."""
        from deploy.demo.simulated_server import SimulatedServer
        from tests.support.announcing import announce as write_announcement

        peers = getattr(self, "initial_peers", None) if joins else None
        server = self.call(SimulatedServer.start(peers, announcement, serves=serves, **more))
        self._servers.append(server)
        if announcement is not None and announce:
            self.call(write_announcement(self.bootstrap, server.peer_id, announcement))
        return server

    def store(self, key, value, *, subkey=None, lifetime=60):
        """Write any record through the bootstrap peer."""
        return self.call(self.bootstrap.node.store(key, value, time.time() + lifetime, subkey=subkey))

    def close_server(self, server):
        self.call(server.close())
        self._servers.remove(server)

    def close(self):
        self.call(_close_all(self._servers))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    @property
    def bootstrap_peers(self):
        from shared.p2p.swarm_settings import bootstrap_peers

        return bootstrap_peers(self.initial_peers)


async def _close_all(servers):
    await asyncio.gather(*(server.close() for server in servers))
    # hivemind leaves tasks behind; a closed loop must not have any.
    await end(*asyncio.all_tasks() - {asyncio.current_task()})


@pytest.fixture
def swarm():
    """A private swarm of this test's own, with nothing but a bootstrap peer in it."""
    private = PrivateSwarm()
    yield private
    private.close()
