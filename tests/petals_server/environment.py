"""Builds the environment of the genuine Petals server, once: `python -m tests.petals_server.environment`.

Its packages cannot be met beside the monitor's (transformers 4.34, tokenizers 0.14), so they have an environment of
their own beside `.venv`. This module needs the standard library alone: CI runs it while the monitor's environment is
still being installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = ROOT / ".venv-petals"
PYTHON = ENVIRONMENT / "bin" / "python"
REQUIREMENTS = tuple(ROOT / "deploy" / "requirements" / name for name in ("torch.txt", "petals-server.txt"))
STAMP = ENVIRONMENT / ".installed"
"""Holds the fingerprint of the lists that were installed; written last."""


def fingerprint() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in REQUIREMENTS)).hexdigest()


def is_installed() -> bool:
    return STAMP.is_file() and STAMP.read_text() == fingerprint()


def build() -> None:
    """Install what is missing; return at once where all is there. Whoever comes second waits for the first.

    torch goes first: TORCH_PIP_ARGS may choose its build, and any build will do. The rest is the whole closure,
    pinned, and goes in without a resolver: petals' own pins cannot be met beside hivemind 1.1.12. Raise
    `CalledProcessError` where a step fails; the next call goes on from there.
    """
    ENVIRONMENT.mkdir(exist_ok=True)
    with (ENVIRONMENT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_installed():
            return
        torch, packages = REQUIREMENTS
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        subprocess.run([*pip, *shlex.split(os.environ.get("TORCH_PIP_ARGS", "")), "-r", str(torch)], check=True)
        subprocess.run([*pip, "--no-deps", "-r", str(packages)], check=True)
        STAMP.write_text(fingerprint())


if __name__ == "__main__":
    build()
