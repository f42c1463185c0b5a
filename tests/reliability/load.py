"""Checks that are asked all the time while a test hurts something: how many, how answered, and whether rightly."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import threading
import time
from collections import Counter
from pathlib import Path

from tests.fakes import peer_id

ANSWER_WITHIN = 12


def note(what, **figures):
    """Keep what was measured for `make prove-reliability`; print it for who reads the test's output."""
    line = json.dumps({"what": what, **figures})
    print(line)  # noqa: T201 - pytest -s shows it
    if path := os.environ.get("RELIABILITY_FIGURES"):
        with Path(path).open("a") as file:
            file.write(line + "\n")


def never_seen(number):
    """Ever new peers, of whom a simulated worker says that they are reachable."""
    return peer_id(number + 10**7), True


class Load:
    """Asks `GET /api/v1/is_reachable/…` over keep-alive connections, on a thread of its own.

    `whom(n)` gives the n-th question's peer and what is true of it. Wrong is an answer that says otherwise: nobody
    who says "503, nobody could look" is wrong. `lost` are requests whose connection broke.
    """

    def __init__(self, url, whom=never_seen, *, lanes=20, a_second=None):
        self._host, _, port = url.removeprefix("http://").rpartition(":")
        self._port = int(port)
        self._whom = whom
        self._lanes = lanes
        self._pause = lanes / a_second if a_second else 0.0
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.codes: Counter = Counter()
        self.wrong = []
        self.lost = 0
        self.slowest = 0.0
        self.last_good = 0.0

    @property
    def answered(self):
        return self.codes.total()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(ANSWER_WITHIN + 5)

    async def _run(self):
        await asyncio.gather(*(self._lane(lane) for lane in range(self._lanes)))

    async def _lane(self, lane):
        await asyncio.sleep(self._pause * lane / self._lanes)
        connection = None
        while not self._stop.is_set():
            peer, truth = self._whom(next(self._numbers))
            started = time.monotonic()
            try:
                async with asyncio.timeout(ANSWER_WITHIN):
                    connection = connection or await asyncio.open_connection(self._host, self._port)
                    code, body = await self._ask(connection, peer)
            except (OSError, asyncio.IncompleteReadError, IndexError):
                self.lost += 1
                connection = self._closed(connection)
                await asyncio.sleep(0.05)
                continue
            spent = time.monotonic() - started
            self.codes[code] += 1
            self.slowest = max(self.slowest, spent)
            if code == 200:
                self.last_good = time.monotonic()
                if json.loads(body)["success"] is not truth:
                    self.wrong.append((peer, body))
            if self._pause > spent:
                await asyncio.sleep(self._pause - spent)
        self._closed(connection)

    async def _ask(self, connection, peer):
        reader, writer = connection
        writer.write(f"GET /api/v1/is_reachable/{peer} HTTP/1.1\r\nhost: {self._host}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        body = await reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))
        return int(head.split(" ", 2)[1]), body

    @staticmethod
    def _closed(connection):
        if connection is not None:
            connection[1].close()
