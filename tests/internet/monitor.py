"""The whole monitor on one host: Redis, crawler, worker and api as processes, asked over HTTP only."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from deploy import embedded_redis
from tests.internet.peers import wrong_clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.internet.network import Host

ROOT = Path(__file__).resolve().parents[2]
API_PORT, REDIS_PORT = 8000, 6379
CRAWL_PERIOD = 15
ANSWER_TIMEOUT = 10.0
"""What a Petals server gives the monitor."""
READY_WITHIN = 90.0
SNAPSHOT_WITHIN = 60.0
END_WITHIN = 15.0


class Monitor:
    """A monitor that was told nothing but the swarm's bootstrap peers."""

    def __init__(self, host: Host, address: str, bootstrap: Sequence[str], logs: Path, clock: float = 0.0) -> None:
        """Start it. `address` is where the outside reaches the host; `clock` says how far ahead the host's clock is."""
        self.clock = clock
        self._bootstrap_peer = bootstrap[0].rpartition("/")[2]
        self._client = httpx.AsyncClient(base_url=f"http://{address}:{API_PORT}", timeout=ANSWER_TIMEOUT)
        settings = {
            "INITIAL_PEERS": ",".join(bootstrap),
            "REDIS_URL": f"redis://127.0.0.1:{REDIS_PORT}/0",
            "API_HOST": "0.0.0.0",
            "API_PORT": str(API_PORT),
            "CRAWL_PERIOD": str(CRAWL_PERIOD),
            "RATE_LIMIT": "0",
            "TRUSTED_NETWORKS": "0.0.0.0/0",
        }
        commands = {"redis": embedded_redis.command(REDIS_PORT, None)}
        commands |= {name: [sys.executable, "-m", name] for name in ("crawler", "reachability_worker", "api")}
        env = os.environ | settings | (wrong_clock(clock) if clock else {})
        self._parts = []
        for name, command in commands.items():
            with (logs / f"{host.name}-{name}.log").open("wb") as log:
                part = subprocess.Popen(host.command(*command), cwd=ROOT, env=env, stdout=log, stderr=log)
            self._parts.append(part)

    async def until_ready(self) -> None:
        """Wait for the api, and for a worker that looks: at a bootstrap peer. Raise `TimeoutError`."""
        async with asyncio.timeout(READY_WITHIN):
            while True:
                with suppress(httpx.TransportError):
                    if (await self.check(self._bootstrap_peer, fresh=True)).get("success"):
                        return
                await asyncio.sleep(0.5)

    async def check(self, peer_id: str, *, fresh: bool = False) -> dict[str, Any]:
        """Ask about one peer as a server asks about itself; `fresh`: for a new look, whatever was seen before."""
        started = time.monotonic()
        answer = await self._client.get(f"/api/v1/is_reachable/{peer_id}", params={"fresh": "1"} if fresh else {})
        seconds = time.monotonic() - started
        return {"status": answer.status_code, "seconds": seconds, **answer.json()}

    async def snapshot_begun_after(self, moment: float) -> dict[str, Any] | None:
        """Return `/api/v1/state` from a crawl that began after a moment (Unix seconds); None where none comes."""
        deadline = time.monotonic() + SNAPSHOT_WITHIN
        while time.monotonic() < deadline:
            answer = await self._client.get("/api/v1/state")
            if answer.is_success:
                document: dict[str, Any] = answer.json()
                if document["last_updated"] - document["update_duration"] - self.clock >= moment:
                    return document
            await asyncio.sleep(0.5)
        return None

    async def stop(self) -> None:
        """End all processes, so that they put their things away."""
        await self._client.aclose()
        for part in reversed(self._parts):
            part.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + END_WITHIN
        while time.monotonic() < deadline and any(part.poll() is None for part in self._parts):
            await asyncio.sleep(0.1)
