"""The whole monitor as its users run it: one process a service, an embedded Valkey, nothing in common but settings."""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from deploy import embedded_redis
from deploy.embedded_redis import free_port
from tests.petals_server.environment import ROOT
from tests.petals_server.processes import Group, accepts_connections, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SERVICES = ("crawler", "reachability_worker", "api")
CRAWL_PERIOD = 3.0
INFERENCE_PERIOD = 5.0
READY_WITHIN = 60.0
NOBODY = "QmbRQbRb6XWsmyEuYuWqSnPkSpiqYuQAvCLBrTtiYjxzXN"
"""A well-formed peer id that no node of the private swarm has."""
NOT_SHOWN = "not shown"
"""Stands for the state of a server that has no row."""
STOP_WITHIN = 10.0
HTTP_TIMEOUT = 10.0
"""What a Petals server allows the monitor."""


class Monitor:
    """A running monitor, asked over HTTP only."""

    def __init__(self, url: str, services: Sequence[Group]) -> None:
        self.url = url
        self._services = services
        self.last_answer = "no answer yet"

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=HTTP_TIMEOUT)

    def state(self) -> dict[str, Any] | None:
        """Return `/api/v1/state`, None while the monitor has nothing to show yet."""
        try:
            response = self.get("/api/v1/state")
        except httpx.TransportError:
            return None
        document: dict[str, Any] | None = response.json() if response.status_code == httpx.codes.OK else None
        return document

    def model(self, dht_prefix: str) -> dict[str, Any] | None:
        """Return the report of one model, None where it is not shown."""
        reports = (self.state() or {}).get("model_reports", [])
        return next((report for report in reports if report["dht_prefix"] == dht_prefix), None)

    def server_row(self, dht_prefix: str, peer_id: str) -> dict[str, Any] | None:
        """Return the row of one server of a model, None where it is not shown."""
        rows = (self.model(dht_prefix) or {}).get("server_rows", [])
        return next((row for row in rows if row["peer_id"] == peer_id), None)

    def wait_for_server_state(
        self, dht_prefix: str, peer_id: str, *states: str, within: float = 60.0
    ) -> dict[str, Any]:
        """Return the row once it is in one of the states, `NOT_SHOWN` among them. Raise `TimeoutError`."""

        def look() -> dict[str, Any] | None:
            row = self.server_row(dht_prefix, peer_id) or {"state": NOT_SHOWN}
            return row if row["state"] in states else None

        return wait_for(f"{peer_id} {' or '.join(states)} in {dht_prefix}", look, within, every=0.5)

    def wait_for_tokens(self, dht_prefix: str, *, within: float = 60.0) -> dict[str, Any]:
        """Return the model's report once a chain through it gave tokens. Raise `TimeoutError`."""

        def look() -> dict[str, Any] | None:
            report = self.model(dht_prefix) or {}
            return report if (report.get("usability") or {}).get("seconds_per_token") is not None else None

        return wait_for(f"tokens from {dht_prefix}", look, within, every=0.5)

    def is_reachable(self, peer_id: str) -> dict[str, Any] | None:
        """Return the answer about one peer, None where the monitor says that nobody could probe."""
        response = self.get(f"/api/v1/is_reachable/{peer_id}")
        self.last_answer = f"{response.status_code} {response.text}"
        answer: dict[str, Any] | None = response.json() if response.status_code == httpx.codes.OK else None
        return answer

    def wait_for_answer(self, peer_id: str, *, success: bool, within: float = 60.0) -> dict[str, Any]:
        """Ask until the answer is this one: a verdict may be some seconds old, and no worker may be up yet."""

        def look() -> dict[str, Any] | None:
            answer = self.is_reachable(peer_id)
            return answer if answer is not None and answer["success"] is success else None

        try:
            return wait_for(f"success={success} about {peer_id}", look, within, every=1.0)
        except TimeoutError as error:
            error.add_note(self.last_answer)
            raise

    def wait_until_ready(self) -> None:
        """Wait for a first snapshot, and for a worker that can say of a peer that it is nowhere.

        Raise `AssertionError`.
        """
        try:
            wait_for("/api/v1/state", self.state, READY_WITHIN, every=0.5)
            self.wait_for_answer(NOBODY, success=False, within=READY_WITHIN)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.last_answer}\n{self.tails()}") from error

    def tails(self) -> str:
        """Return the ends of the services' logs."""
        return "\n".join(service.tail() for service in self._services)


@contextmanager
def running_monitor(folder: Path, initial_peers: Sequence[str]) -> Iterator[Monitor]:
    """Run Valkey, a crawler, a worker and an api for one swarm; end them all."""
    with ExitStack() as stack:
        redis_port, port = free_port(), free_port()
        valkey = embedded_redis.command(redis_port, folder / "valkey")
        stack.enter_context(Group("valkey", valkey, folder, {}))
        wait_for("valkey", lambda: accepts_connections(redis_port), READY_WITHIN)
        env = {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
            "INITIAL_PEERS": ",".join(initial_peers),
            "CRAWL_PERIOD": str(CRAWL_PERIOD),
            "INFERENCE_PERIOD": str(INFERENCE_PERIOD),
            "API_HOST": "127.0.0.1",
            "API_PORT": str(port),
        }
        services = []
        for name in SERVICES:
            service = stack.enter_context(Group(name, [sys.executable, "-m", name], folder, env))
            stack.callback(service.stop, signal.SIGTERM, timeout=STOP_WITHIN)
            services.append(service)
        yield Monitor(f"http://127.0.0.1:{port}", services)
