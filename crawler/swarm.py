"""Observe the swarm: who announces what, and who answers. Facts only; `crawler.report` judges them.

Look-ups and dials overlap: a server is dialled as soon as its first record arrives.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from crawler.blocks import BlockReader, spread
from crawler.dial_queue import DialQueue
from crawler.model_index import first_that_fit, reached, served_before, served_first, standing
from crawler.reading import RecordReader
from crawler.records import RefusedError, ServerRecord, check_block, clean_text, read_model
from crawler.redial import SILENT, RedialSchedule, Silence
from crawler.strain import Strain
from shared import tracing
from shared.p2p.dial import dial
from shared.p2p.dial_words import classify
from shared.p2p.node import any_true
from shared.p2p.petals_wire import MODEL_INDEX_KEY, block_key
from shared.reachability import Cause, DialOutcome
from shared.snapshot import BootstrapPeer, CrawlProgress, PeerState, Refusals, Snapshot, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from crawler.models import Model
    from shared.p2p.node import Dialler, SwarmNode

EARLY_AFTER = 1.5
"""Seconds after the look-ups that dials get before `early` is called: time for live servers, not for silent ones."""
LOOK_UPS_WITHIN = 40.0
"""Seconds from a crawl's start. Keys that no time is left for did not answer."""
DIALS_WITHIN = 60.0
"""Seconds from a crawl's start. Servers that no time is left for stay unknown."""
MAX_CLOCK_AHEAD = 20.0
"""Seconds. By a clock that is ahead, records look expired: servers, then all of them, would seem to have left."""
ENTRIES_A_TURN = 100
"""Entries of one answer that are read before the dials in flight get their turn."""
MAX_EXAMPLES = 10
MAX_EXAMPLE_CHARS = 200


class SwarmUnavailableError(Exception):
    """The crawl saw nothing that it could believe. The message is for a reader of the page."""

    def __init__(self, message: str, bootstrap_peers: tuple[BootstrapPeer, ...] = ()) -> None:
        super().__init__(message)
        self.bootstrap_peers = bootstrap_peers


@dataclass(frozen=True, slots=True)
class ObservedModel:
    """A model and who announces its blocks: `{peer_id: {block: record}}`, all validated."""

    model: Model
    announcements: dict[str, dict[int, ServerRecord]]


@dataclass(frozen=True, slots=True)
class Observation:
    """What one crawl saw."""

    bootstrap_peers: tuple[BootstrapPeer, ...]
    models: tuple[ObservedModel, ...]
    dials: Mapping[str, DialOutcome]
    addresses: Mapping[str, tuple[str, ...]]
    """Remote multiaddrs of the connections that the crawl ended with."""
    refused: Refusals
    unanswered_keys: int
    """DHT keys that did not answer in time: their blocks may have servers that nobody could see."""
    crawler_peer_id: str
    phases: Mapping[str, float] = field(default_factory=dict)
    """Seconds that each phase of the crawl took: join, look_up, dial (what was left of it then), self_check."""
    answered_keys: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    """Petals versions of the servers that answered, by their own word."""
    undialled: int = 0
    """Servers that say they are online and that there was no time to dial."""
    paused: Mapping[str, Silence] = field(default_factory=dict)
    """Servers that were silent in earlier crawls and not dialled in this one: what still stands of them."""

    def outcome(self, peer_id: str) -> DialOutcome | None:
        """Return the latest dial's outcome; None where nobody dialled."""
        if (dial := self.dials.get(peer_id)) is not None:
            return dial
        silence = self.paused.get(peer_id)
        return None if silence is None else silence.outcome


