"""A container engine for `deploy.prove_compose`: the one that runs here, or Debian's, started by hand.

Where no image registry can be reached, stand-ins for the base images are made with debootstrap, under the names
that the Dockerfile and the compose file use. pip's configuration and the CA bundle of this machine go into builds
as secrets, never into an image; package indexes that are folders here are served to the build over loopback.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

DEBIAN_PACKAGES = ("docker.io", "docker-compose", "iptables", "debootstrap")
PYTHON_IMAGE, REDIS_IMAGE, NGINX_IMAGE = "python:3.11-slim-bookworm", "redis:7-bookworm", "nginx:1.28-bookworm"
"""As in deploy/Dockerfile and docker-compose.yml."""
STAND_INS: dict[str, tuple[tuple[str, ...], str]] = {
    PYTHON_IMAGE: (
        ("ca-certificates", "python3.11", "python3-pip"),
        # The official image has its Python under /usr/local.
        "for name in python python3 python3.11; do ln -s /usr/bin/python3.11 /usr/local/bin/$name; done",
    ),
    REDIS_IMAGE: (
        ("redis-server",),
        "groupmod -g 999 redis && usermod -u 999 redis && mkdir /data && chown redis:redis /data",
    ),
    NGINX_IMAGE: (("nginx-light",), "true"),
}
"""Image: the Debian packages in it, and what makes it look like the official one."""
NOT_IN_IMAGES = ("var/cache/apt", "var/lib/apt/lists", "dev", "proc", "sys", "usr/share/doc", "usr/share/man")
ENGINE_STARTS_WITHIN = 30.0


class EngineUnavailableError(Exception):
    """No engine can run here. The message says why; nothing was proved."""


def say(text: str) -> None:
    print(f"[engine] {text}", file=sys.stderr, flush=True)


class Engine:
    """Commands on one engine. `environment` makes `docker` and compose talk to it."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._daemon: subprocess.Popen[bytes] | None = None
        self.environment = dict(os.environ)
        self.docker, self.compose = "docker", ["docker", "compose"]

    def __enter__(self) -> Self:
        if self._answers():
            say("using the engine that runs here")
        else:
            self._install()
            self._start()
        self._choose_commands()
        return self

    def __exit__(self, *_: object) -> None:
        """End the engine if it was started here. Its images stay in the work folder, for the next run."""
        if self._daemon is not None:
            self._daemon.terminate()
            try:
                self._daemon.wait(30)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()

    def run(self, *command: str, check: bool = True, extra: Mapping[str, str] | None = None) -> str:
        """Run a command on the engine; return what it printed. Raises `CalledProcessError` with its words."""
        done = subprocess.run(
            command, env={**self.environment, **(extra or {})}, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            say(f"{shlex.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
            done.check_returncode()
        return done.stdout

    def provide(self, image: str) -> None:
        """Have a base image: what is there, what can be pulled, else a stand-in from Debian's packages."""
        if self.run(self.docker, "images", "-q", image).strip():
            return
        try:
            pulled = subprocess.run(
                [self.docker, "pull", "--quiet", image],
                env=self.environment, capture_output=True, timeout=120, check=False,
            ).returncode == 0  # fmt: skip
        except subprocess.TimeoutExpired:
            pulled = False
        if pulled:
            say(f"pulled {image}")
            return
        started = time.monotonic()
        self._make_stand_in(image)
        say(f"no registry: made a stand-in for {image} in {time.monotonic() - started:.0f} s")

    def build(self, target: str, tag: str, root: Path) -> float:
        """Build a target of deploy/Dockerfile; return the seconds that it took."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, PackageIndexes() as indexes:
            configuration = Path(folder, "pip.conf")
            bundle = os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt"
            configuration.write_text(indexes.pip_configuration())
            self.run(
                self.docker, "build", "--network", "host", "--target", target, "--tag", tag,
                "--file", str(root / "deploy/Dockerfile"),
                "--secret", f"id=pip_conf,src={configuration}", "--secret", f"id=ca,src={bundle}",
                "--build-arg", f"TORCH_INDEX={os.environ.get('TORCH_INDEX', '')}",
                str(root),
                extra={"DOCKER_BUILDKIT": "1"},
            )  # fmt: skip
        return time.monotonic() - started

    def _answers(self) -> bool:
        try:
            asked = [self.docker, "version", "--format", "{{.Server.Version}}"]
            return subprocess.run(asked, env=self.environment, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            return False

    def _install(self) -> None:
        missing = [name for name in ("dockerd", "iptables", "debootstrap") if shutil.which(name) is None]
        if not missing and _compose_command():
            return
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise EngineUnavailableError("no engine answers, and installing one needs root and apt-get")
        say(f"installing {' '.join(DEBIAN_PACKAGES)}")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *DEBIAN_PACKAGES]):
            done = subprocess.run(["apt-get", "-qq", *command], env=quiet, capture_output=True, text=True, check=False)
            if done.returncode:
                raise EngineUnavailableError(f"apt-get {command[0]} failed: {done.stderr.strip()[-500:]}")

    def _start(self) -> None:
        if os.geteuid() != 0:
            raise EngineUnavailableError("no engine answers, and starting one needs root")
        try:
            self._work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EngineUnavailableError(f"{self._work} cannot be made: {error.strerror}") from error
        sock = self._work / "docker.sock"
        with (self._work / "dockerd.log").open("wb") as log:
            self._daemon = subprocess.Popen(
                [
                    "dockerd", "--host", f"unix://{sock}", "--data-root", str(self._work / "data"),
                    "--exec-root", str(self._work / "exec"), "--pidfile", str(self._work / "docker.pid"),
                ],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.environment["DOCKER_HOST"] = f"unix://{sock}"
        end = time.monotonic() + ENGINE_STARTS_WITHIN
        while not self._answers():
            if self._daemon.poll() is not None or time.monotonic() > end:
                words = (self._work / "dockerd.log").read_text(errors="replace").strip().splitlines()
                raise EngineUnavailableError("dockerd does not start: " + (words[-1] if words else "no word"))
            time.sleep(0.3)
        say("started dockerd " + self.run(self.docker, "version", "--format", "{{.Server.Version}}").strip())

    def _choose_commands(self) -> None:
        # Of several clients, one that builds with secrets: newer ones need a plugin for that.
        for docker in ("docker", "/usr/bin/docker"):
            told = subprocess.run(
                [docker, "build", "--help"], env={**self.environment, "DOCKER_BUILDKIT": "1"},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if "--secret" in told.stdout:
                self.docker = docker
                break
        else:
            raise EngineUnavailableError("no docker client here builds with secrets (BuildKit)")
        compose = _compose_command()
        if compose is None:
            raise EngineUnavailableError("there is no compose: neither `docker compose` nor docker-compose")
        self.compose = compose

    def _make_stand_in(self, image: str) -> None:
        if os.geteuid() != 0 or shutil.which("debootstrap") is None:
            raise EngineUnavailableError(f"{image} cannot be pulled, and a stand-in needs root and debootstrap")
        packages, finish = STAND_INS[image]
        with tempfile.TemporaryDirectory(dir=self._work if self._work.exists() else None) as folder:
            root = Path(folder, "root")
            log = Path(folder, "log")
            with log.open("wb") as out:
                done = subprocess.run(
                    ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", "bookworm", str(root)],
                    stdout=out, stderr=out, check=False,
                )  # fmt: skip
            if done.returncode:
                raise EngineUnavailableError(f"debootstrap failed: {log.read_text(errors='replace')[-500:]}")
            subprocess.run(["chroot", str(root), "sh", "-ec", finish], check=True)
            importing = subprocess.Popen(
                [self.docker, "import", "-", image],
                env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            assert importing.stdin is not None  # noqa: S101 - it is a pipe
            with importing.stdin as pipe, tarfile.open(fileobj=pipe, mode="w|") as archive:
                archive.add(root, arcname=".", filter=_belongs)
            if importing.wait():
                raise EngineUnavailableError(f"docker import of the stand-in for {image} failed")


def _belongs(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    path = member.name.removeprefix("./")
    return None if any(path == top or path.startswith(f"{top}/") for top in NOT_IN_IMAGES) else member


def _compose_command() -> list[str] | None:
    with suppress(FileNotFoundError):
        if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
            return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


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
