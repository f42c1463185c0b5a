"""The monitor's parts as processes that a test starts, hurts and ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import redis as sync_redis

from shared.snapshot import decode
from shared.store import keys
from shared.tasks import end

ROOT = Path(__file__).resolve().parents[2]


def until(condition, seconds, what):
    """Return the first true result, and how many seconds it took."""
    started = time.monotonic()
    while not (result := condition()):
        assert time.monotonic() - started < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return result, time.monotonic() - started


def answers(client):
    """Whether a Redis does."""
    try:
        return client.ping()
    except sync_redis.RedisError:
        return False


def get(url, timeout=12):
    """Return status, body and headers; status 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)
    except OSError:
        return 0, "", {}


def state(url):
    status, body, _ = get(url + "/api/v1/state")
    return json.loads(body) if status == 200 else None


def daemons_of(pid):
    """Process ids of a process's p2pds."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and b"p2pd" in (entry / "cmdline").read_bytes():
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                found += [int(entry.name)] if int(parent) == pid else []
    return found


class Part:
    """`python -m MODULE` in a process group of its own."""

    def __init__(self, command, log, terminal=None, **environment):
        """`terminal` is a file descriptor that it draws on, instead of the log."""
        self.log = log
        clean = {name: value for name, value in os.environ.items() if name not in ("INITIAL_PEERS", "REDIS_URL")}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=ROOT, env={**clean, "LOG_FORMAT": "json", **environment},
                stdout=output if terminal is None else terminal, stderr=output, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self):
        return self.process.pid

    def said(self, words):
        return words in self.log.read_text()

    def daemons(self):
        return daemons_of(self.pid)

    def memory(self):
        """Resident kilobytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    def files(self):
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def freeze(self):
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self):
        os.killpg(self.pid, signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


class Published:
    """What stands in Redis."""

    def __init__(self, url):
        self.url = url
        self.redis = sync_redis.Redis.from_url(url)

    def snapshot(self):
        entries = self.redis.xrevrange(keys.SNAPSHOTS, count=1)
        return decode(entries[0][1][b"snapshot"]) if entries else None

    def newer_than(self, taken_at):
        found = self.snapshot()
        return found if found is not None and found.taken_at > taken_at else None

    def leader_pid(self):
        lease = self.redis.get(keys.CRAWLER_LEASE)
        return int(lease.decode().rpartition("-")[2]) if lease else None


class SlowProxy:
    """A TCP proxy in front of Redis that holds everything back for `delay` seconds, on a loop of its own."""

    def __init__(self, port):
        self.target = port
        self.delay = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_):
        self._call(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _cancel_all(self):
        self._server.close()
        await end(*asyncio.all_tasks() - {asyncio.current_task()})
        await asyncio.sleep(0.1)  # transports close in the loop's next turns

    async def _serve(self, reader, writer):
        with suppress(OSError, asyncio.CancelledError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.gather(self._pass(reader, up_writer), self._pass(up_reader, writer))

    async def _pass(self, reader, writer):
        try:
            with suppress(OSError):
                while data := await reader.read(65536):
                    await asyncio.sleep(self.delay)
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()
