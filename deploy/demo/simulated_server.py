"""This module runs Petals servers without a model: hivemind nodes that announce blocks, and compute something.

For the demo, the tests and the benchmarks. Each has its own p2pd, so it can be closed, frozen and dialled like
a genuine server; the wire format is petals' own (`ServerInfo.to_tuple`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from deploy.demo.simulated_inference import Computation, handler
from shared.p2p.daemon import P2PDaemon
from shared.p2p.hivemind import DHTID, DHTNode, MSGPackSerializer
from shared.p2p.petals import MODEL_INDEX_KEY, ModelInfo, ServerInfo, ServerState, block_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RECORD_LIFETIME = 60.0
"""Seconds for which an announcement stands. Petals servers use about as much and renew it before."""

CLOSE_WITHIN = 3.0
STOPS_WITHIN = 2.0


@dataclass(frozen=True)
class Model:
    """A model as servers announce it under `_petals.models`."""

    dht_prefix: str
    num_blocks: int
    repository: str | None = None


@dataclass(frozen=True)
class Announcement:
    """What a server says of itself in the records of its blocks."""

    model: Model
    start: int
    end: int
    state: str = "online"
    throughput: float = 100.0
    info: dict[str, Any] = field(default_factory=dict)

    def to_tuple(self) -> tuple[int, float, dict[str, Any]]:
        defaults = {
            "version": "2.2.0.post1",
            "torch_dtype": "bfloat16",
            "quant_type": "nf4",
            "using_relay": False,
            "cache_tokens_left": 8192 * (self.end - self.start),
        }
        server_info = ServerInfo(
            state=ServerState[self.state.upper()],
            throughput=self.throughput,
            start_block=self.start,
            end_block=self.end,
            **{**defaults, **self.info},
        )
        packed: tuple[int, float, dict[str, Any]] = server_info.to_tuple()
        return packed


class SimulatedServer:
    """One server. `announcement` may be None: then it is a DHT node that serves nothing (a bootstrap peer)."""

    def __init__(self, node: DHTNode, announcement: Announcement | None) -> None:
        self.node = node
        self.announcement = announcement
        self.handler: Any = None
        """Counts its sessions; None where it serves nothing."""

    @classmethod
    async def start(
        cls,
        initial_peers: list[str] | None = None,
        announcement: Announcement | None = None,
        *,
        serves: bool = True,
        address: str = "127.0.0.1",
        port: int = 0,
        identity: Path | None = None,
        computation: Computation = Computation(),  # noqa: B008 - frozen
    ) -> Self:
        """Start a node on a free port of 127.0.0.1. With `serves=False` it lacks the Petals handler.

        `identity` is a file that keeps its peer id over restarts; it is made where there is none.
        """
        keeps = {} if identity is None else {"identity_path": str(identity)}
        p2p = await P2PDaemon.create(
            initial_peers, host_maddrs=[f"/ip4/{address}/tcp/{port}"], use_relay=False, **keeps
        )
        node = await DHTNode.create(p2p=p2p, initial_peers=initial_peers)
        server = cls(node, announcement)
        if announcement is not None and serves:
            its = announcement
            server.handler = handler(its.model.dht_prefix, its.start, its.end, computation)
            await server.handler.add_p2p_handlers(node.p2p)
        return server

    @property
    def peer_id(self) -> str:
        return str(self.node.peer_id)

    @property
    def daemon_pid(self) -> int:
        return int(self.node.p2p._child.pid)  # noqa: SLF001 - hivemind offers no other way

    async def addresses(self) -> list[str]:
        """Return full multiaddrs, for `INITIAL_PEERS`."""
        return [str(address) for address in await self.node.get_visible_maddrs()]

    def freeze(self) -> None:
        """Stop its daemon as if the machine hung: the port accepts, nothing answers. Returns once it has stopped."""
        stop_process(self.daemon_pid)

    def thaw(self) -> None:
        os.kill(self.daemon_pid, signal.SIGCONT)

    async def close(self) -> None:
        with suppress(ProcessLookupError):
            self.thaw()
        # hivemind waits for ever for a daemon that is gone: closed before, or ended by a signal to the whole group.
        if self.node.p2p._child.returncode is not None:  # noqa: SLF001 - hivemind offers no other way
            return
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_WITHIN):
                await self.node.shutdown()
                await self.node.p2p.shutdown()


def stop_process(pid: int) -> None:
    """Stop a process of ours, and wait until it has stopped: its threads would go on for some milliseconds."""
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + STOPS_WITHIN
    while time.monotonic() < end:
        tasks = Path(f"/proc/{pid}/task").glob("*/stat")
        if all(task.read_text().rpartition(")")[2].split()[0] == "T" for task in tasks):
            return
        time.sleep(0.001)


def place(announced: Mapping[str, Announcement], *, on: Iterable[SimulatedServer]) -> None:
    """Put records (`{peer_id: announcement}`) into the stores of nodes of this process.

    It is what announcing ends with, without the traffic: for 300 records 4 s of a core less.
    """
    expires = time.time() + RECORD_LIFETIME
    stores = [one.node.protocol.storage for one in on]
    for peer_id, announcement in announced.items():
        model, packed = announcement.model, MSGPackSerializer.dumps(announcement.to_tuple())
        records = {
            block_key(model.dht_prefix, block): (peer_id, packed)
            for block in range(announcement.start, announcement.end)
        }
        records[MODEL_INDEX_KEY] = (model.dht_prefix, MSGPackSerializer.dumps(model_index_entry(model)))
        for key, (subkey, value) in records.items():
            key_id = DHTID.generate(key)
            for store in stores:
                store.store(key_id, value, expires, subkey=subkey)


def model_index_entry(model: Model) -> dict[str, Any]:
    """Return what servers write of their model under `_petals.models`."""
    entry: dict[str, Any] = ModelInfo(num_blocks=model.num_blocks, repository=model.repository).to_dict()
    return entry
