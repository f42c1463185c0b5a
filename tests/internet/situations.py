# ruff: noqa: E501 - a table is read by its rows
"""The situations that a server and a monitor can be in on the Internet, and what is right about each."""

from __future__ import annotations

from dataclasses import dataclass

from tests.internet.servers import When


@dataclass(frozen=True)
class Situation:
    """One row of the table: a server, a monitor that looks at it, and what is right."""

    name: str
    server: str
    reached: bool
    """Whether a genuine client reaches the server: what this lab promises of itself."""
    causes: tuple[str | None, ...] = (None,)
    """What the check may name as the cause."""
    nobody_could_look: bool = False
    """Whether this monitor cannot know: then "unknown" is right as well."""
    monitor: str = "public"
    when: When = When.AT_ONCE
    tries: int = 1
    """How often client and monitor may ask, where chance decides: a server asks again, too."""
    no_snapshot: bool = False
    """Whether this monitor's crawler may find that it cannot look, and publish nothing."""


NOT_SHOWN, NO_SNAPSHOT = "not shown", "no snapshot"

SITUATIONS = (
    Situation("public address", "public", reached=True),
    Situation("port forwarded", "forwarded", reached=True),
    Situation("NAT, nothing forwarded", "natted", reached=False, causes=("not_dialable", "no_address", "refused", "timeout")),
    Situation("NAT, public address announced, port not forwarded", "not-forwarded", reached=False, causes=("refused", "timeout")),
    Situation("NAT with a relay", "relayed", reached=True, when=When.RESERVED),
    Situation("NAT with a slow relay (200 ms)", "relayed-slowly", reached=True, when=When.RESERVED),
    Situation("relay gone", "relay-goes", reached=False, when=When.RESERVED, causes=("relay_away",)),
    Situation("relay without a reservation", "no-reservation", reached=False, causes=("no_relay_reservation",)),
    Situation("direct address beside a relay without a reservation", "direct-and-relay", reached=True),
    Situation("monitor behind a NAT of its own", "public", reached=True, monitor="home", when=When.RESERVED),
    Situation("monitor behind a NAT of its own, server behind a relay", "relayed", reached=True, monitor="home", when=When.RESERVED),
    Situation("monitor behind the server's own NAT", "neighbour", reached=True, monitor="home", when=When.RESERVED, nobody_could_look=True, causes=(None, "same_network")),
    Situation("firewall drops", "dropping", reached=False, causes=("timeout",)),
    Situation("firewall rejects", "rejecting", reached=False, causes=("refused",)),
    Situation("accepts, then silent (frozen)", "frozen", reached=False, causes=("frozen",)),
    Situation("silent for minutes, then back", "comes-back", reached=True, when=When.RESERVED),
    Situation("accepts, then silent (another program)", "other-program", reached=False, causes=("frozen",)),
    Situation("another peer at the address", "other-peer", reached=False, causes=("wrong_peer",)),
    Situation("server stopped", "stopped", reached=False, causes=("refused",)),
    Situation("host gone", "unplugged", reached=False, causes=("no_host_route", "timeout")),
    Situation("new port after a restart", "new-port", reached=True),
    Situation("new address after a restart", "new-address", reached=True),
    Situation("IPv6 only", "ipv6-only", reached=True),
    Situation("IPv6 only, no IPv6 at the monitor", "ipv6-only", reached=True, monitor="home", when=When.RESERVED, nobody_could_look=True),
    Situation("QUIC only", "quic-only", reached=True),
    Situation("/dns4", "dns4", reached=True),
    Situation("/dnsaddr", "dnsaddr", reached=True),
    Situation("/dns4, unknown to the monitor's resolver", "dns4-hidden", reached=True, nobody_could_look=True),
    Situation("30 % packet loss", "lossy", reached=True, tries=4),
    Situation("300 ms away", "far", reached=True),
    Situation("server's clock an hour ahead", "clock-ahead", reached=True),
    Situation("server's clock an hour behind", "clock-behind", reached=True),
    Situation("monitor's clock an hour ahead", "public", reached=True, monitor="late", when=When.RESERVED, no_snapshot=True),
    Situation("half of the DHT's nodes silent: public address", "public", reached=True, when=When.HALF_SILENT),
    Situation("half of the DHT's nodes silent: port forwarded", "forwarded", reached=True, when=When.HALF_SILENT),
    Situation("half of the DHT's nodes silent: NAT with a relay", "relayed", reached=True, when=When.HALF_SILENT),
    Situation("half of the DHT's nodes silent: firewall drops", "dropping", reached=False, when=When.HALF_SILENT, causes=("timeout",)),
)  # fmt: skip
