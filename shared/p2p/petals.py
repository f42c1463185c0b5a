"""This module is the one place that reads petals: the classes that define its wire format, without the rest of it.

`import petals` loads the inference client (torch, transformers, accelerate, …: 300 MB, 4 s, a root log handler), and
petals 2.2.0.post1 as a whole cannot be imported beside hivemind 1.1.12, which dropped top-level names that it
uses (hivemind PR 663). A monitor needs one light module, `petals.data_structures`, and one list of addresses. The
module is loaded while `petals` stands in `sys.modules` as a bare package, so that its `__init__` does not run. The bare
package is taken out again: a later `import petals` behaves as ever. The list stands in `petals.constants`, which
imports torch for another table; so it is read from that file's text, which runs none of it.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any, AsyncIterator  # noqa: UP035 - hivemind knows this one by its name

from shared.p2p.hivemind import P2PContext, PeerID, ServicerBase, hivemind_package, not_usable, runtime_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

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

TESTED_VERSION = "2.2.0.post1"

MODEL_INDEX_KEY = "_petals.models"
"""DHT key of the announced models: subkey = DHT prefix, value = a `ModelInfo` as a dict."""


def load_petals_module(name: str) -> Any:
    """Import `petals.<name>` without running petals' `__init__`. Raises `ImportError` that says what to install."""
    with _bare_package("petals"), _bare_package("petals.utils"), _peer_id_at_the_top():
        return importlib.import_module(f"petals.{name}")


@contextmanager
def _bare_package(name: str) -> Iterator[None]:
    """Have a package in `sys.modules` whose `__init__` does not run, where it is not imported already."""
    if name in sys.modules:
        yield
        return
    spec = ModuleSpec(name, loader=None, is_package=True)
    spec.submodule_search_locations = [str(_installed_at().joinpath(*name.split(".")[1:]))]
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def _peer_id_at_the_top() -> Iterator[None]:
    """Have `hivemind.PeerID`, which a hivemind that the process imported in full does not have."""
    hivemind = hivemind_package()
    if hasattr(hivemind, "PeerID"):
        yield
        return
    vars(hivemind)["PeerID"] = PeerID
    try:
        yield
    finally:
        del vars(hivemind)["PeerID"]


def _installed_at() -> Path:
    found = importlib.util.find_spec("petals")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'petals'", name="petals")
    return Path(found.submodule_search_locations[0])


def _constant(name: str) -> Any:
    """Return the literal that `petals/constants.py` assigns to a name. Raises `ImportError` where there is none."""
    path = _installed_at() / "constants.py"
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and any(ast.unparse(target) == name for target in statement.targets):
            return ast.literal_eval(statement.value)
    raise ImportError(f"{path} assigns no {name}", name="petals.constants")


try:
    _data_structures = load_petals_module("data_structures")
    ModelInfo: Any = _data_structures.ModelInfo
    ServerInfo: Any = _data_structures.ServerInfo
    ServerState: Any = _data_structures.ServerState
    PUBLIC_INITIAL_PEERS: list[str] = _constant("PUBLIC_INITIAL_PEERS")
except (ImportError, AttributeError, OSError, SyntaxError, ValueError) as _error:
    raise not_usable("petals", TESTED_VERSION, _error) from _error


def block_key(dht_prefix: str, block: int) -> str:
    """Return the DHT key of one block: subkey = peer id in base58, value = `ServerInfo.to_tuple()`."""
    return f"{dht_prefix}.{block}"


class TransformerConnectionHandler(ServicerBase):  # type: ignore[misc]  # hivemind has no types
    """The part of petals' server handler that a monitor calls; gives the client stub its protocol name."""

    async def rpc_info(self, request: runtime_pb2.ExpertUID, context: P2PContext) -> runtime_pb2.ExpertInfo:
        raise NotImplementedError("only real servers and the simulated ones of the demo answer this")

    async def rpc_inference(
        self, requests: AsyncIterator[runtime_pb2.ExpertRequest], context: P2PContext
    ) -> AsyncIterator[runtime_pb2.ExpertResponse]:
        raise NotImplementedError("only real servers and the simulated ones of the demo answer this")
        yield
