"""The servers of the Internet in a box: how the host of each is built, and what happens to it then."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.internet.network import PORT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tests.internet.lab import Lab
    from tests.internet.peers import Server


class When(StrEnum):
    """When a situation is looked at."""

    AT_ONCE = "at once"
    RESERVED = "reserved"
    """Once NATed servers have found their relays, about three minutes after their start. The other monitors look then
    too: they start only meanwhile."""
    HALF_SILENT = "half silent"
    """At the end, when half of the DHT's nodes are frozen."""


# How a server's host is built. Each returns a server that has not been started yet.


def public(
    lab: Lab, name: str, *, ipv4: bool = True, ipv6: bool = True, one_way: float = 0.0, **options: Any
) -> Server:
    """A host with a public address."""
    host = lab.internet.host(name, ipv4=ipv4, ipv6=ipv6, one_way=one_way)
    return lab.server(host, **options)


def ipv6_only(lab: Lab, name: str) -> Server:
    """A host with an IPv6 address alone. Not all DHT nodes can call it, so Petals makes its DHT node a client."""
    server = public(lab, name, ipv4=False, client_mode=True)
    server.herald = lab.first_peer
    return server


def forwarded(lab: Lab, name: str) -> Server:
    """Behind a NAT that forwards the port, started with `--public_ip` and `--port`."""
    home = lab.internet.home(f"{name}-router")
    host = home.host(name)
    home.forward(PORT, host)
    return lab.server(host, announce_maddrs=[f"/ip4/{home.public_ip4}/tcp/{PORT}"])


def beside_the_monitor(lab: Lab, name: str) -> Server:
    """Behind the NAT that the second monitor is behind too, with the port forwarded."""
    host = lab.monitors_home.host(name)
    lab.monitors_home.forward(PORT, host)
    return lab.server(host, announce_maddrs=[f"/ip4/{lab.monitors_home.public_ip4}/tcp/{PORT}"])


def behind_nat(lab: Lab, name: str, *, announced: bool = False) -> Server:
    """Behind a NAT that forwards nothing; `announced`: with the router's address as `--public_ip` all the same."""
    home = lab.internet.home(f"{name}-router")
    options = {"announce_maddrs": [f"/ip4/{home.public_ip4}/tcp/{PORT}"]} if announced else {}
    return lab.server(home.host(name), client_mode=True, **options)


def relayed(lab: Lab, name: str, relay: str, *, alone: bool = False) -> Server:
    """Behind a NAT, with a relay that it will ask for a place; `alone`: it looks for no other one beside it."""
    host = lab.internet.home(f"{name}-router").host(name)
    return lab.server(
        host,
        client_mode=True,
        force_reachability="private",
        use_auto_relay=True,
        trusted_relays=[lab.relays[relay].address],
        daemon_options={"relayDiscovery": 0} if alone else {},
    )


def without_reservation(lab: Lab, name: str, *, and_direct: bool = False) -> Server:
    """Announces a relay that has no place for it; `and_direct`: beside a direct address that is right."""
    circuit = f"{lab.relays['relay'].address}/p2p-circuit"
    if and_direct:
        host = lab.internet.host(name)
        return lab.server(host, announce_maddrs=[circuit, f"/ip4/{host.ip4}/tcp/{PORT}"])
    return lab.server(lab.internet.home(f"{name}-router").host(name), client_mode=True, announce_maddrs=[circuit])


def named(lab: Lab, name: str, *, protocol: str = "dns4", hidden: bool = False) -> Server:
    """Announces a host name; `hidden`: one that does not resolve where the monitor is."""
    host = lab.internet.host(name)
    full_name = f"{name}.example.net"
    server = lab.server(
        host, announce_maddrs=[f"/dns4/{full_name}/tcp/{PORT}" if protocol == "dns4" else f"/{protocol}/{full_name}"]
    )
    lab.names.records[full_name, "A"] = host.ip4
    if hidden:
        lab.names.hidden.add((lab.monitors_address, full_name))
    return server


# What happens to a server after it has announced itself.


async def drops(lab: Lab, server: Server) -> None:
    server.host.drop(PORT)


async def rejects(lab: Lab, server: Server) -> None:
    server.host.reject(PORT)


async def loses(lab: Lab, server: Server) -> None:
    server.host.lose(30)


