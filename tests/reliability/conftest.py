from __future__ import annotations

import itertools
import shutil

import pytest

from deploy.demo.simulated_server import Announcement, Model
from deploy.embedded_redis import free_port
from tests.reliability.parts import Part, Published, get, until
from tests.support.self_signed import make_certificate

MODEL = Model("demo-model", 12, "https://huggingface.co/demo/model")


@pytest.fixture
def start(tmp_path):
    """`start("crawler", REDIS_URL=…)`: a part that does not outlive the test."""
    parts, numbers = [], itertools.count()

    def run(*command, **environment):
        part = Part(command, tmp_path / f"{command[0]}-{next(numbers)}.log", **environment)
        parts.append(part)
        return part

    yield run
    for part in parts:
        part.end()


@pytest.fixture
def start_api(start):
    """An api that answers: (part, address)."""

    def run(redis_url, **environment):
        port = free_port()
        part = start("api", REDIS_URL=redis_url, API_PORT=str(port), **environment)
        url = f"http://127.0.0.1:{port}"
        until(lambda: get(url + "/livez")[0] == 200, 40, "the api")
        return part, url

    return run


@pytest.fixture
def live(swarm):
    """A server of the private swarm that serves the whole model."""
    server = swarm.start(Announcement(MODEL, 0, 12))
    server.announcement = Announcement(MODEL, 0, 12)
    return server


@pytest.fixture
def published(redis_server):
    return Published(redis_server.url)


@pytest.fixture
def tls(tmp_path):
    """What a Redis over TLS needs: (a redis-server that can do it, certificate, key)."""
    binary = shutil.which("redis-server")
    if binary is None or shutil.which("openssl") is None:
        pytest.skip("needs Debian's redis-server, which can do TLS, and openssl")
    return binary, *make_certificate(tmp_path)
