"""What deploy/restore_redis.sh does before it touches the data, by the container's own script and a real Redis.

The whole of it runs on a container engine: `make prove-compose`.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
import redis as sync_redis

from deploy.embedded_redis import free_port
from tests.deploy.tools import tool

pytestmark = pytest.mark.real_parts

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def server(folder, *options):
    """A Redis on a folder: (process, client)."""
    port = free_port()
    command = [tool("redis-server"), "--port", str(port), "--dir", str(folder), "--save", "", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = sync_redis.Redis(port=port)
    deadline = time.monotonic() + 30
    while True:
        try:
            client.ping()
        except sync_redis.ConnectionError:
            assert time.monotonic() < deadline, "Redis did not start"
            time.sleep(0.02)
        else:
            return process, client


@pytest.fixture
def dump(tmp_path):
    """A dump that holds one key."""
    (tmp_path / "source").mkdir()
    process, client = server(tmp_path / "source")
    client.set("kept", "yes")
    client.save()
    client.close()
    process.kill()
    process.wait()
    return (tmp_path / "source/dump.rdb").read_bytes()


@pytest.fixture
def data(tmp_path):
    """The folder of a Redis that is running, with what the restore would replace."""
    folder = tmp_path / "data"
    (folder / "appendonlydir").mkdir(parents=True)
    (folder / "appendonlydir/data").write_text("precious")
    return folder


def try_restore(data, dump):
    """What runs in the container."""
    tool("redis-cli")
    (data / "restore.rdb").write_bytes(dump)
    script = (DEPLOY / "restore_trial.sh").read_text()
    return subprocess.run(["sh", "-c", script, "trial", str(data)], capture_output=True, text=True, timeout=60)


def test_a_dump_is_loaded_beside_the_data(data, dump):
    """What comes out starts a Redis that has it, from its append-only file; until then the data is as it was."""
    run = try_restore(data, dump)
    assert run.returncode == 0, run.stderr
    assert "restored 1 keys" in run.stdout
    assert (data / "appendonlydir/data").read_text() == "precious"
    assert sorted(path.name for path in (data / "restore").iterdir()) == ["appendonlydir", "dump.rdb"]
    process, client = server(data / "restore", "--appendonly", "yes")
    assert client.get("kept") == b"yes"
    client.close()
    process.kill()
    process.wait()


@pytest.mark.parametrize("kind", ["no dump", "half", "broken"])
def test_what_is_no_dump_changes_nothing(data, dump, kind):
    """It ends, with an error; before it did away with the data, and waited for ever."""
    bad = {"no dump": b"#!/bin/sh\n" * 20, "half": dump[: len(dump) // 2], "broken": dump[:-12] + bytes(12)}[kind]
    run = try_restore(data, bad)
    assert run.returncode == 1
    assert "nothing was changed" in run.stderr
    assert (data / "appendonlydir/data").read_text() == "precious"
    assert not (data / "restore").exists()


@pytest.mark.parametrize("arguments", [[], ["/no/such/file"]])
def test_without_a_file_nothing_is_begun(arguments):
    """No engine is asked."""
    run = subprocess.run(
        ["bash", str(DEPLOY / "restore_redis.sh"), *arguments],
        env={"PATH": "/usr/bin:/bin", "DOCKER": "false", "COMPOSE": "false"}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 2
    assert "usage" in run.stderr