async def freezes(lab: Lab, server: Server) -> None:
    await server.freeze()


async def thaws(lab: Lab, server: Server) -> None:
    server.thaw()


async def another_program_listens(lab: Lab, server: Server) -> None:
    await server.stop()
    await asyncio.to_thread(server.host.listen_and_say_nothing, PORT)


async def another_peer_listens(lab: Lab, server: Server) -> None:
    await server.stop()
    await lab.peer(server.host).start()


async def unplugged(lab: Lab, server: Server) -> None:
    server.host.unplug()


async def stopped(lab: Lab, server: Server) -> None:
    await server.stop()


async def new_port(lab: Lab, server: Server) -> None:
    await server.stop()
    await server.start(host_maddrs=[f"/ip4/0.0.0.0/tcp/{PORT + 1}"])


async def new_address(lab: Lab, server: Server) -> None:
    await server.stop()
    lab.internet.renumber(server.host)
    await server.start()


async def has_a_dnsaddr(lab: Lab, server: Server) -> None:
    """Publish what `/dnsaddr` stands for; a name of its own, for the peer id is known only now."""
    name = f"_dnsaddr.{server.host.name}.example.net"
    lab.names.records[name, "TXT"] = f"dnsaddr={server.address}"


async def relay_unplugged(lab: Lab, server: Server) -> None:
    lab.relays["relay that goes"].host.unplug()


@dataclass(frozen=True)
class Plan:
    """How to build a server, and what happens to it then, before it is looked at."""

    build: Callable[..., Server]
    then: Mapping[When, Callable[[Lab, Server], Awaitable[None]]] = field(default_factory=dict)
    clock: int = 0
    """Seconds that its clock is ahead."""

    @property
    def fell_silent(self) -> bool:
        """Whether what happened last leaves its DHT node silent, or none of it."""
        return bool(self.then) and [*self.then.values()][-1] in SILENCES


SILENCES = (drops, rejects, freezes, another_program_listens, another_peer_listens, unplugged, stopped)


SERVERS: dict[str, Plan] = {
    # The relayed ones first: their relay takes three minutes.
    "relayed": Plan(partial(relayed, relay="relay")),
    "relayed-slowly": Plan(partial(relayed, relay="slow relay", alone=True)),
    "relay-goes": Plan(partial(relayed, relay="relay that goes", alone=True), {When.RESERVED: relay_unplugged}),
    "no-reservation": Plan(without_reservation),
    "direct-and-relay": Plan(partial(without_reservation, and_direct=True)),
    "public": Plan(public),
    "forwarded": Plan(forwarded),
    "natted": Plan(behind_nat),
    "not-forwarded": Plan(partial(behind_nat, announced=True)),
    "neighbour": Plan(beside_the_monitor),
    "dropping": Plan(public, {When.AT_ONCE: drops}),
    "rejecting": Plan(public, {When.AT_ONCE: rejects}),
    "frozen": Plan(public, {When.AT_ONCE: freezes}),
    "comes-back": Plan(public, {When.AT_ONCE: freezes, When.RESERVED: thaws}),
    "other-program": Plan(public, {When.AT_ONCE: another_program_listens}),
    "other-peer": Plan(public, {When.AT_ONCE: another_peer_listens}),
    "unplugged": Plan(public, {When.AT_ONCE: unplugged}),
    "stopped": Plan(public, {When.AT_ONCE: stopped}),
    "new-port": Plan(partial(public, keeps_identity=True), {When.AT_ONCE: new_port}),
    "new-address": Plan(partial(public, ipv6=False, keeps_identity=True), {When.AT_ONCE: new_address}),
    "ipv6-only": Plan(ipv6_only),
    "quic-only": Plan(partial(public, host_maddrs=[f"/ip4/0.0.0.0/udp/{PORT}/quic-v1"])),
    "dns4": Plan(named),
    "dnsaddr": Plan(partial(named, protocol="dnsaddr"), {When.AT_ONCE: has_a_dnsaddr}),
    "dns4-hidden": Plan(partial(named, hidden=True)),
    "lossy": Plan(public, {When.AT_ONCE: loses}),
    "far": Plan(partial(public, one_way=0.15)),
    "clock-ahead": Plan(public, clock=3600),
    "clock-behind": Plan(public, clock=-3600),
}
