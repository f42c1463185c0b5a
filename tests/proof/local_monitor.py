"""The whole monitor on a private swarm as processes on free ports, to be scraped, hurt and mended by a proof."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from deploy import embedded_redis
from deploy.embedded_redis import free_port
from deploy.launcher import DEMO_MODELS

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 90.0
ASK_EVERY = 0.2


class Part:
    """One process with all that it starts; it can be killed and started again as it was."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = command
        self._environment = {**os.environ, "LOG_FORMAT": "json", **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Part:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and all that it started."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()


class Monitor:
    """Redis, a demo swarm, and two each of crawler, worker and api. What `running` ends, ends them."""

    def __init__(self, folder: Path, running: ExitStack, *, crawl_period: float) -> None:
        self._folder = folder
        self._running = running
        redis_port = free_port()
        self.redis = self._part("redis", embedded_redis.command(redis_port, None), {})
        self._told = {"REDIS_URL": f"redis://127.0.0.1:{redis_port}/0"}
        self.swarm = self._part("demo-swarm", [sys.executable, "-m", "deploy.demo.swarm"], {})
        self._told |= {
            "INITIAL_PEERS": until(self._initial_peers, "the demo swarm"),
            "MODELS": json.dumps(DEMO_MODELS),
            "CRAWL_PERIOD": f"{crawl_period:g}",
        }
        self.ports: dict[str, list[int]] = {"petals-swarm": []}
        self.crawlers = self._pair("crawler", "petals-crawler", "CRAWLER_METRICS_PORT")
        self.workers = self._pair("reachability_worker", "petals-worker", "WORKER_METRICS_PORT")
        public = [free_port(), free_port()]
        self.apis = self._pair("api", "petals-api", "API_METRICS_PORT", [{"API_PORT": f"{port}"} for port in public])
        # In the place of the load balancer, which is scraped once: the first replica.
        self.ports["petals-swarm"] = public[:1]
        self.page = f"http://127.0.0.1:{public[0]}"
        self.peers = until(self._online_peers, "the first snapshot")

    def _part(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Part:
        part = Part(name, command, self._folder, environment).start()
        self._running.callback(part.kill)
        return part

    def _pair(
        self, service: str, job: str, port_variable: str, more: Sequence[Mapping[str, str]] = ({}, {})
    ) -> list[Part]:
        self.ports[job] = [free_port(), free_port()]
        return [
            self._part(
                f"{service}-{number}",
                [sys.executable, "-m", service],
                {**self._told, port_variable: f"{port}", **environment},
            )
            for number, (port, environment) in enumerate(zip(self.ports[job], more, strict=True), 1)
        ]

    def _initial_peers(self) -> str:
        lines = self.swarm.log.read_text().splitlines()
        return next((line.partition("=")[2] for line in lines if line.startswith("INITIAL_PEERS=")), "")

    def _online_peers(self) -> list[str]:
        with urllib.request.urlopen(self.page + "/api/v1/state", timeout=5) as answer:
            models = json.load(answer)["model_reports"]
        return [row["peer_id"] for model in models for row in model["server_rows"] if row["state"] == "online"]

    def leader(self) -> Part:
        """Return the crawler that took the lead last."""
        taken = [part.log.read_text().rfind('"event": "leading"') for part in self.crawlers]
        return self.crawlers[taken.index(max(taken))]

    def ask(self, stop: threading.Event) -> None:
        """Ask about servers until told to stop: alerts about checks need checks."""
        number = 0
        while not stop.wait(ASK_EVERY):
            number += 1
            with suppress(OSError):
                url = f"{self.page}/api/v1/is_reachable/{self.peers[number % len(self.peers)]}"
                urllib.request.urlopen(url, timeout=10).close()


def until(condition: Callable[[], T], what: str) -> T:
    """Return the first true result. Raises `TimeoutError`."""
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end:
        with suppress(OSError, urllib.error.URLError, ValueError):
            if result := condition():
                return result
        time.sleep(0.2)
    raise TimeoutError(f"{what} did not come within {START_TIMEOUT:g} s")
