"""This module is the launcher: it starts an embedded Redis unless REDIS_URL is set, the api, crawler and workers.

It restarts what dies, and ends all of it on Ctrl-C. `deploy.run_local` becomes this program, which runs as long as the
monitor: it imports little.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deploy import embedded_redis
from deploy.supervisor import Child, Supervisor
from shared import exit_codes
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DEMO_MODELS = [
    {
        "dht_prefix": "StableBeluga2-hf",
        "num_blocks": 80,
        "repository": "https://huggingface.co/petals-team/StableBeluga2",
    }
]
DEMO_PERIOD = "10"
WORKERS_WAIT = 3.0
"""Seconds for which workers let a first crawl go before them."""
START_TIMEOUT = 60.0


class Plan(NamedTuple):
    """What to start. The launcher gets it as JSON, its one argument."""

    demo: bool
    workers: int
    data: str
    """Folder of the embedded Redis."""
    redis_url_is_set: bool
    """Whether the services find a Redis by themselves."""
    api_host: str
    """At which this machine reaches the api."""
    api_port: int


def main() -> int:
    return asyncio.run(_run(Plan(**json.loads(sys.argv[1]))))


def say(text: str) -> None:
    print(f"[monitor] {text}", file=sys.stderr, flush=True)


async def _run(plan: Plan) -> int:
    stop = asyncio.Event()
    supervisor = Supervisor(say)

    def told_to_stop() -> None:
        if stop.is_set():
            supervisor.kill()
        stop.set()

    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, told_to_stop)
    starting = awaited(_start_all(supervisor, plan))
    stopping = awaited(stop.wait())
    refused = awaited(supervisor.refused.wait())
    try:
        await asyncio.wait({starting, stopping, refused}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await asyncio.wait({stopping, refused}, return_when=asyncio.FIRST_COMPLETED)
        if supervisor.refused.is_set():
            return exit_codes.BAD_SETTINGS  # what is bad about the settings, the child has said
    except OSError as error:  # what did not start in time, too
        say(str(error))
        return 1
    finally:
        say("stopping; Ctrl-C again ends at once what has not ended")
        await end(starting, stopping, refused)
        await supervisor.stop()
    return 0


async def _start_all(supervisor: Supervisor, plan: Plan) -> None:
    environment = {"PYTHONUNBUFFERED": "1"}
    demo = awaited(_start_demo_swarm(supervisor)) if plan.demo else None
    try:
        await _start_services(supervisor, plan, environment, demo)
    finally:
        await end(demo)


async def _start_services(
    supervisor: Supervisor, plan: Plan, environment: dict[str, str], demo: asyncio.Task[dict[str, str]] | None
) -> None:
    if plan.redis_url_is_set:
        say("using the Redis at REDIS_URL")
    else:
        redis_port = embedded_redis.free_port()
        data = None if plan.demo else Path(plan.data)
        supervisor.start(Child("redis", embedded_redis.command(redis_port, data)))
        environment["REDIS_URL"] = f"redis://127.0.0.1:{redis_port}/0"
        await _until(lambda: _listens(redis_port), "the embedded Redis did not start")
        say(f"embedded Redis on port {redis_port}" + (f", data in {data}" if data else ", without persistence"))

    supervisor.start(Child("api", _module("api"), environment))
    await _until(lambda: _get(plan, "/livez"), "the api did not start")
    say(f"the page is at http://{plan.api_host}:{plan.api_port}/")

    if demo is not None:
        environment |= await demo
        say("the simulated servers are there")
    supervisor.start(Child("crawler", _module("crawler"), environment))
    await _until(lambda: _shown(plan), None, WORKERS_WAIT)
    for number in range(plan.workers):
        supervisor.start(Child(f"worker {number + 1}", _module("reachability_worker"), environment))
    await _until(lambda: _shown(plan), None, START_TIMEOUT / 2)
    shown = await _shown(plan)
    if shown is None:
        say("the swarm cannot be seen yet; the page says which bootstrap peers were tried, and what failed.")
        say("Another swarm: set INITIAL_PEERS. Something to look at: make demo.")
    else:
        say("first snapshot: {} models, {} servers. Ctrl-C ends the monitor.".format(*shown))


async def _start_demo_swarm(supervisor: Supervisor) -> dict[str, str]:
    say("starting a private swarm of simulated servers")
    announced: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def read_peers(line: str) -> None:
        if line.startswith("INITIAL_PEERS=") and not announced.done():
            announced.set_result(line.partition("=")[2])

    supervisor.start(Child("demo swarm", [sys.executable, "-m", "deploy.demo.swarm"], on_line=read_peers))
    async with asyncio.timeout(START_TIMEOUT):
        initial_peers = await announced
    return {"INITIAL_PEERS": initial_peers, "MODELS": json.dumps(DEMO_MODELS), "CRAWL_PERIOD": DEMO_PERIOD}


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", name]


async def _until(
    condition: Callable[[], Awaitable[object]], failure: str | None, within: float = START_TIMEOUT
) -> None:
    """Wait for a condition; at the end of the time raise, or go on where no failure is named."""
    end = time.monotonic() + within
    while not await condition():
        if time.monotonic() > end:
            if failure is None:
                return
            raise TimeoutError(failure)
        await asyncio.sleep(0.1)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def _get(plan: Plan, path: str) -> bytes:
    """Return what the api answers, empty while it does not. Urllib would be a tenth of what the launcher holds."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(plan.api_host.strip("[]"), plan.api_port)
            with closing(writer):
                writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    except OSError:
        return b""
    return body if b" 200 " in head.partition(b"\r\n")[0] else b""


async def _shown(plan: Plan) -> tuple[int, int] | None:
    """Return how many models and server rows are published, None before the first snapshot.

    The names of their fields are counted: to parse a large swarm's state would cost the launcher as much as it has.
    """
    state = await _get(plan, "/api/v1/state")
    return (state.count(b'"server_rows":'), state.count(b'"short_peer_id":')) if state else None


if __name__ == "__main__":
    sys.exit(main())
