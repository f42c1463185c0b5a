"""Builds a small Internet of network namespaces: hosts with public addresses, and homes behind NAT routers.

The network namespace that this runs in is the Internet's backbone. Each host has a veth pair to it and a subnet of its
own, `45.1.N.0/24` and `2a0e:1:N::/64`, of which the backbone has the first address and the host the second. A home is a
router that masquerades (nft) for the hosts in its private network `192.168.N.0/24`. There is no way outside.

Nothing here is ever taken down: all of it lives in the namespaces of one process (`box.py`) and ends with it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WIRE = Path(__file__).with_name("wire.py")
NAMESPACES = Path("/run/netns")
PORT = 31337
"""Where a server listens, as in Petals' instructions."""
LISTEN_AND_SAY_NOTHING = """
import socket, sys, time
door = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening", flush=True)
time.sleep(1e6)
"""


def backbone(name_server: str) -> None:
    """Turn the namespace that this process runs in into a backbone that routes."""
    _ip(f"link set lo up\naddr add {name_server}/32 dev lo")
    for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path(f"/proc/sys/net/{switch}").write_text("1")


class Host:
    """A machine with a network of its own."""

    def __init__(self, name: str, ip4: str | None = None, ip6: str | None = None) -> None:
        self.name = name
        self._ip4 = ip4
        self._ip6 = ip6
        _ip(f"netns add {name}")
        self.ip("link set lo up")

    @property
    def has_ip4(self) -> bool:
        return self._ip4 is not None

    @property
    def ip4(self) -> str:
        assert self._ip4 is not None, f"{self.name} has no IPv4 address"
        return self._ip4

    @property
    def ip6(self) -> str:
        assert self._ip6 is not None, f"{self.name} has no IPv6 address"
        return self._ip6

    def command(self, *command: str) -> list[str]:
        """Return the command line that runs a command on this host."""
        return ["nsenter", f"--net={NAMESPACES / self.name}", "--", *command]

    def run(self, *command: str, text: str | None = None) -> None:
        """Run a command on this host to its end. Raise `CalledProcessError`."""
        _run(self.command(*command), text)

    def ip(self, commands: str) -> None:
        """Run lines of `ip` commands on this host."""
        _run(["ip", "-n", self.name, "-batch", "-"], commands)

    def nft(self, rules: str) -> None:
        """Add rules, with a table `inet host` and its chains `input` and, for NAT, `prerouting` and `postrouting`."""
        chains = (
            "table inet host {\n"
            "chain input { type filter hook input priority 0; }\n"
            "chain prerouting { type nat hook prerouting priority -100; }\n"
            "chain postrouting { type nat hook postrouting priority 100; }\n"
            "}\n"
        )
        self.run("nft", "-f", "-", text=chains + rules)

    def drop(self, port: int) -> None:
        """Drop what comes in for a port, as a firewall does that wants to look like nobody."""
        self.nft(f"add rule inet host input meta l4proto {{ tcp, udp }} th dport {port} drop")

    def reject(self, port: int) -> None:
        """Refuse what comes in for a port."""
        self.nft(f"add rule inet host input tcp dport {port} reject with tcp reset")
        self.nft(f"add rule inet host input udp dport {port} reject")

    def lose(self, percent: int) -> None:
        """Lose a share of all packets that come in."""
        self.nft(f'add rule inet host input iifname != "lo" numgen random mod 100 < {percent} drop')

    def listen_and_say_nothing(self, port: int) -> None:
        """Have a program accept connections on a port, and never say a word. Returns once it listens."""
        command = self.command(sys.executable, "-S", "-c", LISTEN_AND_SAY_NOTHING, str(port))
        program = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert program.stdout is not None
        assert program.stdout.readline(), f"nothing listens on {self.name}"

    def unplug(self) -> None:
        """Pull the cable: nobody answers for the host's address any more, and the host hears nothing."""
        self.ip("link set wan down")


