"""A libp2p daemon of ours ends with whoever opened it, and serves nobody."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from deploy.demo.simulated_server import SimulatedServer
from shared.p2p.connect import ProberNode
from shared.p2p.daemon import Daemon, P2PDaemon
from shared.p2p.hivemind import ControlFailure
from shared.p2p.multiaddr import from_text
from shared.tasks import end
from tests.reliability.parts import daemons_of

pytestmark = pytest.mark.real_parts
RELAYING = "/libp2p/circuit/relay/0.2.0/hop"


async def test_a_frozen_daemon_ends_though_its_closing_is_cancelled():
    """A process that is told to stop cancels whatever it does, also the closing of a daemon that does not answer."""
    node = await ProberNode.open()
    pid = node.daemon_pid
    os.kill(pid, signal.SIGSTOP)
    closing = asyncio.create_task(node.close())
    await asyncio.sleep(0.1)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_daemon_that_died_leaves_no_socket():
    """A worker opens a new one for each that dies: their sockets would fill the folder of temporary files."""
    node = await ProberNode.open()
    sockets = [Path(address["unix"]) for address in (node.p2p._daemon_listen_maddr, node.p2p._client_listen_maddr)]
    assert any(one.exists() for one in sockets)
    os.kill(node.daemon_pid, signal.SIGKILL)
    while node.is_alive:
        await asyncio.sleep(0.01)
    await node.close()
    assert not any(one.exists() for one in sockets)


async def test_a_start_that_is_cancelled_leaves_neither_daemon_nor_socket(monkeypatch):
    """As a worker's that is told to stop, and told again while it waits for its nodes to have started."""
    made = []
    create = P2PDaemon.create

    async def slow(**options):
        made.append(await create(**options))
        await asyncio.sleep(0.3)
        return made[-1]

    monkeypatch.setattr(P2PDaemon, "create", slow)
    monkeypatch.setattr("shared.tasks.CANCEL_AGAIN", 0.05)
    before = set(daemons_of(os.getpid()))
    opening = asyncio.create_task(ProberNode.open())
    while not set(daemons_of(os.getpid())) - before:
        await asyncio.sleep(0.005)
    await end(opening)
    assert opening.cancelled()
    assert set(daemons_of(os.getpid())) <= before
    (p2p,) = made
    assert not Path(p2p._daemon_listen_maddr["unix"]).exists()


async def test_a_daemon_of_ours_relays_for_nobody():
    """A server that it is connected to cannot reserve a place with it; p2pd's own default would let it."""
    server = await SimulatedServer.start()
    try:
        async with await ProberNode.open() as node:
            await node.connect(server.peer_id, map(from_text, await server.addresses()))
            with pytest.raises(ControlFailure, match="not supported"):
                await Daemon(server.node.p2p).open_stream(node.peer_id, RELAYING)
    finally:
        await server.close()
