"""The monitor sees a genuine Petals server right, and the genuine server understands the monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.petals_server.harness import ask_as_petals, call_python_api
from tests.petals_server.monitor import CRAWL_PERIOD, NOT_SHOWN, Monitor, running_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.petals_server.conftest import StartServer
    from tests.petals_server.harness import Bootstrap, PetalsServer

TINY = "tiny-llama-hf"
TWELVE = "twelve-llama-hf"
EXPIRATION = 20.0
"""Seconds for which the DHT keeps the records of a server that left."""


@pytest.fixture(scope="module")
def monitor(folder: Path, bootstrap: Bootstrap) -> Iterator[Monitor]:
    """A monitor that already watches the still empty swarm."""
    with running_monitor(folder, [bootstrap.address]) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def server(monitor: Monitor, start_server: StartServer) -> Iterator[PetalsServer]:
    """A server of four blocks that asked the monitor about itself before it began to serve."""
    with start_server(TINY, "four-blocks", reachability_api=monitor.url) as running:
        running.wait_until_started()
        yield running


@pytest.fixture(autouse=True)
def logs_of_a_failure(monitor: Monitor, server: PetalsServer) -> Iterator[None]:
    """Print what the processes logged last; pytest shows it for failed tests only."""
    yield
    print(monitor.tails(), server.tail(), sep="\n")  # noqa: T201


def test_a_starting_server_is_told_that_it_is_reachable(server: PetalsServer) -> None:
    """It asks while it still joins and does not answer `rpc_info` yet: that is no reason for a no."""
    assert "Server is reachable from the Internet" in server.output()
    assert "Detected a NAT" not in server.output()
    assert "Skipping reachability check" not in server.output()


def test_the_server_is_shown_as_it_is(monitor: Monitor, server: PetalsServer, bootstrap: Bootstrap) -> None:
    row = monitor.wait_for_server_state(TINY, server.peer_id, "online")
    span, info = row["span"], row["span"]["server_info"]
    assert (span["start"], span["end"]) == (0, 4)
    assert (info["state"], info["version"], info["throughput"]) == ("online", "2.2.0.post1", 123.5)
    assert (info["torch_dtype"], info["quant_type"], info["using_relay"]) == ("float32", "none", False)
    assert info["public_name"] == "four-blocks"
    assert row["show_public_name"] is False  # fewer than 10 blocks
    assert row["cache_tokens_left_per_block"] == info["cache_tokens_left"] // (2 * 4)
    assert row["short_peer_id"] == f"...{server.peer_id[-6:]}"

    report = monitor.model(TINY)
    assert report is not None
    assert (report["state"], report["num_blocks"]) == ("healthy", 4)
    assert (report["repository"], report["short_name"]) == (None, TINY)

    state = monitor.state()
    assert state is not None
    assert state["bootstrap_states"] == ["online"]
    assert state["reachability_issues"] == []
    assert 'server_version{version_number="2.2.0.post1"} 1.0' in monitor.get("/metrics").text


def test_the_whole_monitor_proves_that_it_computes(monitor: Monitor, server: PetalsServer) -> None:
    """Crawler, Redis and api: in the JSON, the metrics, the history and on the page."""
    report = monitor.wait_for_tokens(TINY)
    (hop,) = report["usability"]["path"]
    assert (hop["peer_id"], hop["start"], hop["end"], hop["relayed"]) == (server.peer_id, 0, 4, False)
    (row,) = report["server_rows"]
    assert (row["inference"]["outcome"], row["inference"]["agreement"]["outcome"]) == ("computed", "alone")
    assert 'petals_model_usable{model="tiny-llama-hf"} 1.0' in monitor.get("/metrics").text
    (hour, *_) = monitor.get(f"/api/v1/history/servers/{server.peer_id}").json()["inference"]
    assert hour["outcome"] == "computed"
    assert hour["seconds_per_token"] > 0
    assert "Usable now" in monitor.get(f"/models/{TINY}").text


def test_the_genuine_client_gets_its_yes(monitor: Monitor, server: PetalsServer, folder: Path) -> None:
    answer = monitor.wait_for_answer(server.peer_id, success=True)
    assert (answer["ok"], answer["message"], answer["your_ip"]) == (True, None, "127.0.0.1")
    assert ask_as_petals(monitor.url, server.peer_id, folder)["outcome"] == "reachable"


def test_a_frozen_server_is_unreachable_until_it_goes_on(monitor: Monitor, server: PetalsServer, folder: Path) -> None:
    """Its record still says ONLINE and the kernel still accepts connections; only a dial can tell."""
    monitor.wait_for_server_state(TINY, server.peer_id, "online")
    with server.paused():
        row = monitor.wait_for_server_state(TINY, server.peer_id, "unreachable", within=45.0)
        assert row["span"]["server_info"]["state"] == "online"
        report, state = monitor.model(TINY), monitor.state()
        assert report is not None
        assert report["state"] == "broken"
        assert state is not None
        assert server.peer_id in {issue["peer_id"] for issue in state["reachability_issues"]}

        answer = monitor.wait_for_answer(server.peer_id, success=False)
        assert answer["ok"] is False
        assert answer["message"]
        refusal = ask_as_petals(monitor.url, server.peer_id, folder)
        assert refusal["outcome"] == "unreachable"
        assert answer["message"] in refusal["message"]
        assert "--public_ip 127.0.0.1" in refusal["message"]
    monitor.wait_for_server_state(TINY, server.peer_id, "online")
    monitor.wait_for_answer(server.peer_id, success=True)


def test_a_server_that_leaves_is_offline_and_then_gone(monitor: Monitor, start_server: StartServer) -> None:
    """One of twelve blocks, whose public name is shown while it is online."""
    with start_server(TWELVE, "twelve-blocks", expiration=EXPIRATION) as server:
        peer_id = server.wait_until_started()
        row = monitor.wait_for_server_state(TWELVE, peer_id, "online")
        assert (row["span"]["start"], row["span"]["end"]) == (0, 12)
        assert row["show_public_name"] is True
        assert row["span"]["server_info"]["public_name"] == "twelve-blocks"
        server.leave()
    monitor.wait_for_server_state(TWELVE, peer_id, "offline", NOT_SHOWN, within=3 * CRAWL_PERIOD + 10)
    monitor.wait_for_server_state(TWELVE, peer_id, NOT_SHOWN, within=EXPIRATION + 3 * CRAWL_PERIOD + 10)


@pytest.mark.parametrize("first", ["hivemind", "monitor"])
def test_the_python_api_works_beside_the_whole_hivemind(
    server: PetalsServer, bootstrap: Bootstrap, folder: Path, first: str
) -> None:
    """A script with torch and a hivemind.DHT gets the state, in either order of imports, and keeps its hivemind."""
    told = call_python_api(first, bootstrap.address, folder)
    models = {model["dht_prefix"]: model for model in told["state"]["model_reports"]}
    assert server.peer_id in [row["peer_id"] for row in models[TINY]["server_rows"]]
    assert told["one_peer_id"]
    assert told["whole"]
