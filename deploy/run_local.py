"""The whole monitor on one machine: `make run`, or `make demo` on a private swarm of simulated servers.

Starts Redis (REDIS_URL if set, else an embedded server), the api, the crawler and the workers, restarts processes that
die, and ends all of them on Ctrl-C.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from api.settings import ApiSettings
from deploy.healthcheck import reached_at
from deploy.launcher import Plan
from shared import exit_codes
from shared.settings import load

ROOT = Path(__file__).resolve().parent.parent
ROOM_FOR_DATA = 16 * 1024**2
"""Bytes that must be free: a thousand servers' history takes 1.3 MB, and Redis writes its file anew beside the old."""


def main() -> int:
    plan = read_plan()
    if (fault := _fault(plan)) is None:
        _become_launcher(plan)
    print(fault, file=sys.stderr)
    return exit_codes.BAD_SETTINGS


def _become_launcher(plan: Plan) -> NoReturn:
    """Go on as a program that holds nothing of what read the settings, which would double it."""
    command = [sys.executable, "-m", "deploy.launcher", json.dumps(plan._asdict())]
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def read_plan() -> Plan:
    """Read the command line, and the api's settings as the api does."""
    arguments = _parser().parse_args()
    settings = load(ApiSettings)
    return Plan(
        demo=arguments.demo,
        workers=arguments.workers,
        data=str(arguments.data),
        redis_url_is_set="redis_url" in settings.model_fields_set,
        api_host=reached_at(settings.api_host),
        api_port=settings.api_port,
    )


def _fault(plan: Plan) -> str | None:
    """Say why nothing of a plan can be started, None where it can."""
    if not plan.api_port:
        return "API_PORT=0 means any port, at which nobody would find the page: set API_PORT to one."
    if (reason := _cannot_listen(plan.api_host, plan.api_port)) is not None:
        return f"Port {plan.api_port} cannot be used ({reason}): set API_PORT to another one."
    embedded = not plan.demo and not plan.redis_url_is_set
    if embedded and (reason := _cannot_keep(Path(plan.data))) is not None:
        return f'{plan.data} cannot keep data: {reason}. Give another folder: make run ARGS="--data FOLDER".'
    return None


def _cannot_keep(folder: Path) -> str | None:
    """Say why a folder can take no data, None where it can; it is this process's alone from then on."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(ROOM_FOR_DATA))
            file.flush()
        # Held by the launcher, which this process becomes: two Redis would write into one file, and ruin it.
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        os.set_inheritable(lock, True)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "another monitor keeps its data there"
    except OSError as error:
        return error.strerror or str(error)
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.run_local", description=__doc__)
    parser.add_argument("--demo", action="store_true", help="start a private swarm on 127.0.0.1 and monitor it")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="reachability workers (default 1)")
    parser.add_argument(
        "--data", type=Path, default=ROOT / ".data", help="folder of the embedded Redis (default .data)"
    )
    return parser


def _cannot_listen(host: str, port: int) -> str | None:
    """Say why nothing can listen there, None where it can: another program does, or the port is root's."""
    host = host.strip("[]")
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    return None


if __name__ == "__main__":
    sys.exit(main())
