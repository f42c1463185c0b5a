"""This module says what keeps the monitor from being installed on this machine: `check_machine.py FOLDER`.

Prints a line for each reason, with what to do, and exits with 2; else it is silent. It runs with whatever Python there
is, from 3.6 on, so it uses nothing newer and imports nothing of the project.
"""

import os
import platform
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

PYTHONS = ((3, 11), (3, 12))
NEEDED_MB = 400
"""Room for the environment (165 MB) and for pip's work."""


def reasons(folder: str) -> list:  # type: ignore[type-arg] # Python 3.6 cannot read list[str]
    """Return what is in the way of an environment in `folder`, a line each."""
    found = []
    major, minor = sys.version_info[:2]
    system, machine = platform.system(), platform.machine()
    if (major, minor) not in PYTHONS:
        this = platform.python_version()
        found.append(
            f"Python 3.11 or 3.12 is needed, this is {this}: apt install python3.11 python3.11-venv, or make PYTHON=…"
        )
    if system != "Linux" or machine != "x86_64":
        found.append(
            f"Linux on x86_64 is needed, this is {system} on {machine}: hivemind's libp2p daemon is built for nothing "
            "else. Take an x86_64 machine or container."
        )
    elif platform.libc_ver()[0] != "glibc":
        found.append(
            "A system with glibc is needed (Debian, Ubuntu, Fedora, …): hivemind has no package for musl (Alpine). "
            "Take a Debian container."
        )
    if find_spec("ensurepip") is None or find_spec("venv") is None:
        found.append(f"Python's venv is not installed: apt install python{major}.{minor}-venv")
    place = Path(folder).resolve()
    parent = place.parent
    if not os.access(str(place if place.is_dir() else parent), os.W_OK):
        found.append(f"{parent} cannot be written to by this user: chown it, or make VENV=FOLDER")
        return found
    free = shutil.disk_usage(str(parent)).free // 10**6
    if free < NEEDED_MB:
        found.append(f"{free} MB are free at {parent}, {NEEDED_MB} are needed: make room, or make VENV=FOLDER")
    return found


if __name__ == "__main__":
    told = reasons(sys.argv[1] if len(sys.argv) > 1 else ".venv")
    for reason in told:
        print(reason, file=sys.stderr)
    sys.exit(2 if told else 0)
