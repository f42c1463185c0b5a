"""This module starts a service on the demo swarm where there is one: `python -m deploy.with_swarm crawler`.

The demo swarm's bootstrap peer has an identity that nobody knows beforehand, so it is asked for: at
DEMO_SWARM_URL, which `deploy.demo.swarm` serves once the swarm stands. Where that name is not known (the demo
profile is off), where DEMO_SWARM_URL is not set, or INITIAL_PEERS is, the service starts as it would have.

The process becomes the service: it is the same pid that gets the signals.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import urllib.request
from urllib.parse import urlsplit

NAME_APPEARS_WITHIN = 3.0
"""Seconds. Containers that start together know each other's names within a moment."""
RETRY = 1.0


def main(arguments: list[str]) -> None:
    url = os.environ.get("DEMO_SWARM_URL")
    if url and not os.environ.get("INITIAL_PEERS") and _name_is_known(urlsplit(url).hostname or ""):
        print(f"[with_swarm] waiting for the demo swarm at {url}", file=sys.stderr, flush=True)
        for variable, value in _settings(url).items():
            # What the operator set wins; an empty value counts as unset, as everywhere.
            if not os.environ.get(variable):
                os.environ[variable] = value
    os.execv(sys.executable, [sys.executable, "-m", *arguments])  # noqa: S606 - becoming the service is the purpose


def _name_is_known(host: str) -> bool:
    end = time.monotonic() + NAME_APPEARS_WITHIN
    while True:
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            if time.monotonic() > end:
                return False
            time.sleep(RETRY / 2)
        else:
            return True


def _settings(url: str) -> dict[str, str]:
    """Return what the demo swarm says, `VARIABLE=value` lines; waits until it does."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a name that no proxy knows
    while True:
        try:
            with direct.open(url, timeout=2) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            time.sleep(RETRY)
        else:
            return {name: value for name, mark, value in (line.partition("=") for line in lines) if mark}


if __name__ == "__main__":
    main(sys.argv[1:])
