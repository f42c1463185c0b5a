"""A program: a server that runs where it is started, by a clock that its environment gives it (libfaketime).

It prints its peer id; then, for each number of seconds that it reads, it announces itself for so long and prints it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from hivemind.dht.node import DHTNode
from hivemind.p2p import P2P

from deploy.simulated_server import Announcement, Model, TransformerConnectionHandler
from tests.internet.peers import START_TIMEOUT, announce, listen


async def main() -> None:
    settings = json.loads(sys.argv[1])
    p2p = await P2P.create(settings["bootstrap"], host_maddrs=listen(), startup_timeout=START_TIMEOUT)
    # hivemind refuses to start by a wrong clock; a clock may go wrong later.
    node = await DHTNode.create(p2p=p2p, initial_peers=settings["bootstrap"], ensure_bootstrap_success=False)
    await TransformerConnectionHandler().add_p2p_handlers(p2p)
    print(node.peer_id, flush=True)
    model = Model(settings["model"], settings["num_blocks"])
    while lifetime := await asyncio.to_thread(sys.stdin.readline):
        announcement = Announcement(model, settings["block"], settings["block"] + 1)
        await announce(node, announcement, time.time() + float(lifetime))
        print(lifetime.strip(), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
