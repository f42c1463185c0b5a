"""The whole monitor on one machine: `make run`, or `make demo` on a private swarm of simulated servers.

Starts Redis (REDIS_URL if set, else an embedded server), the api, the crawler and the workers, restarts processes that
die, and ends all of them on Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import signal
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deploy import embedded_redis
from deploy.supervisor import Child, Supervisor
from shared import exit_codes
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

ROOT = Path(__file__).resolve().parent.parent
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
ROOM_FOR_DATA = 16 * 1024**2
"""Bytes that must be free: a thousand servers' history takes 1.3 MB, and Redis writes its file anew beside the old."""


class Settings(NamedTuple):
    """What the launcher needs to know of the api's settings."""

    api_host: str
    """At which this machine reaches the api."""
    api_port: int
    redis_url_is_set: bool


def main() -> int:
    arguments = _parser().parse_args()
    settings = read_settings()
    if _is_taken(settings.api_host, settings.api_port):
        print(f"Port {settings.api_port} is taken: set API_PORT to another one.", file=sys.stderr)
        return exit_codes.BAD_SETTINGS
    embedded = not arguments.demo and not settings.redis_url_is_set
    if embedded and (reason := _cannot_keep(arguments.data)) is not None:
        print(f"{arguments.data} cannot keep data: {reason}. Give another folder: --data FOLDER.", file=sys.stderr)
        return exit_codes.BAD_SETTINGS
    return asyncio.run(_run(arguments, settings))


def read_settings() -> Settings:
    """Read the api's settings in a process of its own: what reads them would be half of what the launcher holds."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=_send_settings, args=(writer,))
    child.start()
    child.join()
    if child.exitcode:
        sys.exit(child.exitcode)
    return Settings(*reader.recv())


def _send_settings(writer: Connection) -> None:
    from api.settings import ApiSettings
    from deploy.healthcheck import reached_at
    from shared.settings import load

    settings = load(ApiSettings)
    writer.send((reached_at(settings.api_host), settings.api_port, "redis_url" in settings.model_fields_set))


def _cannot_keep(folder: Path) -> str | None:
    """Say why a folder can take no data, None where it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(ROOM_FOR_DATA))
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.run_local", description=__doc__)
    parser.add_argument("--demo", action="store_true", help="start a private swarm on 127.0.0.1 and monitor it")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="reachability workers (default 1)")
    parser.add_argument(
        "--data", type=Path, default=ROOT / ".data", help="folder of the embedded Redis (default .data)"
    )
    return parser


def say(text: str) -> None:
    print(f"[monitor] {text}", file=sys.stderr, flush=True)


async def _run(arguments: argparse.Namespace, settings: Settings) -> int:
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    supervisor = Supervisor(say)
    starting = awaited(_start_all(supervisor, arguments, settings))
    stopping = awaited(stop.wait())
    refused = awaited(supervisor.refused.wait())
    try:
        await asyncio.wait({starting, stopping, refused}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await asyncio.wait({stopping, refused}, return_when=asyncio.FIRST_COMPLETED)
        if supervisor.refused.is_set():
            return exit_codes.BAD_SETTINGS  # what is bad about the settings, the child has said
    except TimeoutError as error:
        say(str(error))
        return 1
    finally:
        say("stopping")
        await end(starting, stopping, refused)
        await supervisor.stop()
    return 0


async def _start_all(supervisor: Supervisor, arguments: argparse.Namespace, settings: Settings) -> None:
    environment = {"PYTHONUNBUFFERED": "1"}
    demo = awaited(_start_demo_swarm(supervisor)) if arguments.demo else None
    try:
        await _start_services(supervisor, arguments, settings, environment, demo)
    finally:
        await end(demo)


async def _start_services(
    supervisor: Supervisor,
    arguments: argparse.Namespace,
    settings: Settings,
    environment: dict[str, str],
    demo: asyncio.Task[dict[str, str]] | None,
) -> None:
    if settings.redis_url_is_set:
        say("using the Redis at REDIS_URL")
    else:
        redis_port = embedded_redis.free_port()
        data = None if arguments.demo else arguments.data
        supervisor.start(Child("redis", embedded_redis.command(redis_port, data)))
        environment["REDIS_URL"] = f"redis://127.0.0.1:{redis_port}/0"
        await _until(lambda: _is_taken("127.0.0.1", redis_port), "the embedded Redis did not start")
        say(f"embedded Redis on port {redis_port}" + (f", data in {data}" if data else ", without persistence"))

    supervisor.start(Child("api", _module("api"), environment))
    page = f"http://{settings.api_host}:{settings.api_port}/"
    await _until(lambda: _answers(page + "livez"), "the api did not start")
    say(f"the page is at {page}")

    if demo is not None:
        environment |= await demo
        say("the simulated servers are there")
    supervisor.start(Child("crawler", _module("crawler"), environment))
    await _until(lambda: _shown(page) is not None, None, WORKERS_WAIT)
    for number in range(arguments.workers):
        supervisor.start(Child(f"worker {number + 1}", _module("reachability_worker"), environment))
    await _until(lambda: _shown(page) is not None, None, START_TIMEOUT / 2)
    shown = _shown(page)
    if shown is None:
        say("the swarm cannot be seen yet; the page says which bootstrap peers were tried, and what failed.")
        say("Another swarm: set INITIAL_PEERS. Something to look at: make demo.")
    else:
        say("first snapshot: {} models, {} servers. Ctrl-C ends the monitor.".format(*shown))


async def _start_demo_swarm(supervisor: Supervisor) -> dict[str, str]:
    say("starting a private swarm of simulated servers")
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def hear(line: str) -> None:
        if line.startswith("INITIAL_PEERS=") and not told.done():
            told.set_result(line.partition("=")[2])

    supervisor.start(Child("demo swarm", [sys.executable, "-m", "deploy.demo.swarm"], on_line=hear))
    async with asyncio.timeout(START_TIMEOUT):
        initial_peers = await told
    return {"INITIAL_PEERS": initial_peers, "MODELS": json.dumps(DEMO_MODELS), "CRAWL_PERIOD": DEMO_PERIOD}


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", name]


async def _until(condition: object, failure: str | None, within: float = START_TIMEOUT) -> None:
    """Wait for a condition; at the end of the time raise, or go on where no failure is named."""
    assert callable(condition)  # noqa: S101
    end = time.monotonic() + within
    while not await asyncio.to_thread(condition):
        if time.monotonic() > end:
            if failure is None:
                return
            raise TimeoutError(failure)
        await asyncio.sleep(0.1)


def _is_taken(host: str, port: int) -> bool:
    try:
        socket.create_connection((host.strip("[]"), port), timeout=0.5).close()
    except OSError:
        return False
    return True


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (OSError, urllib.error.URLError):
        return False


def _shown(page: str) -> tuple[int, int] | None:
    """Return how many models and server rows are published, None before the first snapshot.

    The names of their fields are counted: to parse a large swarm's state would cost the launcher as much as it has.
    """
    try:
        with urllib.request.urlopen(page + "api/v1/state", timeout=2) as answer:
            state = answer.read()
    except OSError:
        return None
    return state.count(b'"server_rows":'), state.count(b'"short_peer_id":')


if __name__ == "__main__":
    sys.exit(main())
