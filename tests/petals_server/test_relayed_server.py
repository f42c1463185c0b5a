"""A genuine server that only a relay makes reachable: the monitor sees it as a genuine client does, and it starts.

It asks the monitor about itself from its first second, as servers of the public swarm do, and stops itself after seven
minutes of no. libp2p takes a relay about three minutes after the start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.petals_server.swarm_view import member, rpc_info

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.petals_server.conftest import Relayed

TINY = "tiny-llama-hf"
STARTED_WITHIN = 240.0
"""Seconds: 180 until libp2p asks for a reservation, and 15 between the server's questions."""


@pytest.fixture(autouse=True)
def logs_of_a_failure(relayed: Relayed) -> Iterator[None]:
    """Print what the processes logged last; pytest shows it for failed tests only."""
    yield
    print(relayed.monitor.tails(), relayed.server.tail(), relayed.relay.tail(), sep="\n")  # noqa: T201


def test_a_server_behind_a_nat_starts_on_the_monitors_own_answer(relayed: Relayed) -> None:
    """First it hears a no, for nobody can reach it yet; with the relay, a yes. It was never let through unchecked."""
    relayed.server.wait_until_started(STARTED_WITHIN)
    said = relayed.server.output()
    assert "Detected a NAT or a firewall, connecting to libp2p relays" in said
    assert "Server is reachable from the Internet" in said
    assert "Skipping reachability check" not in said


async def test_the_monitor_says_what_a_genuine_client_lives_through(relayed: Relayed) -> None:
    """Who knows its id alone gets an answer from it; the monitor says that it is reachable, and by which relay."""
    relayed.server.wait_until_started(STARTED_WITHIN)
    async with member(relayed.relay.address) as node:
        assert (await rpc_info(node, relayed.server.peer_id))["version"] == "2.2.0.post1"
    answer = relayed.monitor.wait_for_answer(relayed.server.peer_id, success=True)
    assert answer["relayed"] is True
    relay_id = relayed.relay.address.rpartition("/")[2]
    assert any(f"/p2p/{relay_id}/p2p-circuit" in address for address in answer["addresses"])


def test_the_page_shows_it_online_and_its_model_healthy(relayed: Relayed) -> None:
    relayed.server.wait_until_started(STARTED_WITHIN)
    row = relayed.monitor.wait_for_server_state(TINY, relayed.server.peer_id, "online")
    assert row["span"]["server_info"]["using_relay"] is True
    report, state = relayed.monitor.model(TINY), relayed.monitor.state()
    assert report is not None
    assert report["state"] == "healthy"
    assert state is not None
    assert state["reachability_issues"] == []


def test_it_computes_through_its_relay(relayed: Relayed) -> None:
    """Tokens come through a relay, so the model counts as degraded; asked for now, it computes, too."""
    relayed.server.wait_until_started(STARTED_WITHIN)
    relayed.monitor.wait_for_server_state(TINY, relayed.server.peer_id, "online")
    report = relayed.monitor.wait_for_tokens(TINY)
    usability, (row,) = report["usability"], report["server_rows"]
    assert row["inference"]["outcome"] == "computed"
    assert row["inference"]["blocks"] == [0, 4]
    assert usability["state"] == "degraded"
    assert "is reached through a relay" in usability["reason"]
    assert [(hop["peer_id"], hop["relayed"]) for hop in usability["path"]] == [(relayed.server.peer_id, True)]
    asked = relayed.monitor.get(f"/api/v1/is_reachable/{relayed.server.peer_id}?inference=1").json()
    assert asked["inference"]["outcome"] == "computed", asked
