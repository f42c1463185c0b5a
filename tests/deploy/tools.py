"""Programs that the static checks need, and how they are run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

OUT_OF_THE_WAY = "/usr/sbin:/sbin"
"""Where Debian puts nginx; not on everybody's PATH."""


def tool(name: str) -> str:
    """Path of a tool in this environment or on the machine.

    Where there is none the test is skipped, and fails in CI: nothing there is left out without a word.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name) or shutil.which(name, path=OUT_OF_THE_WAY)
    if found is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing(f"{name} is not installed")
    return found


def run(*command: str, **environment: str) -> str:
    """What a command printed; a failure shows it."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr
