"""A bootstrap peer that relays, inside the genuine server's environment: `python relay.py /ip4/45.1.1.1/tcp/PORT`.

hivemind's own command-line node (`run_dht`) becomes a relay only after others found that it is public, which takes
minutes. This one is told so.
"""

from __future__ import annotations

import sys
import time
from importlib import import_module

if __name__ == "__main__":
    maddrs = [sys.argv[1]]
    dht = import_module("hivemind").DHT(
        start=True, host_maddrs=maddrs, announce_maddrs=maddrs, use_relay=True, force_reachability="public"
    )
    print(f"--initial_peers {dht.get_visible_maddrs()[0]}", flush=True)  # noqa: T201 - the tests read it
    while True:
        time.sleep(60)
