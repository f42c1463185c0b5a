"""The program inside the box: looks at every situation once.

It prints a JSON object a line: `{"phase": …}` as it goes on, `{"row": …}` for each situation. It ends when its
standard input does, however its parent came to an end; and everything that it started ends with it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from tests.internet import box
from tests.internet.lab import NAME_SERVER, Lab
from tests.internet.network import backbone
from tests.internet.servers import When


def say(**what: Any) -> None:
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


def say_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        say(row=row)


async def run(logs: Path) -> None:
    begun = time.monotonic()
    lag = 0.0

    async def measure_lag() -> None:
        """Note by how many seconds this loop is late at most: all simulated peers answer through it."""
        nonlocal lag
        while True:
            asked = time.monotonic()
            await asyncio.sleep(0.1)
            lag = max(lag, time.monotonic() - asked - 0.1)

    def phase(name: str) -> None:
        nonlocal lag
        say(phase=name, after=round(time.monotonic() - begun, 1), lag=round(lag, 2))
        lag = 0.0

    measuring = asyncio.create_task(measure_lag())
    lab = Lab(logs)
    phase("the network stands")
    started = await lab.start()
    phase("all servers run")
    await lab.announce()
    phase("all servers have announced themselves")
    await lab.happen(When.AT_ONCE)
    await lab.start_monitors("public")
    phase("a monitor is ready")
    say_rows(await lab.look(When.AT_ONCE))
    phase("waiting for relays")
    await lab.start_monitors("home", "late")
    await lab.reserved(started)
    phase("servers have places on their relays")
    for when in (When.RESERVED, When.HALF_SILENT):
        await lab.happen(when)
        say_rows(await lab.look(when))
        phase(f"looked: {when}")
    await lab.stop()
    measuring.cancel()
    end(0)


async def wait(logs: Path) -> None:
    """Have something of everything: a router, a wire, a daemon; and wait to be ended."""
    lab = Lab(logs)
    await lab.peer(lab.internet.host("far", one_way=0.1)).start()
    say(phase="waiting")
    await asyncio.Event().wait()


def end(code: int) -> None:
    """End this process at once, whatever hivemind's tasks still wait for: with it the kernel ends all others here."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_with_standard_input() -> None:
    """End this process at the end of its standard input."""

    def read() -> None:
        sys.stdin.buffer.read()
        end(1)

    threading.Thread(target=read, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", type=Path, help="a folder for the monitors' logs")
    parser.add_argument("--wait", action="store_true", help="start a peer on a host far away, and wait for the end")
    arguments = parser.parse_args()
    end_with_standard_input()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    box.furnish(NAME_SERVER)
    backbone(NAME_SERVER)
    try:
        asyncio.run(wait(arguments.logs) if arguments.wait else run(arguments.logs))
    except BaseException:  # noqa: BLE001 - said, and the end all the same
        traceback.print_exc()
        end(1)


if __name__ == "__main__":
    main()
