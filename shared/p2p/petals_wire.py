"""The one door to petals: the classes that define its wire format, without the rest of it.

`import petals` loads the inference client (transformers, accelerate, …: +70 MB, 2 s, a root log handler), and
petals 2.2.0.post1 as a whole cannot be imported beside hivemind 1.1.12, which dropped top-level names that it
uses (hivemind PR 663). A monitor needs three light modules. They are loaded here while `petals` and
`petals.utils` stand in `sys.modules` as bare packages, so that their `__init__` does not run, and with the
dropped names put back. Both bare packages are taken out again: a later `import petals` behaves as ever.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType  # noqa: TC003 - in an annotation that is evaluated
from typing import Any

import hivemind
import hivemind.utils
from hivemind.p2p import PeerID, ServicerBase
from hivemind.proto import runtime_pb2  # noqa: TC002 - hivemind reads the annotations below
from hivemind.utils.timed_storage import get_dht_time

__all__ = [
    "MODEL_INDEX_KEY",
    "PUBLIC_INITIAL_PEERS",
    "ModelInfo",
    "PeerID",
    "ServerInfo",
    "ServerState",
    "TransformerConnectionHandler",
    "block_key",
    "load_petals_module",
]

MODEL_INDEX_KEY = "_petals.models"
"""DHT key of the announced models: subkey = DHT prefix, value = a `ModelInfo` as a dict."""

_DROPPED_FROM_HIVEMIND: tuple[tuple[ModuleType, str, Any], ...] = (
    (hivemind, "PeerID", PeerID),
    (hivemind.utils, "get_dht_time", get_dht_time),
)


def load_petals_module(name: str) -> Any:
    """Import `petals.<name>` (`data_structures`, `constants`, `utils.dht`) without running petals' `__init__`."""
    for module, attribute, value in _DROPPED_FROM_HIVEMIND:
        if not hasattr(module, attribute):
            setattr(module, attribute, value)
    added = [package for package in ("petals", "petals.utils") if _add_bare_package(package)]
    try:
        return importlib.import_module(f"petals.{name}")
    finally:
        for package in added:
            del sys.modules[package]


def _add_bare_package(name: str) -> bool:
    if name in sys.modules:
        return False
    parent, _, child = name.rpartition(".")
    if parent:
        locations = [f"{path}/{child}" for path in sys.modules[parent].__path__]
    else:
        found = importlib.util.find_spec(name)
        if found is None or found.submodule_search_locations is None:
            raise ModuleNotFoundError(f"{name} is not installed: pip install --no-deps petals==2.2.0.post1", name=name)
        locations = list(found.submodule_search_locations)
    spec = ModuleSpec(name, loader=None, is_package=True)
    spec.submodule_search_locations = locations
    sys.modules[name] = importlib.util.module_from_spec(spec)
    return True


_data_structures = load_petals_module("data_structures")
ModelInfo: Any = _data_structures.ModelInfo
ServerInfo: Any = _data_structures.ServerInfo
ServerState: Any = _data_structures.ServerState
PUBLIC_INITIAL_PEERS: list[str] = load_petals_module("constants").PUBLIC_INITIAL_PEERS


def block_key(dht_prefix: str, block: int) -> str:
    """Return the DHT key of one block: subkey = peer id in base58, value = `ServerInfo.to_tuple()`."""
    return f"{dht_prefix}.{block}"


class TransformerConnectionHandler(ServicerBase):  # type: ignore[misc]
    """The part of petals' server handler that a monitor calls; gives the client stub its protocol name."""

    async def rpc_info(
        self, request: runtime_pb2.ExpertUID, context: hivemind.p2p.P2PContext
    ) -> runtime_pb2.ExpertInfo:
        raise NotImplementedError("only real servers and the simulated ones of the demo answer this")
