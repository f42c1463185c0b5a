"""This module observes the swarm: it reads the announcements, probes the servers, and returns an `Observation`.

Lookups and probes overlap: a server is probed as soon as its first record arrives.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Literal

import msgspec

from crawler.observe.announcements import AnnouncementReader
from crawler.observe.model_index import reached
from crawler.observe.observation import Observation, SwarmUnavailableError
from crawler.observe.probes import ProbeQueue
from crawler.observe.record_reader import RecordReader
from shared import tracing
from shared.advice.causes import explanation
from shared.p2p.connect import ProberNode
from shared.p2p.daemon import NodeError
from shared.p2p.dht_node import DHTClientNode
from shared.p2p.hivemind import P2PDaemonError
from shared.p2p.multiaddr import from_text, to_text
from shared.p2p.probe import probe
from shared.p2p.waiting import any_true
from shared.snapshot import BootstrapPeer, CrawlProgress, Verdict
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from crawler.observe.observation import ObservedModel
    from crawler.settings import CrawlerSettings
    from shared.reachability import DialOutcome
    from shared.snapshot import Snapshot

MAX_CRAWL_SECONDS = 300.0
"""A crawl that takes longer is given up: something hangs that its own deadlines do not cover."""
EARLY_AFTER = 1.5
"""Seconds that each probe gets before `early` is called: enough for servers that answer. Where a silent DHT node delays
the last lookup, most probes have had them by its end."""
LOOKUPS_WITHIN = 40.0
"""Seconds from a crawl's start. Keys that there is no time left for count as unanswered."""
PROBES_WITHIN = 60.0
"""Seconds from a crawl's start. Servers that there is no time left for stay unknown."""
PROGRESS_EVERY = 0.5
"""Seconds between two reports of how far a first crawl has come."""
MAX_CLOCK_AHEAD = 20.0
"""Seconds. By a clock that is ahead records seem expired, so that servers would seem to have left."""


async def observe(
    settings: CrawlerSettings,
    dht_node: DHTClientNode,
    last: Snapshot | None = None,
    *,
    early: Callable[[Observation], Awaitable[None]] | None = None,
    progress: Callable[[CrawlProgress], Awaitable[None]] | None = None,
) -> Observation:
    """Observe the swarm once. Servers that the `last` snapshot reached are probed first.

    `early` is given an observation while slow probes or bootstrap peers still have time to answer, `progress` how far
    the crawl has come.
    Raises `SwarmUnavailableError`, `NodeError`.
    """
    began = time.monotonic()
    try:
        # A fresh prober node for each crawl: a daemon remembers failed dials for up to five minutes, and would go on
        # calling a server unreachable that came back meanwhile.
        async with (
            asyncio.timeout(MAX_CRAWL_SECONDS),
            await ProberNode.open() as prober_node,
            prober_node.lateness,
        ):
            crawl = Crawl(dht_node, prober_node, settings, last=last, early=early, began=began)
            reporting = None if progress is None else awaited(_report(crawl, progress))
            try:
                return await crawl.run()
            finally:
                await end(reporting)
    except TimeoutError:
        raise SwarmUnavailableError(f"the crawl did not end within {MAX_CRAWL_SECONDS:g} s") from None


async def _report(crawl: Crawl, progress: Callable[[CrawlProgress], Awaitable[None]]) -> None:
    """Call `progress` each time that it has changed, until cancelled."""
    reported = None
    while True:
        if (now := crawl.progress()) != reported:
            await progress(now)
            reported = now
        await asyncio.sleep(PROGRESS_EVERY)


