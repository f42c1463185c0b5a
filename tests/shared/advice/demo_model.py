"""This module makes the private swarm that advice is tested on, and a server of it that cannot be reached."""

from shared.snapshot import PeerState, Verdict
from tests.fakes import peer_id, server, snapshot

NOW = 1_800_000_000.0
HOUR = 3600.0
PEER = f"/ip4/127.0.0.1/tcp/4001/p2p/{peer_id(0)}"
RUN = "python -m petals.cli.run_server REPOSITORY --dht_prefix demo-model"
JOIN = f" --initial_peers {PEER}"

UNREACHED = server(1, 2, 6, PeerState.UNREACHABLE, verdict=Verdict.UNREACHABLE, cause="timeout", error="No answer.",
                   multiaddrs=("/ip4/192.168.1.2/tcp/7", "/ip4/45.1.1.9/tcp/31330"), quant_type="nf4",
                   torch_dtype="float16", adapters=("a/b",))  # fmt: skip
OWN = f"{RUN} --block_indices 2:6"
ITS = f" --torch_dtype float16 --quant_type nf4 --adapters a/b{JOIN}"
AT = " --public_ip 45.1.1.9 --port 31330"
MORE_ADDRESSES = ("/ip4/45.1.1.77/tcp/4004",)


def swarm(*models, **more):
    return snapshot(*models, taken_at=NOW - 60, **{"private_swarm": True} | more)


def name(number):
    return f"…{peer_id(number)[-6:]}"
