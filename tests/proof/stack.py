"""The compose project on an engine, seen from outside: through nginx's two ports, and through the engine."""

from __future__ import annotations

import json
import resource
import secrets
import ssl
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx

from deploy.embedded_redis import free_port
from tests.proof.stand_ins import ALERTMANAGER_IMAGE, NGINX_IMAGE, PROMETHEUS_IMAGE, REDIS_IMAGE
from tests.support.self_signed import make_certificate

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.proof.container_engine import Engine

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "petals-prove"
IMAGES = {"api": "petals-monitor-api:prove", "swarm": "petals-monitor-swarm:prove"}
SCALE = {"api": 3, "reachability_worker": 4, "crawler": 2, "redis": 1, "nginx": 1, "demo-swarm": 1}
OPS = ("prometheus", "alertmanager")
"""Of the `ops` profile; Grafana is in no package that could stand in for its image."""
DEMO_MODELS = 3
FAILURES = (OSError, httpx.HTTPError, ValueError, LookupError, subprocess.CalledProcessError)
"""What looking at a stack that is not up (yet) may raise."""


class BrokenPromiseError(Exception):
    """The message says what was seen instead."""


def expect(condition: object, otherwise: str) -> None:
    if not condition:
        raise BrokenPromiseError(otherwise)


def wait(what: str, condition: Callable[[], object], seconds: float) -> float:
    """Return the seconds until the condition held. Raises `BrokenPromiseError` where it did not in time."""
    started = time.monotonic()
    while True:
        try:
            if condition():
                return time.monotonic() - started
        except FAILURES:
            pass  # not up yet
        expect(time.monotonic() - started < seconds, f"not within {seconds:g} s: {what}")
        time.sleep(0.3)


class Stack:
    """The project, and its page on a plain port and on one with TLS. `folder` is for its certificate."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.ports = {name: free_port() for name in ("http", "https", "prometheus", "alertmanager")}
        trust = ssl.create_default_context(cafile=str(make_certificate(folder)[0]))
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.ports['http']}", timeout=20)
        self.secure = httpx.Client(
            base_url=f"https://localhost:{self.ports['https']}", http2=True, verify=trust, timeout=20
        )
        engine.environment |= {
            "HTTP_PORT": str(self.ports["http"]),
            "HTTPS_PORT": str(self.ports["https"]),
            "TLS_CERTIFICATES": str(folder),
            "PROMETHEUS_PORT": str(self.ports["prometheus"]),
            "ALERTMANAGER_PORT": str(self.ports["alertmanager"]),
            "REDIS_PASSWORD": secrets.token_hex(8),
            "API_IMAGE": IMAGES["api"].partition(":")[0],
            "SWARM_IMAGE": IMAGES["swarm"].partition(":")[0],
            "IMAGE_TAG": "prove",
            "REDIS_IMAGE": REDIS_IMAGE,
            "NGINX_IMAGE": NGINX_IMAGE,
            "PROMETHEUS_IMAGE": PROMETHEUS_IMAGE,
            "ALERTMANAGER_IMAGE": ALERTMANAGER_IMAGE,
            # The load comes from one address. nginx has limits of its own.
            "RATE_LIMIT": "6000",
            "NOFILE": str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
            "COMPOSE": " ".join(self._compose),
            "DOCKER": engine.docker,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Take the project down, whatever is left of it."""
        self.compose("down", "-v", "--timeout", "5")
        self.client.close()
        self.secure.close()

    @property
    def _compose(self) -> list[str]:
        files = ("docker-compose.yml", "deploy/compose.tls.yml")
        named = [word for name in files for word in ("-f", str(ROOT / name))]
        return [*self.engine.compose, "-p", PROJECT, *named, "--profile", "demo", "--profile", "ops"]

    def compose(self, *arguments: str) -> str:
        return self.engine.run(*self._compose, *arguments)

    def docker(self, *arguments: str, check: bool = True) -> str:
        return self.engine.run(self.engine.docker, *arguments, check=check).strip()

    def up(self, services: tuple[str, ...] = tuple(SCALE)) -> None:
        """Start services, each as often as `SCALE` says."""
        counts = {name: SCALE[name] for name in services if SCALE.get(name, 1) > 1}
        scale = [word for name, count in counts.items() for word in ("--scale", f"{name}={count}")]
        self.compose("up", "-d", "--no-build", *scale, *services)

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "-q", service).split()

    def inspect(self, container: str) -> dict[str, Any]:
        described: dict[str, Any] = json.loads(self.docker("inspect", container))[0]
        return described

    def is_healthy(self, container: str) -> bool:
        return bool(self.inspect(container)["State"].get("Health", {}).get("Status") == "healthy")

    def inside(self, container: str, url: str) -> str:
        """Fetch a URL from within a container that has Python: the private ports are not published."""
        program = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=5).read().decode())"
        return self.docker("exec", container, "python", "-c", program)

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Answer of any status, over plain HTTP. Raises `httpx.HTTPError` where there is none."""
        return self.client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def check(self, peer_id: str, **headers: str) -> httpx.Response:
        return self.get(f"/api/v1/is_reachable/{peer_id}", **headers)

    def state(self) -> dict[str, Any]:
        answer = self.get("/api/v1/state")
        document: dict[str, Any] = answer.json() if answer.status_code == httpx.codes.OK else {}
        return document

    def peers(self, state: str) -> list[str]:
        """Peer ids of the servers that the page shows in this state."""
        rows = (row for model in self.state().get("model_reports", []) for row in model["server_rows"])
        return [row["peer_id"] for row in rows if row["state"] == state]
