"""A program: a server that runs where it is started, by a clock that its environment gives it (libfaketime).

It prints its peer id; then, for each number of seconds that it reads, it announces itself for so long and prints it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from deploy.demo.simulated_inference import Computation, handler
from deploy.demo.simulated_server import Announcement, Model
from shared.p2p.hivemind import DHTNode
from tests.internet.peers import START_TIMEOUT, BoxedP2P, announce, listen


async def main() -> None:
    settings = json.loads(sys.argv[1])
    p2p = await BoxedP2P.create(settings["bootstrap"], host_maddrs=listen(), startup_timeout=START_TIMEOUT)
    # hivemind refuses to start by a wrong clock; a clock may go wrong later.
    node = await DHTNode.create(p2p=p2p, initial_peers=settings["bootstrap"], ensure_bootstrap_success=False)
    model, block = Model(**settings["model"]), settings["block"]
    await handler(model.dht_prefix, block, block + 1, Computation()).add_p2p_handlers(p2p)
    _say(str(node.peer_id))
    while lifetime := await asyncio.to_thread(sys.stdin.readline):
        announcement = Announcement(model, block, block + 1)
        await announce(node, str(node.peer_id), announcement, time.time() + float(lifetime))
        _say(lifetime.strip())


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
