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
from shared.p2p.waiting import true_within

if TYPE_CHECKING:
    from shared.reachability import DialOutcome

CHECKS_AT_ONCE = 2
LEAST_SESSION = 1.0
"""Seconds that a server gets at least: with less, one that computes slowly would seem not to compute."""
TOO_LATE = "no time was left for it: other inference checks, or the connection, took too long"


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
        if not await true_within(deadline - LEAST_SESSION - time.monotonic(), self._slots.acquire()):
            return _unknown(blocks, TOO_LATE)
        try:
            async with await ProberNode.open() as node:
                rules = AddressRules(self._dial_private, frozenset((node.peer_id,)))
                addresses = packed(reached.addresses)
                left = deadline - time.monotonic()
                async with connection(node, peer_id, addresses, rules, within=min(left, self._dial_timeout)):
                    return await self._computed(node, peer_id, asked.dht_prefix, blocks, deadline)
        except (NodeError, NotConnectedError) as error:
            return _unknown(blocks, str(error))
        finally:
            self._slots.release()

    async def _computed(
        self, node: ProberNode, peer_id: str, dht_prefix: str, blocks: tuple[int, int], deadline: float
    ) -> ServerInference:
        left = deadline - time.monotonic()
        if left < LEAST_SESSION:
            return _unknown(blocks, TOO_LATE)
        try:
            async with asyncio.timeout(left):
                return (await check_server(node, peer_id, dht_prefix, blocks))[0]
        except TimeoutError:
            return ServerInference(
                InferenceOutcome.TIMEOUT, blocks, time.time(), detail="no numbers within the time of a check"
            )


def _unknown(blocks: tuple[int, int], detail: str) -> ServerInference:
    return ServerInference(InferenceOutcome.UNKNOWN, blocks, time.time(), detail=detail[:MAX_DETAIL_CHARS])
