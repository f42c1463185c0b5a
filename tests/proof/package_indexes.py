"""pip's configuration as an image build can use it: for machines whose packages come from a mirror or a folder."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit


class PackageIndexes:
    """pip's configuration as a build can use it: what lies in folders of this machine is served over loopback."""

    def __init__(self) -> None:
        self._servers: list[ThreadingHTTPServer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def pip_configuration(self) -> str:
        """Return a pip.conf for inside the build."""
        told = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        )
        settings: dict[str, list[str]] = {}
        for line in told.stdout.splitlines():
            name, _, value = line.partition("=")
            option = name.rpartition(".")[2]
            if option in ("index-url", "extra-index-url", "find-links", "trusted-host"):
                settings.setdefault(option, []).extend(value.strip("'\"").replace("\\n", " ").split())
        lines = ["[global]", "cert = /run/secrets/ca"]
        for option, values in settings.items():
            served = dict.fromkeys(self._reachable(value, option) for value in values)
            lines += [f"{option} =", *(f"    {value}" for value in served)]
        return "\n".join(lines) + "\n"

    def _reachable(self, place: str, option: str) -> str:
        parts = urlsplit(place)
        if option == "trusted-host" or parts.scheme not in ("", "file"):
            return place
        folder = Path(parts.path)
        # An index links to files beside itself; a folder of files is listed as it is.
        top = folder if option == "find-links" else folder.parent
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(top)))
        self._servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = "" if option == "find-links" else f"{folder.name}/"
        return f"http://127.0.0.1:{server.server_port}/{path}"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """One line a file of a package index is too much."""
