"""This module writes text for people to copy: the command of a Petals server, and the Python of a client.

Names in it come from the swarm, where anyone can announce any name, so each is quoted for a shell or for Python. A name
with control characters, or that a program would read as an option, is left out or replaced by a placeholder.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from shared.address_text import endpoint, is_public
from shared.judgement.coverage import coverage
from shared.snapshot import PeerState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from shared.snapshot import ModelReport, Snapshot

REPOSITORY = "REPOSITORY"
"""Stands for a name or path that only the swarm's own people know."""
DEFAULT_PORT = 31337
"""The port of Petals' own examples."""
INITIAL_PEERS = "INITIAL_PEERS"
"""Stands for the bootstrap peers of a private swarm that may not be shown."""
MAX_INITIAL_PEERS = 6
DOCUMENTATION = "https://github.com/bigscience-workshop/petals#readme"


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """The address that a server should announce."""

    ip: str
    port: int

    @property
    def flags(self) -> str:
        return f"--public_ip {self.ip} --port {self.port}"


def initial_peers(snapshot: Snapshot | None) -> tuple[str, ...]:
    """Return the multiaddrs through which clients and servers join, empty for the public swarm: Petals knows those."""
    if snapshot is None or not snapshot.private_swarm:
        return ()
    addresses = (f"{address}/p2p/{peer.peer_id}" for peer in snapshot.bootstrap_peers for address in peer.addresses)
    return tuple(address for address in addresses if _fits(address))[:MAX_INITIAL_PEERS] or (INITIAL_PEERS,)


def repository(model: ModelReport) -> str:
    """Return `owner/name` on the Hub, or `REPOSITORY` where the swarm does not say where the model is."""
    path = urlsplit(model.repository).path.strip("/") if model.repository else ""
    return path if _fits(path) else REPOSITORY


def run_server(
    model: ModelReport,
    *,
    blocks: tuple[int, int] | None = None,
    address: PublicAddress | None = None,
    peers: Sequence[str] = (),
    adapters: Iterable[str] = (),
    quant_type: str | None = None,
    torch_dtype: str | None = None,
) -> str:
    """Return the command that serves a model; `blocks` are `start <= block < end`, as `--block_indices` takes them."""
    words = ["python", "-m", "petals.cli.run_server", shlex.quote(repository(model))]
    if prefix := _prefix_to_name(model):
        words += ["--dht_prefix", shlex.quote(prefix)]
    if blocks is not None:
        words += ["--block_indices", f"{blocks[0]}:{blocks[1]}"]
    if address is not None:
        words += ["--public_ip", shlex.quote(address.ip), "--port", str(address.port)]
    for flag, value in (("--torch_dtype", torch_dtype), ("--quant_type", quant_type)):
        if value and _fits(value):
            words += [flag, shlex.quote(value)]
    for flag, values in (("--adapters", adapters), ("--initial_peers", peers)):
        if given := [shlex.quote(value) for value in values if _fits(value)]:
            words += [flag, *given]
    return " ".join(words)


def client(model: ModelReport, snapshot: Snapshot, *, adapter: str | None = None) -> str:
    """Return Python that lets a model of this swarm continue a text."""
    options = ["name"]
    if prefix := _prefix_to_name(model):
        options.append(f"dht_prefix={prefix!a}")
    if peers := initial_peers(snapshot):
        options.append(f"initial_peers=[{', '.join(map(ascii, peers))}]")
    if adapter is not None and _fits(adapter):
        options.append(f"active_adapter={adapter!a}")
    return "\n".join(
        [
            "from petals import AutoDistributedModelForCausalLM",
            "from transformers import AutoTokenizer",
            "",
            f"name = {repository(model)!a}",
            "tokenizer = AutoTokenizer.from_pretrained(name)",
            f"model = AutoDistributedModelForCausalLM.from_pretrained({', '.join(options)})",
            "",
            'prompt = tokenizer("The three laws of robotics are", return_tensors="pt")',
            'tokens = model.generate(prompt["input_ids"], max_new_tokens=20)',
            "print(tokenizer.decode(tokens[0]))",
            "",
        ]
    )


def usable_adapters(model: ModelReport) -> tuple[str, ...]:
    """Return the adapters with which a client finds a path: those whose servers hold every block."""
    announced = {name for server in model.servers if server.state is PeerState.ONLINE for name in server.adapters}
    return tuple(name for name in sorted(announced) if _fits(name) and coverage(_with_adapter(model, name)).has_path)


def public_address(addresses: Iterable[str]) -> PublicAddress | None:
    """Return the first public IPv4 address and TCP port among a server's multiaddrs, those of relays left out."""
    for at in map(endpoint, addresses):
        if at.protocol == "ip4" and at.tcp_port is not None and is_public(at.host):
            return PublicAddress(at.host, at.tcp_port)
    return None


def _with_adapter(model: ModelReport, name: str) -> ModelReport:
    return msgspec.structs.replace(model, servers=tuple(s for s in model.servers if name in s.adapters))


def _prefix_to_name(model: ModelReport) -> str:
    """Return the DHT prefix where Petals would not make it of the repository's name by itself, or where that is unsure.

    Petals' rule depends on the model's family: petals/models/{bloom,falcon,llama}/config.py.
    """
    path = repository(model)
    name = path.rpartition("/")[2].replace(".", "-")
    if "falcon" in name.lower():
        own = name
    elif "bloom" in name.lower():
        own = path.replace(".", "-") + "-petals"
    else:
        own = name if name.endswith("-hf") else f"{name}-hf"
    return model.dht_prefix if model.dht_prefix != own and _fits(model.dht_prefix) else ""


def _fits(value: str) -> bool:
    """Whether a value is safe in a command: no control characters, and does not look like an option."""
    return bool(value) and value.isprintable() and not value.startswith("-")
