"""This module is the one place that imports hivemind, and imports no more of it than its DHT and p2pd client.

`import hivemind` loads torch, numpy and scipy for training: 2.3 s, 283 MB of memory, 754 MB on disk. The DHT node, the
p2pd client, the messages and the serializer need none of them; without them they load in 0.2 s and 38 MB. So the four
packages whose `__init__` asks for torch are entered in `sys.modules` with their `__init__` not yet run. It runs when
somebody asks such a package for a name that it defines: `import hivemind; hivemind.DHT(...)` works after this module
as before it, where torch is installed. Where the process has imported hivemind already, this module uses that.

What is imported here is all that the monitor uses, and `tests/shared/test_hivemind.py` names it once more.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from threading import RLock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

TESTED_VERSION = "1.1.12"

LAZY_PACKAGES: dict[str, dict[str, str]] = {
    "hivemind": {"PeerID": "hivemind.p2p"},  # petals.data_structures imports it from there; older versions had it
    "hivemind.dht": {},
    "hivemind.moe": {},
    "hivemind.utils": {
        "DHTExpiration": "hivemind.utils.timed_storage",
        "MAX_DHT_TIME_DISCREPANCY_SECONDS": "hivemind.utils.timed_storage",
        "MSGPackSerializer": "hivemind.utils.serializer",
        "SerializerBase": "hivemind.utils.serializer",
        "TimedStorage": "hivemind.utils.timed_storage",
        "ValueWithExpiration": "hivemind.utils.timed_storage",
        "get_dht_time": "hivemind.utils.timed_storage",
        "get_logger": "hivemind.utils.logging",
    },
}
"""Packages whose `__init__` loads torch, and where the names come from that light modules ask them for."""

_running_init = RLock()


def not_usable(package: str, tested: str, error: Exception) -> ImportError:
    """Return an error that says which version is installed, what is missing, and what to install."""
    from importlib import metadata  # noqa: PLC0415 - 30 ms, for the message alone

    try:
        found = f"{package} {metadata.version(package)} is installed, this program needs {tested}"
    except metadata.PackageNotFoundError:
        found = f"{package} is not installed"
    return ImportError(
        f"{found}: {error}. Install the packages of deploy/requirements, or: pip install --no-deps {package}=={tested}",
        name=package,
    )


def _enter_lazily(name: str) -> None:
    """Enter a package in `sys.modules` whose `__init__` runs when a name is asked for that only it can give."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    loader = spec.loader
    module = importlib.util.module_from_spec(spec)
    known = LAZY_PACKAGES[name]

    def get_attribute(attribute: str) -> Any:
        if (submodule := sys.modules.get(f"{name}.{attribute}")) is not None:
            return submodule  # it is being imported: the package gets it as an attribute when that is done
        if attribute in known:
            return getattr(importlib.import_module(known[attribute]), attribute)
        if attribute.startswith("__"):  # what import and inspection ask every module for
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        with _running_init:
            if vars(module).pop("__getattr__", None) is not None:
                try:
                    loader.exec_module(module)
                except BaseException:
                    vars(module)["__getattr__"] = get_attribute
                    raise
        return getattr(module, attribute)

    vars(module)["__getattr__"] = get_attribute
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


if "hivemind" not in sys.modules:
    try:
        for _name in LAZY_PACKAGES:
            _enter_lazily(_name)
    except ImportError as _error:
        raise not_usable("hivemind", TESTED_VERSION, _error) from _error

try:
    from hivemind.dht.node import DHTNode
    from hivemind.dht.routing import DHTID
    from hivemind.dht.storage import DHTLocalStorage, DictionaryDHTValue
    from hivemind.p2p import P2P, P2PContext, PeerID, ServicerBase
    from hivemind.p2p.p2p_daemon_bindings.control import P2PDaemonError, P2PHandlerError
    from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
    from hivemind.p2p.p2p_daemon_bindings.utils import ControlFailure, raise_if_failed, read_pbmsg_safe, write_pbmsg
    from hivemind.proto import dht_pb2, p2pd_pb2, runtime_pb2
    from hivemind.utils.serializer import MSGPackSerializer
    from hivemind.utils.timed_storage import TimedStorage, get_dht_time
except ImportError as _error:
    raise not_usable("hivemind", TESTED_VERSION, _error) from _error

__all__ = [
    "DHTID",
    "P2P",
    "ControlFailure",
    "DHTLocalStorage",
    "DHTNode",
    "DictionaryDHTValue",
    "MSGPackSerializer",
    "P2PContext",
    "P2PDaemonError",
    "P2PHandlerError",
    "PeerID",
    "ServicerBase",
    "StreamInfo",
    "TimedStorage",
    "dht_pb2",
    "get_dht_time",
    "p2pd_pb2",
    "raise_if_failed",
    "read_pbmsg_safe",
    "runtime_pb2",
    "write_pbmsg",
]


def hivemind_package() -> ModuleType:
    """Return the package itself, for `shared.p2p.petals`."""
    return sys.modules["hivemind"]