class Internet:
    """The backbone's side: who is plugged in, and where."""

    def __init__(self) -> None:
        self._subnets = 0

    def host(self, name: str, *, ipv4: bool = True, ipv6: bool = False, one_way: float = 0.0) -> Host:
        """Return a new host with public addresses, `one_way` seconds away from everybody."""
        self._subnets += 1
        number = self._subnets
        host = Host(name, f"45.1.{number}.2" if ipv4 else None, f"2a0e:1:{number:x}::2" if ipv6 else None)
        if one_way:
            self._delayed_link(host, number, one_way)
        else:
            _ip(f"link add w{number} type veth peer name wan netns {name}")
        _ip(f"link set w{number} up")
        host.ip("link set wan up")
        if ipv4:
            self._address(host, number)
        if ipv6:
            _ip(f"addr add 2a0e:1:{number:x}::1/64 dev w{number} nodad")
            host.ip(f"addr add {host.ip6}/64 dev wan nodad\nroute add default via 2a0e:1:{number:x}::1")
        return host

    def renumber(self, host: Host) -> None:
        """Give a host another public IPv4 address, as a provider does over night; the old one is nobody's then."""
        device = f"w{host.ip4.split('.')[2]}"
        self._subnets += 1
        _ip(f"addr flush dev {device} scope global")
        host.ip("addr flush dev wan scope global")
        host._ip4 = f"45.1.{self._subnets}.2"
        self._address(host, self._subnets, device)

    def home(self, name: str) -> Home:
        """Return a new router with a public address and a private network behind it."""
        return Home(self.host(name), self._subnets)

    @staticmethod
    def _address(host: Host, number: int, device: str | None = None) -> None:
        gateway = f"45.1.{number}.1"
        _ip(f"addr add {gateway}/24 dev {device or f'w{number}'}")
        host.ip(f"addr add {host.ip4}/24 dev wan\nroute add default via {gateway}")

    @staticmethod
    def _delayed_link(host: Host, number: int, one_way: float) -> None:
        """Lay a wire between backbone and host that hands on each frame later: not every kernel has `tc netem`."""
        wire = Host(f"{host.name}-wire")
        _ip(f"link add w{number} type veth peer name left netns {wire.name}")
        wire.ip(f"link add right type veth peer name wan netns {host.name}\nlink set left up\nlink set right up")
        subprocess.Popen(wire.command(sys.executable, "-S", str(WIRE), "left", "right", str(one_way)))


class Home:
    """A router that masquerades, and the private network behind it."""

    def __init__(self, router: Host, number: int) -> None:
        self.router = router
        self._number = number
        self._hosts = 0
        router.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        router.ip(f"link add lan type bridge\nlink set lan up\naddr add 192.168.{number}.1/24 dev lan")
        router.nft('add rule inet host postrouting oifname "wan" masquerade')

    @property
    def public_ip4(self) -> str:
        return self.router.ip4

    def host(self, name: str) -> Host:
        """Return a new host in the private network."""
        self._hosts += 1
        device = f"lan{self._hosts}"
        host = Host(name, f"192.168.{self._number}.{1 + self._hosts}")
        self.router.ip(f"link add {device} type veth peer name eth0 netns {name}")
        self.router.ip(f"link set {device} master lan\nlink set {device} up")
        host.ip(f"addr add {host.ip4}/24 dev eth0\nlink set eth0 up\nroute add default via 192.168.{self._number}.1")
        return host

    def forward(self, port: int, host: Host) -> None:
        """Forward a port of the public address, from outside only: most home routers do not turn calls from inside."""
        rule = f'iifname "wan" meta l4proto {{ tcp, udp }} th dport {port} dnat ip to {host.ip4}'
        self.router.nft(f"add rule inet host prerouting {rule}")


def _ip(commands: str) -> None:
    _run(["ip", "-batch", "-"], commands)


def _run(command: list[str], text: str | None) -> None:
    done = subprocess.run(command, input=text, text=True, capture_output=True)
    if done.returncode:
        raise subprocess.SubprocessError(f"{' '.join(command)}\n{text or ''}\n{done.stdout}{done.stderr}")
