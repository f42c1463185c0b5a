"""`python -m reachability_worker --check`: the stages, the verdict, the next step, and nothing else."""

import json
import os
import subprocess
import sys

import pytest

from deploy.demo.simulated_server import Announcement, Model
from tests.fakes import peer_id

pytestmark = pytest.mark.swarm


def run(swarm, *arguments):
    environment = {**os.environ, "INITIAL_PEERS": ",".join(swarm.initial_peers)}
    environment.pop("LOG_LEVEL", None)
    return subprocess.run(
        [sys.executable, "-m", "reachability_worker", "--check", *arguments],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_a_check_prints_its_stages_and_verdict_and_logs_nothing(swarm):
    """Of a peer that is named by a line of a log; as JSON; of one that nobody knows; and what names none."""
    swarm.start(Announcement(Model("demo", 8), 0, 8))
    bootstrap_id = swarm.initial_peers[0].rpartition("/")[2]
    reached = run(swarm, f"Nov 26 [INFO] joined {swarm.initial_peers[0]}")
    assert (reached.returncode, reached.stderr) == (0, "")
    first, *lines = reached.stdout.splitlines()
    assert first == f"{bootstrap_id}: reachable"
    assert {"lookup:", "dial:", "protocol:"} <= {line.split()[0] for line in lines if line.startswith("  ")}
    assert "Verdict: it can be reached" in reached.stdout

    unknown = run(swarm, peer_id(7), "--json")
    assert (unknown.returncode, unknown.stderr) == (1, "")
    document = json.loads(unknown.stdout)
    assert document["outcome"]["cause"] == "no_address"
    assert document["verdict"] == "It is not known here."
    assert "start the server" in document["next_step"]

    alone = swarm.start(joins=False)
    address = swarm.call(alone.addresses())[0]
    given = run(swarm, address)
    assert (given.returncode, given.stderr) == (1, "")
    assert "answers: the peer proved its id there." in given.stdout
    assert "the swarm knows no address of the peer" in given.stdout
    assert "Verdict: it is not known to the swarm yet." in given.stdout

    nothing = run(swarm, "beluga")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "names no peer" in nothing.stderr
