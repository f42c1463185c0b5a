"""The genuine server and the genuine reachability client are what these tests take them for; no monitor yet."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

import pytest

from shared.p2p.petals import ServerState
from tests.petals_server.environment import ROOT
from tests.petals_server.harness import PetalsServer, ask_as_petals
from tests.petals_server.processes import group_members, wait_for
from tests.petals_server.swarm_view import member, model_info, rpc_info, wait_for_state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.petals_server.conftest import StartServer
    from tests.petals_server.harness import Bootstrap

PREFIX = "tiny-llama-hf"
BLOCKS = range(4)
SOME_PEER = "QmbRQbRb6XWsmyEuYuWqSnPkSpiqYuQAvCLBrTtiYjxzXN"


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Iterator[PetalsServer]:
    with start_server(PREFIX, "s1") as running:
        running.wait_until_started()
        yield running


KILLED_TEST_RUN = """
import os, signal, sys
from pathlib import Path
from tests.petals_server.processes import Group
group = Group("sleeper", ["/bin/sh", "-c", "sleep 60 & sleep 60"], Path(sys.argv[1]), {})
print(group.pgid, flush=True)
group.pause()
os.kill(os.getpid(), signal.SIGKILL)
"""


class Stub:
    """An HTTP server that gives the same answer to every question, and remembers the paths."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        stub = self
        self.paths: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub.paths.append(self.path)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


async def test_a_genuine_server_announces_itself_and_answers(server: PetalsServer, bootstrap: Bootstrap) -> None:
    """All its blocks are ONLINE under its peer id, in the form that facts and fixtures assume."""
    async with member(bootstrap.address) as node:
        infos = await wait_for_state(node, PREFIX, BLOCKS, server.peer_id, ServerState.ONLINE)
        model = await model_info(node, PREFIX)
        answer = await rpc_info(node, server.peer_id)
    assert {(info.start_block, info.end_block, info.public_name, info.version) for info in infos} == {
        (0, 4, "s1", "2.2.0.post1")
    }
    assert (infos[0].throughput, infos[0].torch_dtype, infos[0].quant_type) == (123.5, "float32", "none")
    assert (model.num_blocks, model.repository) == (4, None)
    assert answer["version"] == "2.2.0.post1"


async def test_a_paused_server_is_silent_and_a_resumed_one_answers(server: PetalsServer, bootstrap: Bootstrap) -> None:
    """SIGSTOP to the whole group leaves the record and takes the answers away."""
    async with member(bootstrap.address) as node:
        with server.paused():
            with pytest.raises(TimeoutError):
                await rpc_info(node, server.peer_id, within=2)
            await wait_for_state(node, PREFIX, BLOCKS, server.peer_id, ServerState.ONLINE)
    async with member(bootstrap.address) as node:
        assert (await rpc_info(node, server.peer_id))["version"] == "2.2.0.post1"


async def test_a_stopped_server_announces_offline_and_leaves_no_process(
    start_server: StartServer, bootstrap: Bootstrap
) -> None:
    with start_server(PREFIX, "leaver") as server:
        peer_id = server.wait_until_started()
        server.leave()
        assert server.members() == []
    async with member(bootstrap.address) as node:
        await wait_for_state(node, PREFIX, BLOCKS, peer_id, ServerState.OFFLINE, within=5)


def test_nothing_outlives_a_killed_test_run(tmp_path: Path) -> None:
    """Not even frozen processes, where no `finally` had its turn."""
    run = subprocess.run(
        [sys.executable, "-c", KILLED_TEST_RUN, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    pgid = int(run.stdout)
    wait_for("the group to end", lambda: not group_members(pgid), timeout=5)


def test_the_genuine_client_reads_success(folder: Path) -> None:
    """`ok` alone would not do: petals 2.2.0.post1 reads `success`, and `message` and `your_ip` after the last no."""
    with Stub(200, {"success": True, "message": None, "your_ip": "127.0.0.1"}) as stub:
        assert ask_as_petals(stub.url, SOME_PEER, folder)["outcome"] == "reachable"
        assert stub.paths == [f"/api/v1/is_reachable/{SOME_PEER}"]


def test_the_genuine_client_gives_up_after_its_last_no(folder: Path) -> None:
    with Stub(200, {"success": False, "message": "Connection refused", "your_ip": "192.0.2.7"}) as stub:
        outcome = ask_as_petals(stub.url, SOME_PEER, folder, wait_time=1.0, retry_delay=0.5)
        assert len(stub.paths) == 3
    assert outcome["outcome"] == "unreachable"
    assert "Connection refused" in outcome["message"]
    assert "--public_ip 192.0.2.7" in outcome["message"]


@pytest.mark.parametrize(("status", "body"), [(503, {"title": "no worker"}), (200, {"ok": True})])
def test_the_genuine_client_starts_unchecked_without_an_answer(status: int, body: dict[str, Any], folder: Path) -> None:
    with Stub(status, body) as stub:
        assert ask_as_petals(stub.url, SOME_PEER, folder)["outcome"] == "skipped"
        assert len(stub.paths) == 1


def test_a_server_of_the_public_swarm_asks_the_monitor_before_it_serves(start_server: StartServer) -> None:
    with (
        Stub(200, {"success": True, "message": None, "your_ip": "127.0.0.1"}) as stub,
        start_server(PREFIX, "asker", reachability_api=stub.url) as server,
    ):
        server.wait_until_started()
        assert stub.paths == [f"/api/v1/is_reachable/{server.peer_id}"]
        assert "Server is reachable from the Internet" in server.output()
