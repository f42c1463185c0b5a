"""Observe the swarm: who announces what, and who answers. Facts only; `crawler.judge` judges them.

Look-ups and dials overlap: a server is dialled as soon as its first record arrives.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from crawler.observe.blocks import BlockReader, spread
from crawler.observe.model_index import first_that_fit, fit_early, reached, served_before, served_first, standing
from crawler.observe.overload import Strain
from crawler.observe.probes import DialQueue
from crawler.observe.record_reader import RecordReader
from crawler.observe.records import RefusedError, ServerRecord, check_block, clean_text, read_model
from shared import tracing
from shared.p2p.dial_errors import classify
from shared.p2p.multiaddr import from_text, to_text
from shared.p2p.petals import MODEL_INDEX_KEY, block_key
from shared.p2p.probe import probe
from shared.p2p.waiting import any_true
from shared.reachability import Cause, DialOutcome
from shared.snapshot import BootstrapPeer, CrawlProgress, PeerState, Refusals, Snapshot, Verdict
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from crawler.models import Model
    from crawler.observe.blocks import Place
    from shared.p2p.connect import ProberNode
    from shared.p2p.dht_node import DHTClientNode
    from shared.p2p.raw_values import SubkeyValues

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
SILENT = frozenset({Cause.TIMEOUT, Cause.FROZEN, Cause.RELAY_AWAY, Cause.SILENT_BEHIND_RELAY})
"""Causes that may be our own fault where this machine cannot keep up."""
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
    refused_addresses: Mapping[str, int] = field(default_factory=dict)
    """Addresses of servers that were not dialled, by reason."""


@dataclass(slots=True)
class Crawl:
    """One pass over the swarm. Use once: `await Crawl(...).run()`.

    `dht_node` is a node that may have joined before and is kept from crawl to crawl; `prober_node` must be fresh.
    """

    dht_node: DHTClientNode
    prober_node: ProberNode
    bootstrap_peers: Mapping[str, list[str]]
    official_models: tuple[Model, ...]
    private_swarm: bool
    dial_timeout: float = 5.0
    lookup_timeout: float = 10.0
    last: Snapshot | None = None
    """What the crawl before saw: who was reached then goes first now."""
    early: Callable[[Observation], Awaitable[None]] | None = None
    """Given what is known soon after the look-ups, where dials are still under way: who is not dialled is undialled."""
    _refused: Counter[str] = field(default_factory=Counter)
    _examples: dict[str, str] = field(default_factory=dict)
    _observing: list[asyncio.Task[Any]] = field(default_factory=list)
    _early: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Servers of each model that were named before their block was read whole."""
    _announced_servers: set[str] = field(default_factory=set)
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
        self._blocks = BlockReader(self.dht_node, self.lookup_timeout, self._began + LOOK_UPS_WITHIN)
        self._records = RecordReader(self._known)
        self._strain = Strain(self.prober_node.identify)
        self._dials = DialQueue(
            self._dial, longest=self.dial_timeout, until=self._began + DIALS_WITHIN, busy=self._strain.now
        )

    async def run(self) -> Observation:
        """Raises `SwarmUnavailableError` where nothing can be said about the swarm."""
        self.dht_node.refused_subkeys.clear()
        self.dht_node.kademlia.refused_addresses.clear()
        joining = awaited(self.dht_node.join(self.bootstrap_peers, self.dial_timeout))
        watching = awaited(self._strain.watch())
        dialling = None
        try:
            await self._joined(joining)
            self._ended("join")
            self._doing = "reading"
            observed = await self._observe_models()
            self._ended("look_up")
            self._doing = "dialling"
            dialling = awaited(self._dials.finish())
            if self.early is not None and not (await asyncio.wait({dialling}, timeout=EARLY_AFTER))[0]:
                joined = joining.result() if joining.done() else dict.fromkeys(self.dht_node.joined)
                await self.early(await self._observation(self._bootstrap_peers(joined), observed))
            await dialling
            self._ended("dial")
            bootstrap = self._bootstrap_peers(await joining)
        finally:
            await end(joining, watching, dialling, *self._observing)
            await self._blocks.close()
            await self._dials.close()
        return await self._observation(bootstrap, observed)

    async def _observation(
        self, bootstrap: tuple[BootstrapPeer, ...], observed: Sequence[ObservedModel]
    ) -> Observation:
        """Return what is known now. Raises `SwarmUnavailableError` where it would be about us, not about the swarm."""
        if self._unanswered and not self._answered:
            raise SwarmUnavailableError("no node of the swarm answered a look-up", self._with_accounts(bootstrap))
        dials = dict(self._dials.outcomes)
        if any(outcome.verdict is not Verdict.REACHABLE for outcome in dials.values()):
            await self._check_ourselves(bootstrap)
            self._ended("self_check")
        return Observation(
            bootstrap_peers=bootstrap,
            models=tuple(observed),
            dials=dials,
            addresses=await self._addresses(),
            versions=self.prober_node.versions,
            refused=Refusals(dict((self._refused + self.dht_node.refused_subkeys).most_common()), dict(self._examples)),
            unanswered_keys=self._unanswered,
            crawler_peer_id=self.dht_node.peer_id,
            phases=dict(self._phases),
            answered_keys=self._answered,
            undialled=self._dials.added - len(dials),
            refused_addresses=dict(self.dht_node.kademlia.refused_addresses),
        )

    def progress(self) -> CrawlProgress:
        """Return how far this crawl has come."""
        return CrawlProgress(self._doing, len(self._announced_servers), len(self._dials.outcomes), self._dials.added)

    def _ended(self, phase: str) -> None:
        now = time.monotonic()
        self._phases[phase], self._phase_began = now - self._phase_began, now
        tracing.current().stages({phase: self._phases[phase]})

    async def _joined(self, joining: asyncio.Task[dict[str, str | None]]) -> None:
        """Go on as soon as one bootstrap peer has answered: a silent one does not hold the crawl up."""
        first = awaited(self.dht_node.has_joined.wait())
        try:
            await asyncio.wait({joining, first}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(first)
        if joining.done() and all(error is not None for error in joining.result().values()):
            raise SwarmUnavailableError("no bootstrap peer answered", self._bootstrap_peers(joining.result()))
        if (ahead := await self.dht_node.clock_ahead()) > MAX_CLOCK_AHEAD:
            raise SwarmUnavailableError(
                f"this machine's clock is {ahead:.0f} s ahead of the bootstrap peers'",
                self._bootstrap_peers(await joining),
            )

    def _bootstrap_peers(self, errors: Mapping[str, str | None]) -> tuple[BootstrapPeer, ...]:
        return tuple(
            BootstrapPeer(
                peer_id,
                tuple(self.bootstrap_peers[peer_id]),
                Verdict.REACHABLE if error is None else Verdict.UNREACHABLE,
                None if error is None else classify(error).explanation,
            )
            for peer_id, error in errors.items()
        )

    def _with_accounts(self, bootstrap: tuple[BootstrapPeer, ...]) -> tuple[BootstrapPeer, ...]:
        """Say of each bootstrap peer that was joined what it left open."""
        return tuple(
            peer if peer.error else msgspec.structs.replace(peer, error=self.dht_node.account(peer.peer_id))
            for peer in bootstrap
        )

    async def _addresses(self) -> dict[str, tuple[str, ...]]:
        """Return where each reached server was reached; a circuit is closed by now, and known from its dial."""
        found = {
            peer_id: tuple(map(to_text, open_)) for peer_id, open_ in (await self.prober_node.connections()).items()
        }
        circuits = {peer_id: one.addresses for peer_id, one in self._dials.outcomes.items() if one.relayed}
        return found | circuits

    async def _check_ourselves(self, bootstrap: tuple[BootstrapPeer, ...]) -> None:
        """A node that went deaf midway found silence everywhere: that would be about us, not about the swarm."""
        alive = [peer for peer in bootstrap if peer.verdict is Verdict.REACHABLE]
        heard, reached = await asyncio.gather(
            self.dht_node.hears(),
            any_true(self.prober_node.reaches(peer.peer_id, map(from_text, peer.addresses)) for peer in alive),
        )
        if not heard or not reached:
            raise SwarmUnavailableError("the crawler's own node lost the swarm during the crawl", bootstrap)

    async def _observe_models(self) -> list[ObservedModel]:
        """Look at the official models and at as many of the announced ones as there is room for, in this order.

        Those that the first nodes name are looked at while other nodes are still silent.
        """
        official = self._begin(self.official_models)
        first, indexing = await self._first_named()
        found = [self._begin(first)]
        announced = await self._announced_models(await indexing)
        before = {model.dht_prefix for model in served_before(self.last)}
        left = [model for model in announced if model not in first]
        known = first_that_fit([model for model in left if model.dht_prefix in before], beside=first)
        found.append(self._begin(known))
        chosen = [*first, *known]
        others = [model for model in left if model.dht_prefix not in before]
        if len(more := first_that_fit(others, beside=chosen)) < len(others):
            more = first_that_fit(await served_first(others, self._blocks.served), beside=chosen)
        seen = {model.dht_prefix for model in (*chosen, *more)}
        for model in announced:
            if model.dht_prefix not in seen:
                self._refuse("too_many_models", model.dht_prefix)
        found.append(self._begin(more))
        observed = [model for one in found for model in await one]
        return [*await official, *sorted(observed, key=lambda one: standing(one.model))]

    async def _first_named(self) -> tuple[list[Model], asyncio.Task[dict[str, SubkeyValues | None]]]:
        """Return the models that the first node names, and the look-up of the index, which goes on.

        A flood waits until the whole index is known, so that it cannot take the room of the others.
        """
        early: dict[str, Model] = {}
        named = asyncio.Event()

        def take(_: str, values: SubkeyValues) -> None:
            early.update((model.dht_prefix, model) for model in self._announced(values, early=True))
            named.set()

        indexing = awaited(self.dht_node.look_up([MODEL_INDEX_KEY], self.lookup_timeout, take))
        waiting = awaited(named.wait())
        self._observing += (indexing, waiting)
        await asyncio.wait({indexing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        models = sorted(early.values(), key=standing)
        return (models if fit_early(models) else []), indexing

    def _begin(self, models: Sequence[Model]) -> asyncio.Task[list[ObservedModel]]:
        task = awaited(self._observe(models))
        self._observing.append(task)
        return task

    async def _announced_models(self, found: Mapping[str, SubkeyValues | None]) -> list[Model]:
        """Read the model index; official models are known already."""
        index = found.get(MODEL_INDEX_KEY)
        if index is None and (MODEL_INDEX_KEY not in found or self.dht_node.silent_nodes):
            # Nodes that are silent may hold it: a swarm is not empty for that.
            self._unanswered += 1
            return served_before(self.last)
        self._answered += 1
        announced: list[Model] = []
        entries = iter((index or {}).items())
        while some := dict(islice(entries, ENTRIES_A_TURN)):
            announced += self._announced(some)
            await asyncio.sleep(0)
        return sorted(announced, key=standing)

    def _announced(self, values: SubkeyValues, *, early: bool = False) -> Iterator[Model]:
        """Return the sound entries of a model index; the others are counted, once: not where they are read `early`."""
        official = {model.dht_prefix for model in self.official_models}
        for prefix, packed in islice(values.items(), ENTRIES_A_TURN if early else None):
            if prefix in official:
                continue
            try:
                yield read_model(prefix, packed, private_swarm=self.private_swarm)
            except RefusedError as error:
                if not early:
                    self._refuse(str(error), f"{MODEL_INDEX_KEY}/{prefix}")

    async def _observe(self, models: Sequence[Model]) -> list[ObservedModel]:
        """Read all blocks of these models, spread over them, so that most servers are known, and dialled, early."""
        observed = {model.dht_prefix: ObservedModel(model, {}) for model in models}
        async for found, missing in self._blocks.read(spread(models), self._take_early):
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
        self._announced_servers.add(peer_id)
        if record.state is PeerState.ONLINE:
            self._dials.add(peer_id, known=peer_id in self._known, turn=len(announcements))

    def _take_early(self, place: Place, values: SubkeyValues) -> None:
        """Dial whom the first node names under a block, while others that may know more are still silent."""
        for subkey, packed in islice(values.items(), ENTRIES_A_TURN):
            try:
                peer_id, record = self._records.read(place.dht_prefix, subkey, packed)
                check_block(record, place.block)
            except RefusedError:
                continue  # counted when the block is read
            if record.state is PeerState.ONLINE:
                turns = self._early[place.dht_prefix]
                turns.add(peer_id)
                self._dials.add(peer_id, known=peer_id in self._known, turn=len(turns))

    async def _dial(self, peer_id: str) -> DialOutcome:
        began = time.monotonic()
        outcome = await probe(
            self.dht_node, self.prober_node, peer_id, deadline=began + self.dial_timeout, must_serve=True
        )
        if outcome.cause in SILENT and self._strain.since(began):
            return DialOutcome.unknown(Cause.NODE_UNFIT, stage=outcome.stage, error="the crawler was too busy to hear")
        return outcome

    def _refuse(self, reason: str, where: str) -> None:
        self._refused[reason] += 1
        if reason not in self._examples and len(self._examples) < MAX_EXAMPLES:
            self._examples[reason] = clean_text(where, MAX_EXAMPLE_CHARS)
