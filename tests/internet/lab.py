"""Everything that is in the box: builds the Internet, lets things happen there, and looks at each situation."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.demo.simulated_server import Model
from tests.internet.monitor import API_PORT, Monitor
from tests.internet.names import Names
from tests.internet.network import Internet
from tests.internet.peers import Client, Experience, Server, ServerWithClock
from tests.internet.servers import SERVERS, When
from tests.internet.situations import NO_SNAPSHOT, NOT_SHOWN, SITUATIONS, Situation
from tests.internet.table import NOBODY_COULD_LOOK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from tests.internet.network import Host

NAME_SERVER = "45.1.0.53"
MODEL = Model("internet-hf", len(SERVERS))
RECORD_LIFETIME = 1800.0
BOOTSTRAP_PEERS = 3
AT_ONCE = 4
"""Situations that are looked at, and servers that are started, at one time: the machine is small."""
RESERVATION_AFTER = 168.0
"""Seconds after its start before which no server asks a relay for a place."""
RESERVATION_WITHIN = 60.0
"""Seconds that it gets after that."""
ASKED_AGAIN = 4
RETRY_AFTER = 5.0
"""How often, and after how many seconds, somebody asks again who was told that nobody could look now (a 503)."""
EFFECT = 1.0
"""Seconds from a change in the network until all is quiet again."""
CLOCK_AHEAD = 3600.0


class Lab:
    """All hosts, and the programs on them."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._slots = asyncio.Semaphore(AT_ONCE)
        self.internet = Internet()
        self.names = Names()
        self.relays: dict[str, Server] = {}
        self.servers: dict[str, Server] = {}
        self.monitors: dict[str, Monitor] = {}
        self.bootstrap: list[str] = []
        self.bootstrap6: list[str] = []
        self.monitors_home = self.internet.home("monitors-home")
        self._monitor_hosts = {
            "public": self.internet.host("monitor", ipv6=True),
            "home": self.monitors_home.host("home-monitor"),
            "late": self.internet.host("late-monitor"),
        }
        self.monitors_home.forward(API_PORT, self._monitor_hosts["home"])
        self.monitors_address = self._monitor_hosts["public"].ip4
        self._client_host = self.internet.host("client", ipv6=True)

    def peer(self, host: Host, **options: Any) -> Server:
        """Return a peer that serves nothing, not started."""
        return self._made(Server, host, options)

    def server(self, host: Host, **options: Any) -> Server:
        """Return a server that serves a block of its own, not started; `options` are `Server`'s and `P2P.create`'s."""
        plan = SERVERS[host.name]
        server = self._made(ServerWithClock if plan.clock else Server, host, options)
        server.announces = (MODEL, list(SERVERS).index(host.name))
        if isinstance(server, ServerWithClock):
            server.clock = plan.clock
        return server

    def _made(self, kind: type[Server], host: Host, options: dict[str, Any]) -> Server:
        client_mode = options.pop("client_mode", False)
        daemon_options = options.pop("daemon_options", {})
        bootstrap = self.bootstrap if host.has_ip4 else self.bootstrap6
        identity = Path(f"/run/{host.name}.key") if options.pop("keeps_identity", False) else None
        return kind(host, bootstrap, identity, client_mode=client_mode, options=options, daemon_options=daemon_options)

    async def start(self) -> float:
        """Start all peers; return when (monotonic seconds) the last relayed server had started."""
        await self.names.serve(NAME_SERVER)
        first = self.first_peer = self.peer(self.internet.host("bootstrap-1", ipv6=True))
        await first.start()
        self.bootstrap = [first.address]
        others = [self.peer(self.internet.host(f"bootstrap-{n + 1}", ipv6=True)) for n in range(1, BOOTSTRAP_PEERS)]
        relays = {"relay": 0.0, "slow relay": 0.1, "relay that goes": 0.0}
        for name, one_way in relays.items():
            host = self.internet.host(name.replace(" ", "-"), ipv6=True, one_way=one_way)
            self.relays[name] = self.peer(host, force_reachability="public", use_relay=True)
        await self._each(peer.start() for peer in (*others, *self.relays.values()))
        self.bootstrap = [peer.address for peer in (first, *others)]
        self.bootstrap6 = [peer.address6 for peer in (first, *others)]
        self.servers = {name: plan.build(self, name) for name, plan in SERVERS.items()}
        relayed = [server for server in self.servers.values() if "trusted_relays" in server.options]
        await self._each(server.start() for server in relayed)
        started = time.monotonic()
        await self._each(server.start() for server in self.servers.values() if server not in relayed)
        return started

    async def announce(self) -> None:
        """Have all servers announce themselves. Most of this is waiting for nodes that others cannot reach."""
        await asyncio.gather(*(server.announce(RECORD_LIFETIME) for server in self.servers.values()))

    async def start_monitors(self, *names: str) -> None:
        """Start monitors, and wait until they are ready. Raise `TimeoutError`."""
        for name in names:
            host = self._monitor_hosts[name]
            address = self.monitors_home.public_ip4 if name == "home" else host.ip4
            clock = CLOCK_AHEAD if name == "late" else 0.0
            self.monitors[name] = Monitor(host, address, self.bootstrap, self._logs, clock)
        await asyncio.gather(*(self.monitors[name].until_ready() for name in names))

    async def happen(self, when: When) -> None:
        """Let happen to the servers what is planned for this time."""
        await self._each(
            plan.then[when](self, self.servers[name]) for name, plan in SERVERS.items() if when in plan.then
        )
        if when is When.HALF_SILENT:
            await self._silence_half()
        await asyncio.sleep(EFFECT)

    async def _silence_half(self) -> None:
        """Freeze DHT nodes that no situation asks about from now on, until half of all are silent."""
        needed = {situation.server for situation in SITUATIONS if situation.when is When.HALF_SILENT}
        nodes = {name: server for name, server in self.servers.items() if not server.client_mode}
        silent = {name for name in nodes if SERVERS[name].fell_silent}
        everybody = len(nodes) + len(self.relays) + BOOTSTRAP_PEERS
        for name, server in nodes.items():
            if 2 * len(silent) >= everybody:
                return
            if name not in silent | needed and not SERVERS[name].clock:
                await server.freeze()
                silent.add(name)

    async def reserved(self, started: float) -> None:
        """Wait until the relayed servers have their places. Raise `TimeoutError`."""
        await asyncio.sleep(max(0.0, started + RESERVATION_AFTER - time.monotonic()))
        async with asyncio.timeout(RESERVATION_WITHIN):
            await self._each(
                self._until_reached(server) for server in self.servers.values() if "trusted_relays" in server.options
            )

    async def _until_reached(self, server: Server) -> None:
        """Try with a new client each time: a daemon remembers failed dials."""
        while not (await self._new_client_calls(server.peer_id)).reached:
            await asyncio.sleep(2)

    async def _new_client_calls(self, peer_id: str) -> Experience:
        client = await Client.start(self._client_host, self.bootstrap)
        try:
            return await client.call(peer_id)
        finally:
            await client.stop()

    async def look(self, when: When) -> list[dict[str, Any]]:
        """Look at all situations of a time, with one client as Petals has one, and return the rows.

        What a crawl shows is that of the first one that begins from now on.
        """
        situations = [situation for situation in SITUATIONS if situation.when is when]
        monitors = {situation.monitor for situation in situations}
        now = time.time()
        crawls = [asyncio.create_task(self.monitors[name].snapshot_begun_after(now)) for name in monitors]
        client = await Client.start(self._client_host, self.bootstrap)
        announced = await client.announced(MODEL)
        rows = await self._each(self._look(situation, client) for situation in situations)
        await client.stop()
        snapshots = dict(zip(monitors, await asyncio.gather(*crawls), strict=True))
        for situation, row in zip(situations, rows, strict=True):
            row["client"]["announced"] = row["peer_id"] in announced
            row["crawl"] = shown(snapshots[situation.monitor], row["peer_id"])
        doubtful = [(s, row) for s, row in zip(situations, rows, strict=True) if may_be_strained(s, row)]
        now = time.time()
        later = {s.monitor: await self.monitors[s.monitor].snapshot_begun_after(now) for s, _ in doubtful}
        for situation, row in doubtful:
            row["crawl"] = {**shown(later[situation.monitor], row["peer_id"]), "tries": 2}
        return rows

    async def _look(self, situation: Situation, client: Client) -> dict[str, Any]:
        peer_id, monitor = self.servers[situation.server].peer_id, self.monitors[situation.monitor]
        experience = await client.call(peer_id)
        check = await monitor.check(peer_id)
        for tried in range(2, situation.tries + 1):
            if not experience.reached:
                experience = replace(await self._new_client_calls(peer_id), tries=tried)
            if not check.get("success"):
                check = {**await monitor.check(peer_id, fresh=True), "tries": tried}
        for tried in range(2, ASKED_AGAIN + 2):
            if check["status"] == NOBODY_COULD_LOOK and not situation.nobody_could_look:
                await asyncio.sleep(RETRY_AFTER)
                check = {**await monitor.check(peer_id), "tries": tried}
        return {"situation": situation.name, "peer_id": peer_id, "client": asdict(experience), "check": check}

    async def _each(self, work: Iterable[Awaitable[Any]]) -> list[Any]:
        async def one(task: Awaitable[Any]) -> Any:
            async with self._slots:
                return await task

        return await asyncio.gather(*map(one, work))

    async def stop(self) -> None:
        """End the monitors, so that they put their things away."""
        await asyncio.gather(*(monitor.stop() for monitor in self.monitors.values()))


def may_be_strained(situation: Situation, row: dict[str, Any]) -> bool:
    """Whether a crawl shows as online, as it announced itself, whom nobody reaches.

    A crawler that finds its machine too busy to trust a time-out says "unknown" for once. The other mistake, a server
    that is reached and not shown as online, has no such excuse.
    """
    return not row["client"]["reached"] and row["crawl"]["state"] == "online" and not situation.nobody_could_look


def shown(snapshot: dict[str, Any] | None, peer_id: str) -> dict[str, Any]:
    """Return how `/api/v1/state` shows a server: `state` and, where there are, words about it."""
    if snapshot is None:
        return {"state": NO_SNAPSHOT, "error": None}
    rows = (row for report in snapshot["model_reports"] for row in report["server_rows"])
    state = next((row["state"] for row in rows if row["peer_id"] == peer_id), NOT_SHOWN)
    error = next((issue["err"] for issue in snapshot["reachability_issues"] if issue["peer_id"] == peer_id), None)
    return {"state": state, "error": error, "seconds": snapshot["update_duration"]}
