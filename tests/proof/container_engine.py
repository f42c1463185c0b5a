"""A container engine for `tests.proof.compose`: the one that runs here, or Debian's, started by hand.

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
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.proof.package_indexes import PackageIndexes
from tests.proof.stand_ins import StandInError, make_stand_in

if TYPE_CHECKING:
    from collections.abc import Mapping

DEBIAN_PACKAGES = ("docker.io", "docker-compose", "iptables", "debootstrap")
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
        try:
            make_stand_in(image, self.docker, self.environment, self._work if self._work.exists() else None)
        except StandInError as error:
            raise EngineUnavailableError(str(error)) from error
        say(f"no registry: made a stand-in for {image} in {time.monotonic() - started:.0f} s")

    def size(self, image: str) -> float:
        """Return an image's size in MB (10⁶ bytes), all its layers together."""
        return int(self.run(self.docker, "image", "inspect", "--format", "{{.Size}}", image)) / 1e6

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


def _compose_command() -> list[str] | None:
    with suppress(FileNotFoundError):
        if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
            return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None
