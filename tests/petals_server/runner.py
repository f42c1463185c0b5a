"""Start the genuine `petals.cli.run_server` inside its own environment: `python runner.py [its arguments]`.

petals 2.2.0.post1 takes names from hivemind's top level that hivemind 1.1.12 keeps in its modules only (hivemind
PR 663). They are put back before petals is imported; nothing of petals is changed. Where REACHABILITY_API_URL is
set, the swarm of `--initial_peers` counts as the public one, so that the starting server checks itself at that URL
as servers of the public swarm do. Where TRUSTED_RELAY is set, the server is told what one behind a NAT finds out
within some minutes: nobody can reach it directly, and here is a relay. Adapters are folders here, where petals asks
the hub of Hugging Face whether there is one.
"""

from __future__ import annotations

import os
import runpy
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

MOVED_WITHIN_HIVEMIND = {
    "hivemind.compression": ("deserialize_tensor_stream", "deserialize_torch_tensor", "serialize_torch_tensor"),
    "hivemind.p2p": ("P2P", "P2PContext", "PeerID"),
    "hivemind.utils.asyncio": ("anext",),
    "hivemind.utils.logging": ("get_logger",),
    "hivemind.utils.nested": ("nested_compare", "nested_flatten", "nested_pack"),
    "hivemind.utils.serializer": ("MSGPackSerializer",),
    "hivemind.utils.tensor_descr": ("BatchTensorDescriptor", "TensorDescriptor"),
    "hivemind.utils.timed_storage": ("MAX_DHT_TIME_DISCREPANCY_SECONDS", "TimedStorage", "get_dht_time"),
}


def restore_hivemind_names() -> None:
    """Make `from hivemind import …` work as petals 2.2.0.post1 writes it. Call it before petals is imported."""
    hivemind = import_module("hivemind")
    for module, names in MOVED_WITHIN_HIVEMIND.items():
        for name in names:
            setattr(hivemind, name, getattr(import_module(module), name))


def use_reachability_api(url: str) -> None:
    """Have petals ask `url` whether a peer is reachable, instead of health.petals.dev."""
    reachability: Any = import_module("petals.server.reachability")
    reachability.REACHABILITY_API_URL = url.rstrip("/")


def live_behind(relay: str) -> None:
    """Have the server take its DHT part in the swarm as one that only this relay can make reachable."""
    server: Any = import_module("petals.server.server")
    server.check_direct_reachability = lambda **_: False
    server.DHT = partial(server.DHT, force_reachability="private", trusted_relays=[relay])


def take_adapters_from_folders() -> None:
    """Have the server load an adapter from the folder of its name, below where it was started."""
    peft: Any = import_module("petals.utils.peft")
    peft.check_peft_repository = lambda name: Path(name, peft.SAFETENSORS_WEIGHTS_NAME).is_file()


def initial_peers(arguments: list[str]) -> list[str]:
    """Return what stands after `--initial_peers`, up to the next option."""
    peers = []
    for argument in arguments[arguments.index("--initial_peers") + 1 :]:
        if argument.startswith("--"):
            break
        peers.append(argument)
    return peers


if __name__ == "__main__":
    restore_hivemind_names()
    if url := os.environ.get("REACHABILITY_API_URL"):
        use_reachability_api(url)
        # In place: `petals.server.server` and `petals.cli.run_server` hold the same list.
        import_module("petals.constants").PUBLIC_INITIAL_PEERS[:] = initial_peers(sys.argv)
    if relay := os.environ.get("TRUSTED_RELAY"):
        live_behind(relay)
    if "--adapters" in sys.argv:
        take_adapters_from_folders()
    runpy.run_module("petals.cli.run_server", run_name="__main__")