class Observer:
    """Observes with a DHT node that is kept from crawl to crawl, and replaced after a crawl that failed."""

    def __init__(self, settings: CrawlerSettings) -> None:
        self._settings = settings
        self._dht_node: DHTClientNode | None = None

    async def observe(
        self,
        last: Snapshot | None = None,
        *,
        early: Callable[[Observation], Awaitable[None]] | None = None,
        progress: Callable[[CrawlProgress], Awaitable[None]] | None = None,
    ) -> Observation:
        """Observe the swarm once, as the function `observe`. Raises `SwarmUnavailableError`, `NodeError`."""
        try:
            if self._dht_node is None:
                self._dht_node = await DHTClientNode.open(self._settings.dial_private_addresses)
            return await observe(self._settings, self._dht_node, last, early=early, progress=progress)
        except BaseException:
            await self.close()  # the node itself may be what failed
            raise

    async def close(self) -> None:
        """Close the node; the next observation opens another."""
        dht_node, self._dht_node = self._dht_node, None
        if dht_node is not None:
            await dht_node.close()


class Crawl:
    """One pass over the swarm: `await Crawl(...).run()`, once.

    `dht_node` may have joined before, and is kept from crawl to crawl; `prober_node` must be fresh.
    """

    def __init__(
        self,
        dht_node: DHTClientNode,
        prober_node: ProberNode,
        settings: CrawlerSettings,
        *,
        last: Snapshot | None,
        early: Callable[[Observation], Awaitable[None]] | None,
        began: float,
    ) -> None:
        """`began` is monotonic seconds."""
        self._phase_began = time.monotonic()
        self._began = began
        self._dht_node = dht_node
        self._prober_node = prober_node
        self._settings = settings
        self._bootstrap_peers = settings.bootstrap_peers
        self._early = early
        self._probes = ProbeQueue(
            self._probe,
            timeout=settings.dial_timeout,
            until=self._began + PROBES_WITHIN,
            late=prober_node.lateness.now,
        )
        self._records = RecordReader(reached(last))
        self._announcements = AnnouncementReader(
            dht_node, self._records, self._probes, settings, last=last, until=self._began + LOOKUPS_WITHIN
        )
        self._doing: Literal["joining", "reading", "dialling"] = "joining"
        self._phases: dict[str, float] = {}

    async def run(self) -> Observation:
        """Return what was observed. Raises `SwarmUnavailableError` where nothing can be said about the swarm."""
        self._dht_node.refused_subkeys.clear()
        self._dht_node.kademlia.refused_addresses.clear()
        joining = awaited(self._dht_node.join(self._bootstrap_peers, self._settings.dial_timeout))
        probing = None
        try:
            await self._joined(joining)
            self._ended("join")
            self._doing = "reading"
            observed = await self._announcements.read()
            self._ended("look_up")
            self._doing = "dialling"
            probing = awaited(self._probes.finish())
            if self._early is not None:
                await self._probes.settled(EARLY_AFTER)
                if len(self._probes.outcomes) < self._probes.added or not joining.done():
                    joined = joining.result() if joining.done() else dict.fromkeys(self._dht_node.joined)
                    await self._early(await self._observation(self._joined_peers(joined), observed))
            await probing
            self._ended("dial")
            bootstrap = self._joined_peers(await joining)
        finally:
            await end(joining, probing)
            await self._announcements.close()
            await self._probes.close()
        return await self._observation(bootstrap, observed)

    def progress(self) -> CrawlProgress:
        """Return how far this crawl has come."""
        return CrawlProgress(
            self._doing, len(self._announcements.servers), len(self._probes.outcomes), self._probes.added
        )

    async def _observation(
        self, bootstrap: tuple[BootstrapPeer, ...], observed: Sequence[ObservedModel]
    ) -> Observation:
        """Return what is known now. Raises `SwarmUnavailableError`, `NodeError` where not the swarm is at fault."""
        read = self._announcements
        if read.unanswered_keys and not (read.answered_keys or read.servers):
            raise SwarmUnavailableError("no node of the swarm answered a lookup", self._with_accounts(bootstrap))
        dials = dict(self._probes.outcomes)
        if any(outcome.verdict is not Verdict.REACHABLE for outcome in dials.values()):
            await self._check_ourselves(bootstrap)
            self._ended("self_check")
        return Observation(
            bootstrap_peers=bootstrap,
            models=tuple(observed),
            dials=dials,
            addresses=await self._addresses(),
            versions=self._prober_node.versions,
            refused=self._records.refusals(self._dht_node.refused_subkeys),
            unanswered_keys=self._announcements.unanswered_keys,
            crawler_peer_id=self._dht_node.peer_id,
            phases=dict(self._phases),
            answered_keys=self._announcements.answered_keys,
            undialled=self._probes.added - len(dials),
            refused_addresses=dict(self._dht_node.kademlia.refused_addresses),
            private_swarm=self._settings.private_swarm,
            ended_at=time.time(),
            duration=time.monotonic() - self._began,
        )

    def _ended(self, phase: str) -> None:
        now = time.monotonic()
        self._phases[phase], self._phase_began = now - self._phase_began, now
        tracing.current().stages({phase: self._phases[phase]})

    async def _joined(self, joining: asyncio.Task[dict[str, DialOutcome | None]]) -> None:
        """Return as soon as one bootstrap peer has answered, without waiting for silent ones."""
        first = awaited(self._dht_node.has_joined.wait())
        try:
            await asyncio.wait({joining, first}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(first)
        if joining.done() and all(joining.result().values()):
            raise SwarmUnavailableError("no bootstrap peer answered", self._joined_peers(joining.result()))
        if (ahead := await self._dht_node.clock_ahead()) > MAX_CLOCK_AHEAD:
            raise SwarmUnavailableError(
                f"this machine's clock is {ahead:.0f} s ahead of the bootstrap peers'",
                self._joined_peers(await joining),
            )

    def _joined_peers(self, failures: Mapping[str, DialOutcome | None]) -> tuple[BootstrapPeer, ...]:
        """Return the bootstrap peers, given how each one failed (None where it answered)."""
        return tuple(
            BootstrapPeer(
                peer_id,
                tuple(self._bootstrap_peers[peer_id]),
                Verdict.REACHABLE if failure is None else failure.verdict,
                explanation(failure) if failure else None,
            )
            for peer_id, failure in failures.items()
        )

    def _with_accounts(self, bootstrap: tuple[BootstrapPeer, ...]) -> tuple[BootstrapPeer, ...]:
        """Return the bootstrap peers; the `error` of one that answered says which lookups it left unanswered."""
        return tuple(
            peer if peer.error else msgspec.structs.replace(peer, error=self._dht_node.account(peer.peer_id))
            for peer in bootstrap
        )

    async def _addresses(self) -> dict[str, tuple[str, ...]]:
        """Return `{peer id: multiaddrs}` of open connections, and of circuits, which are closed, from the probes.

        Raises `NodeError`.
        """
        try:
            connections = await self._prober_node.connections()
        except (P2PDaemonError, OSError, EOFError) as error:
            raise NodeError(f"p2pd ended during the crawl: {error}") from error
        found = {peer_id: tuple(map(to_text, addresses)) for peer_id, addresses in connections.items()}
        circuits = {peer_id: outcome.addresses for peer_id, outcome in self._probes.outcomes.items() if outcome.relayed}
        return found | circuits

    async def _check_ourselves(self, bootstrap: tuple[BootstrapPeer, ...]) -> None:
        """Check that this crawler's nodes still reach a bootstrap peer: otherwise every failure may be their own."""
        alive = [peer for peer in bootstrap if peer.verdict is Verdict.REACHABLE]
        dht_answers, dials_work = await asyncio.gather(
            self._dht_node.reaches_swarm(),
            any_true(self._prober_node.reaches(peer.peer_id, map(from_text, peer.addresses)) for peer in alive),
        )
        if not dht_answers or not dials_work:
            raise SwarmUnavailableError("the crawler's own node lost the swarm during the crawl", bootstrap)

    async def _probe(self, peer_id: str) -> DialOutcome:
        deadline = time.monotonic() + self._settings.dial_timeout
        return await probe(self._dht_node, self._prober_node, peer_id, deadline=deadline, must_serve=True)
