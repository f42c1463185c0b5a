"""A Redis-compatible server as a process of the tests'."""

from __future__ import annotations

import subprocess
import time

import redis as sync_redis

from deploy import embedded_redis


class RedisServer:
    """A Valkey process that a test may stop, kill and start again."""

    def __init__(self, *options: str) -> None:
        self.port = embedded_redis.free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        # It ends with whoever started it, also where a mutant or a whole run is killed.
        command = ["setpriv", "--pdeathsig", "KILL", *embedded_redis.command(self.port, None, *self._options)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        client = self.client()
        while True:
            try:
                client.ping()
                break
            except sync_redis.ConnectionError:
                assert time.monotonic() < deadline, "the Redis server did not start"
                time.sleep(0.02)
        client.close()

    def client(self) -> sync_redis.Redis:
        return sync_redis.Redis.from_url(self.url)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
