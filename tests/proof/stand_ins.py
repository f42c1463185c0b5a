"""Stand-ins for base images, made with debootstrap where no image registry can be reached."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

PYTHON_IMAGE, REDIS_IMAGE, NGINX_IMAGE = "python:3.11-slim-bookworm", "redis:7-bookworm", "nginx:1.28-bookworm"
PROMETHEUS_IMAGE, ALERTMANAGER_IMAGE = "prom/prometheus:v3.5.0", "prom/alertmanager:v0.28.1"
"""As in deploy/Dockerfile and docker-compose.yml."""


class StandIn(NamedTuple):
    """The Debian packages in an image, and what makes it look like the official one."""

    packages: tuple[str, ...]
    finish: str = "true"
    entry_point: str = ""


STAND_INS = {
    # The official image has its Python under /usr/local.
    PYTHON_IMAGE: StandIn(
        ("ca-certificates", "python3.11", "python3-pip"),
        "for name in python python3 python3.11; do ln -s /usr/bin/python3.11 /usr/local/bin/$name; done",
    ),
    REDIS_IMAGE: StandIn(
        ("redis-server",),
        "groupmod -g 999 redis && usermod -u 999 redis && mkdir /data && chown redis:redis /data",
    ),
    NGINX_IMAGE: StandIn(("nginx-light",)),
    PROMETHEUS_IMAGE: StandIn(
        ("prometheus", "wget"),
        "mkdir /prometheus && chown 65534:65534 /prometheus && rm -r /etc/prometheus",
        "/usr/bin/prometheus",
    ),
    ALERTMANAGER_IMAGE: StandIn(
        ("prometheus-alertmanager", "wget"),
        "mkdir -p /alertmanager /etc/alertmanager && chown 65534:65534 /alertmanager",
        "/usr/bin/prometheus-alertmanager",
    ),
}
NOT_IN_IMAGES = ("var/cache/apt", "var/lib/apt/lists", "dev", "proc", "sys", "usr/share/doc", "usr/share/man")


class StandInError(Exception):
    """The image cannot be made here. The message says why."""


def make_stand_in(image: str, docker: str, environment: Mapping[str, str], work: Path | None) -> None:
    """Make an image from Debian's packages, under the name of the one that it stands in for.

    `docker` is the client, `environment` tells it which engine, `work` is where the root is made first. Raises
    `StandInError`.
    """
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise StandInError(f"{image} cannot be pulled, and a stand-in needs root and debootstrap")
    stand_in = STAND_INS[image]
    include = f"--include={','.join(stand_in.packages)}"
    with tempfile.TemporaryDirectory(dir=work) as folder:
        root, log = Path(folder, "root"), Path(folder, "log")
        with log.open("wb") as out:
            done = subprocess.run(
                ["debootstrap", "--variant=minbase", include, "bookworm", str(root)],
                stdout=out,
                stderr=out,
                check=False,
            )
        if done.returncode:
            raise StandInError(f"debootstrap failed: {log.read_text(errors='replace')[-500:]}")
        subprocess.run(["chroot", str(root), "sh", "-ec", stand_in.finish], check=True)
        entry_point = ["--change", f'ENTRYPOINT ["{stand_in.entry_point}"]'] if stand_in.entry_point else []
        importing = subprocess.Popen(
            [docker, "import", *entry_point, "-", image],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        assert importing.stdin is not None
        with importing.stdin as pipe, tarfile.open(fileobj=pipe, mode="w|") as archive:
            archive.add(root, arcname=".", filter=_belongs)
        if importing.wait():
            raise StandInError(f"docker import of the stand-in for {image} failed")


def _belongs(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    path = member.name.removeprefix("./")
    return None if any(path == top or path.startswith(f"{top}/") for top in NOT_IN_IMAGES) else member
