from __future__ import annotations

import itertools

import pytest

from deploy.demo.simulated_server import Announcement, Model
from deploy.embedded_redis import free_port
from tests.reliability.parts import Part, get, until
from tests.tracing.collector import Collector

MODEL = Model("demo-model", 12, "https://huggingface.co/demo/model")


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.close()


@pytest.fixture
def start(tmp_path, redis_server):
    """`start("crawler", OTEL_EXPORTER_OTLP_ENDPOINT=…)`: a part of the monitor that does not outlive the test."""
    parts, numbers = [], itertools.count()

    def run(service, **environment):
        variables = {"REDIS_URL": redis_server.url, "OTEL_BSP_SCHEDULE_DELAY": "100", **environment}
        part = Part([service], tmp_path / f"{service}-{next(numbers)}.log", **variables)
        parts.append(part)
        return part

    yield run
    for part in parts:
        part.end()


@pytest.fixture
def start_api(start):
    """An api that answers: (part, address)."""

    def run(**environment):
        port = free_port()
        part = start("api", API_PORT=str(port), **environment)
        url = f"http://127.0.0.1:{port}"
        until(lambda: get(url + "/livez")[0] == 200, 40, "the api")
        return part, url

    return run


@pytest.fixture
def live(swarm):
    """A server of the private swarm that serves the whole model."""
    return swarm.start(Announcement(MODEL, 0, 12))
