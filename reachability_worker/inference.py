"""This module asks a peer that was reached to compute: one inference check on demand, over a daemon of its own."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from shared.inference import MAX_DETAIL_CHARS, InferenceOutcome, InferenceRequest, ServerInference
from shared.p2p.addresses import AddressRules
from shared.p2p.connect import NotConnectedError, ProberNode, connection
from shared.p2p.daemon import NodeError
from shared.p2p.inference import check_server
from shared.p2p.multiaddr import packed

if TYPE_CHECKING:
    from shared.reachability import DialOutcome

CHECKS_AT_ONCE = 2


class InferenceChecker:
    """Checks servers, `CHECKS_AT_ONCE` at a time."""

    def __init__(self, *, dial_private: bool, dial_timeout: float) -> None:
        self._dial_private = dial_private
        self._dial_timeout = dial_timeout
        self._slots = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def infer(
        self, peer_id: str, reached: DialOutcome, asked: InferenceRequest, deadline: float
    ) -> ServerInference:
        """Take two tokens through blocks of a peer at the addresses that it was `reached` at. Never raises for it."""
        blocks = (asked.start, asked.end)
        try:
            async with asyncio.timeout(deadline - time.monotonic()), self._slots, await ProberNode.open() as node:
                rules = AddressRules(self._dial_private, frozenset((node.peer_id,)))
                addresses = packed(reached.addresses)
                async with connection(node, peer_id, addresses, rules, within=self._dial_timeout):
                    finding, _ = await check_server(node, peer_id, asked.dht_prefix, blocks)
                return finding
        except TimeoutError:
            return ServerInference(
                InferenceOutcome.TIMEOUT, blocks, time.time(), detail="no numbers within the time of a check"
            )
        except (NodeError, NotConnectedError) as error:
            return ServerInference(InferenceOutcome.UNKNOWN, blocks, time.time(), detail=str(error)[:MAX_DETAIL_CHARS])
