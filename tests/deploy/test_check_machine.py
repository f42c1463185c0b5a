"""A machine on which the monitor cannot run is told in one line each, before anything is installed."""

import fcntl
import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy import check_machine
from deploy.embedded_redis import free_port

pytestmark = pytest.mark.real_parts

ROOT = Path(__file__).resolve().parents[2]


def test_a_good_machine_is_not_spoken_of(tmp_path):
    """This one, for the tests run on it."""
    assert check_machine.reasons(str(tmp_path / ".venv")) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((sys, "version_info", (3, 10, 0)), "Python 3.11 or 3.12 is needed"),
        ((sys, "version_info", (3, 13, 0)), "Python 3.11 or 3.12 is needed"),
        ((platform, "machine", lambda: "aarch64"), "Linux on x86_64 is needed, this is Linux on aarch64"),
        ((platform, "system", lambda: "Darwin"), "Linux on x86_64 is needed, this is Darwin"),
        ((platform, "libc_ver", lambda: ("", "")), "no package for musl"),
        ((check_machine, "find_spec", lambda name: None), "-venv"),
        ((os, "access", lambda path, mode: False), "cannot be written to"),
        ((shutil, "disk_usage", lambda path: SimpleNamespace(free=50 * 10**6)), "50 MB are free"),
    ],
)
def test_each_reason_is_one_line_that_says_what_to_do(monkeypatch, tmp_path, change, words):
    """And there is no other."""
    monkeypatch.setattr(*change)
    (reason,) = check_machine.reasons(str(tmp_path / ".venv"))
    assert words in reason
    assert "\n" not in reason


def test_install_stops_before_it_makes_anything(tmp_path):
    """With a Python that is not there, and with one that is too old (a script in its place)."""
    for file in ("Makefile", "deploy/check_machine.py", "deploy/requirements/run.txt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    old = tmp_path / "old-python"
    old.write_text(
        f"#!{sys.executable}\nimport runpy, sys\nsys.argv = sys.argv[1:]\nsys.version_info = (3, 9, 0)\n"
        "if sys.argv[0] != '-c':\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    old.chmod(0o755)
    for python, words in (("python-of-nowhere", "is not installed"), (str(old), "Python 3.11 or 3.12 is needed")):
        done = subprocess.run(
            ["make", "install", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode != 0
        assert words in done.stderr
        assert not (tmp_path / ".venv").exists()


def test_a_failed_install_leaves_nothing_half_done(tmp_path):
    """Where a package cannot be had, the environment is taken away again."""
    for file in ("Makefile", "deploy/check_machine.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "deploy/requirements").mkdir()
    (tmp_path / "deploy/requirements/run.txt").write_text("no-such-package==1 --hash=sha256:00\n")
    done = subprocess.run(
        ["make", "install", f"PYTHON={sys.executable}"],
        cwd=tmp_path, env={**os.environ, "PIP_NO_INDEX": "1"}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode != 0
    assert not (tmp_path / ".venv").exists()


def run_local(*options, **environment):
    command = [sys.executable, "-m", "deploy.run_local", *options]
    kept = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    environment = {**kept, "API_PORT": str(free_port()), **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def test_a_folder_that_takes_no_data_is_told_before_anything_starts(tmp_path):
    """A file in its place; another monitor's folder, whose Redis writes there; a full disk."""
    (tmp_path / "taken").write_text("")
    done = run_local("--data", str(tmp_path / "taken"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cannot keep data: File exists" in line
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        used = run_local("--data", str(tmp_path))
    assert (used.returncode, "another monitor keeps its data there" in used.stderr) == (2, True)
    if Path("/dev/full").exists():
        script = (
            "import tempfile, deploy.run_local as launcher\n"
            "tempfile.TemporaryFile = lambda dir: open('/dev/full', 'wb')\n"
            "launcher.main()"
        )
        command = [sys.executable, "-c", script, "--data", str(tmp_path / "data")]
        environment = {**os.environ, "API_PORT": str(free_port())}
        full = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert "cannot keep data: No space left on device" in full.stderr


def test_a_port_at_which_nobody_would_find_the_page_is_refused():
    """Any port (0), for which the launcher would wait in vain, and one at which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port in (0, taken.getsockname()[1]):
            done = run_local("--demo", API_PORT=str(port))
            assert (done.returncode, "set API_PORT to" in done.stderr) == (2, True)