@dataclass(slots=True)
class Crawl:
    """One pass over the swarm. Use once: `await Crawl(...).run()`.

    `guide` is a node that may have joined before and is kept from crawl to crawl; `dialler` must be fresh.
    """

    guide: SwarmNode
    dialler: Dialler
    bootstrap_peers: Mapping[str, list[str]]
    official_models: tuple[Model, ...]
    private_swarm: bool
    dial_timeout: float = 5.0
    lookup_timeout: float = 10.0
    last: Snapshot | None = None
    """What the crawl before saw: who was reached then goes first now."""
    redial: RedialSchedule = field(default_factory=RedialSchedule)
    """Whom not to dial yet. Learns from a crawl that ran to its end."""
    early: Callable[[Observation], Awaitable[None]] | None = None
    """Given what is known soon after the look-ups, where dials are still under way: who is not dialled is undialled."""
    _refused: Counter[str] = field(default_factory=Counter)
    _examples: dict[str, str] = field(default_factory=dict)
    _paused: dict[str, Silence] = field(default_factory=dict)
    _announced: set[str] = field(default_factory=set)
    _doing: Literal["joining", "reading", "dialling"] = "joining"
    _unanswered: int = 0
    _answered: int = 0
    _phases: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)
    _phase_began: float = field(init=False)
    _known: frozenset[str] = field(init=False)
    _blocks: BlockReader = field(init=False)
    _records: RecordReader = field(init=False)
    _dials: DialQueue = field(init=False)
    _strain: Strain = field(init=False)

    def __post_init__(self) -> None:
        self._phase_began = self._began
        self._known = reached(self.last)
        self._blocks = BlockReader(self.guide, self.lookup_timeout, self._began + LOOK_UPS_WITHIN)
        self._records = RecordReader(self._known)
        self._strain = Strain(self.dialler.identify)
        self._dials = DialQueue(
            self._dial, longest=self.dial_timeout, until=self._began + DIALS_WITHIN, busy=self._strain.now
        )

    async def run(self) -> Observation:
        """Raises `SwarmUnavailableError` where nothing can be said about the swarm."""
        self.guide.refused_subkeys.clear()
        bootstrap = await self._join()
        if (ahead := await self.guide.clock_ahead()) > MAX_CLOCK_AHEAD:
            raise SwarmUnavailableError(
                f"this machine's clock is {ahead:.0f} s ahead of the bootstrap peers'", bootstrap
            )
        self._ended("join")
        self._doing = "reading"
        watching = asyncio.create_task(self._strain.watch())
        try:
            observed = await self._observe_models()
            self._ended("look_up")
            self._doing = "dialling"
            dialling = asyncio.create_task(self._dials.finish())
            if self.early is not None and not (await asyncio.wait({dialling}, timeout=EARLY_AFTER))[0]:
                await self.early(await self._observation(bootstrap, observed))
            await dialling
            self._ended("dial")
        finally:
            watching.cancel()
            self._dials.cancel()
        observation = await self._observation(bootstrap, observed)
        self.redial.learn(self._dials.outcomes, self._paused)
        return observation

    async def _observation(
        self, bootstrap: tuple[BootstrapPeer, ...], observed: Sequence[ObservedModel]
    ) -> Observation:
        """Return what is known now. Raises `SwarmUnavailableError` where it would be about us, not about the swarm."""
        if self._unanswered and not self._answered:
            raise SwarmUnavailableError("no node of the swarm answered a look-up", bootstrap)
        dials = dict(self._dials.outcomes)
        if any(outcome.verdict is not Verdict.REACHABLE for outcome in dials.values()):
            await self._check_ourselves(bootstrap)
            self._ended("self_check")
        return Observation(
            bootstrap_peers=bootstrap,
            models=tuple(observed),
            dials=dials,
            addresses=await self.dialler.connections(),
            versions=self.dialler.versions,
            refused=Refusals(dict((self._refused + self.guide.refused_subkeys).most_common()), dict(self._examples)),
            unanswered_keys=self._unanswered,
            crawler_peer_id=self.guide.peer_id,
            phases=dict(self._phases),
            answered_keys=self._answered,
            undialled=self._dials.added - len(dials),
            paused=self._paused,
        )

    def progress(self) -> CrawlProgress:
        """Return how far this crawl has come."""
        return CrawlProgress(self._doing, len(self._announced), len(self._dials.outcomes), self._dials.added)

    def _ended(self, phase: str) -> None:
        now = time.monotonic()
        self._phases[phase], self._phase_began = now - self._phase_began, now
        tracing.current().stages({phase: self._phases[phase]})

    async def _join(self) -> tuple[BootstrapPeer, ...]:
        errors = await self.guide.join(self.bootstrap_peers, self.dial_timeout)
        peers = tuple(
            BootstrapPeer(
                peer_id,
                tuple(self.bootstrap_peers[peer_id]),
                Verdict.REACHABLE if error is None else Verdict.UNREACHABLE,
                None if error is None else classify(error).explanation,
            )
            for peer_id, error in errors.items()
        )
        if all(peer.verdict is Verdict.UNREACHABLE for peer in peers):
            raise SwarmUnavailableError("no bootstrap peer answered", peers)
        return peers

    async def _check_ourselves(self, bootstrap: tuple[BootstrapPeer, ...]) -> None:
        """A node that went deaf midway found silence everywhere: that would be about us, not about the swarm."""
        alive = [peer for peer in bootstrap if peer.verdict is Verdict.REACHABLE]
        heard, reached = await asyncio.gather(
            self.guide.hears(),
            any_true(self.dialler.reaches(peer.peer_id, peer.addresses) for peer in alive),
        )
        if not heard or not reached:
            raise SwarmUnavailableError("the crawler's own node lost the swarm during the crawl", bootstrap)

    async def _observe_models(self) -> list[ObservedModel]:
        """Look at the official models and at as many of the announced ones as there is room for, in this order."""
        official = asyncio.create_task(self._observe(self.official_models))
        announced = await self._announced_models()
        before = {model.dht_prefix for model in served_before(self.last)}
        chosen = first_that_fit([model for model in announced if model.dht_prefix in before])
        first = asyncio.create_task(self._observe(chosen))
        others = [model for model in announced if model.dht_prefix not in before]
        if len(more := first_that_fit(others, beside=chosen)) < len(others):
            more = first_that_fit(await served_first(others, self._blocks.served), beside=chosen)
        seen = {model.dht_prefix for model in (*chosen, *more)}
        for model in announced:
            if model.dht_prefix not in seen:
                self._refuse("too_many_models", model.dht_prefix)
        found = [*await first, *await self._observe(more)]
        return [*await official, *sorted(found, key=lambda one: standing(one.model))]

    async def _announced_models(self) -> list[Model]:
        """Read the model index; official models are known already."""
        found = await self.guide.look_up([MODEL_INDEX_KEY], self.lookup_timeout)
        self._answered += len(found)
        if MODEL_INDEX_KEY not in found:
            self._unanswered += 1
            return served_before(self.last)
        official = {model.dht_prefix for model in self.official_models}
        announced = []
        for number, (prefix, packed) in enumerate((found[MODEL_INDEX_KEY] or {}).items()):
            if number % ENTRIES_A_TURN == 0:
                await asyncio.sleep(0)
            if prefix in official:
                continue
            try:
                announced.append(read_model(prefix, packed, private_swarm=self.private_swarm))
            except RefusedError as error:
                self._refuse(str(error), f"{MODEL_INDEX_KEY}/{prefix}")
        return sorted(announced, key=standing)

    async def _observe(self, models: Sequence[Model]) -> list[ObservedModel]:
        """Read all blocks of these models, spread over them, so that most servers are known, and dialled, early."""
        observed = {model.dht_prefix: ObservedModel(model, {}) for model in models}
        async for found, missing in self._blocks.read(spread(models)):
            self._answered += len(found)
            self._unanswered += missing
            for place, values in found.items():
                for number, (subkey, packed) in enumerate(values.items()):
                    if number % ENTRIES_A_TURN == 0:
                        await asyncio.sleep(0)
                    self._take(observed[place.dht_prefix], place.block, subkey, packed)
        return list(observed.values())

    def _take(self, observed: ObservedModel, block: int, subkey: str, packed: bytes) -> None:
        dht_prefix, announcements = observed.model.dht_prefix, observed.announcements
        try:
            peer_id, record = self._records.read(dht_prefix, subkey, packed)
            check_block(record, block)
        except RefusedError as error:
            self._refuse(str(error), f"{block_key(dht_prefix, block)}/{subkey}")
            return
        announcements.setdefault(peer_id, {})[block] = record
        self._announced.add(peer_id)
        if record.state is not PeerState.ONLINE:
            return
        if peer_id in self._paused:
            return
        if (silence := self.redial.paused(peer_id)) is not None:
            self._paused[peer_id] = silence
        else:
            self._dials.add(peer_id, known=peer_id in self._known, turn=len(announcements))

    async def _dial(self, peer_id: str) -> DialOutcome:
        began = time.monotonic()
        outcome = await dial(self.guide, self.dialler, peer_id, deadline=began + self.dial_timeout, must_serve=True)
        if outcome.cause in SILENT and self._strain.since(began):
            return DialOutcome.unknown(Cause.NODE_UNFIT, stage=outcome.stage, error="the crawler was too busy to hear")
        return outcome

    def _refuse(self, reason: str, where: str) -> None:
        self._refused[reason] += 1
        if reason not in self._examples and len(self._examples) < MAX_EXAMPLES:
            self._examples[reason] = clean_text(where, MAX_EXAMPLE_CHARS)
