"""Calls `fetch_health_state` as a script does that has torch and a hivemind.DHT of its own; prints JSON.

`python python_api.py hivemind|monitor SITE_PACKAGES INITIAL_PEER`: which of the two is imported first, where the
monitor's own dependencies lie, and the address of a bootstrap peer. It runs in the genuine server's environment.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    first, site_packages, address = sys.argv[1:]
    sys.path += [str(Path(__file__).resolve().parent.parent.parent), site_packages]
    packages = {"hivemind": "hivemind", "monitor": "crawler.health"}
    import_module(packages[first])
    hivemind, monitor = (import_module(name) for name in packages.values())
    dht = hivemind.DHT(initial_peers=[address], client_mode=True, start=True)
    try:
        state = monitor.fetch_health_state(dht)
    finally:
        dht.shutdown()
    one_peer_id = import_module("hivemind.p2p").PeerID is import_module("shared.p2p.hivemind").PeerID
    whole = hasattr(hivemind, "Optimizer") and hasattr(hivemind.dht, "DHTNode") and hasattr(hivemind.utils, "MPFuture")
    print(json.dumps({"state": state, "one_peer_id": one_peer_id, "whole": whole}))  # noqa: T201
