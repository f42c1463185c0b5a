"""This module connects to one peer at all of its addresses: directly, by a host name, through a relay.

Direct addresses are dialled first, a relay when these have failed or have had `DIRECT_FIRST` seconds. The relay is
dialled as a peer of its own, so that "the relay is away" differs from "the peer is away", at each address that any node
names for it; then one circuit through it is requested. A relay grants 16 circuits to one client (p2pd's default),
so few are open at a time.

A circuit is what libp2p calls a connection through a relay:
https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Self

import base58

from shared.p2p.addresses import AddressRules, Kind
from shared.p2p.daemon import Daemon, start_p2pd
from shared.p2p.dial_errors import Failure, was_cut_short
from shared.p2p.hivemind import P2PDaemonError
from shared.p2p.multiaddr import circuit_through, components, split_circuit
from shared.p2p.names import NotResolvedError, resolve
from shared.reachability import Cause
from shared.tasks import awaited, end, shared

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable
    from pathlib import Path

    from shared.p2p.hivemind import P2P

DIRECT_FIRST = 0.5
"""Seconds that direct dials get before a relay is dialled."""
CIRCUITS_AT_ONCE = 8
"""Circuits through one relay that are open at a time."""
RELAY_CHECK_TIMEOUT = 1.0
"""Seconds that a relay which is already connected gets to show that it is there."""


class ProberNode(Daemon):
    """A daemon that dials only the addresses that it is given.

    It runs no DHT: that would dial peers by itself, which leaves "dial backoff" on peers that no probe has dialled, and
    would search for other addresses after each failure, without a limit of time.
    """

    def __init__(self, p2p: P2P) -> None:
        super().__init__(p2p)
        self.relays = Relays(self)
        self.versions: dict[str, str] = {}
        """Petals version that each peer reported in `rpc_info` to this daemon, by peer id."""

    @classmethod
    async def open(cls, identity: Path | None = None) -> Self:
        """Start a daemon; takes about 0.2 s. `identity` is a file that keeps its peer id. Raises `NodeError`."""
        return cls(await start_p2pd("none", identity))


class Relays:
    """The relays that one daemon uses."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._pings: dict[str, asyncio.Task[bool]] = {}
        self._circuits: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(CIRCUITS_AT_ONCE))

    def slot(self, relay: str) -> asyncio.Semaphore:
        """Return what bounds the open circuits through this relay."""
        return self._circuits[relay]

    async def connect(self, relay: str, addresses: Collection[bytes]) -> None:
        """Hold a connection to a relay that answers. Raises as `Daemon.connect`.

        Probes that need the same relay at the same time each dial it at the addresses that they know, for those that
        another peer names may be wrong. p2pd holds one connection for all of them.
        """
        await dial(self._daemon, relay, addresses)
        ping = self._pings.get(relay)
        if ping is None:
            ping = self._pings[relay] = shared(self._answers(relay))
            ping.add_done_callback(lambda _: self._pings.pop(relay, None))
        if not await asyncio.shield(ping):
            await dial(self._daemon, relay, addresses)

    async def _answers(self, relay: str) -> bool:
        """Whether the relay answers a ping; closes an old connection to one that is gone, or frozen."""
        answers = await self._daemon.pings(relay, RELAY_CHECK_TIMEOUT)
        if not answers:
            with suppress(OSError, EOFError):
                await self._daemon.disconnect(relay)
        return answers


async def dial(daemon: Daemon, peer_id: str, addresses: Collection[bytes]) -> None:
    """Dial a peer, and once more where the first dial was cut short. Raises as `Daemon.connect`."""
    try:
        await daemon.connect(peer_id, addresses)
    except P2PDaemonError as error:
        if not was_cut_short(str(error)):
            raise
        await daemon.connect(peer_id, addresses)


class PeerDials:
    """The dials of one peer, which begin as its addresses become known. Use as an asynchronous context manager."""

    def __init__(
        self, prober_node: ProberNode, peer_id: str, rules: AddressRules, on_begin: Callable[[], None] = lambda: None
    ) -> None:
        """`on_begin` is called when the first dial begins."""
        self.connected = asyncio.Event()
        self.failures: list[Failure] = []
        self.error: Exception | None = None
        """A failure of our own daemon."""
        self.begun_at: float | None = None
        """When the first dial began, in monotonic seconds."""
        self.last_begun_at = -math.inf
        """The same of the last one, also of a relay or through one."""
        self.names_resolving: set[bytes] = set()
        self.relays_asked: set[str] = set()
        self.relays_dialling: set[str] = set()
        """Relays that have neither answered nor failed."""
        self.relays_waited_for: set[str] = set()
        """Relays with `CIRCUITS_AT_ONCE` circuits open: this peer's waits for one of them to end."""
        self._prober_node = prober_node
        self._peer_id = peer_id
        self._rules = rules
        self._on_begin = on_begin
        self._direct: set[asyncio.Task[None]] = set()
        self._all: set[asyncio.Task[None]] = set()
        self._relays_reached: set[str] = set()
        self._slots: list[asyncio.Semaphore] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await end(*self._all)
            if self._slots:
                # Gives the circuit back to the relay.
                with suppress(P2PDaemonError, OSError, EOFError):
                    await self._prober_node.disconnect(self._peer_id)
        finally:  # also where this is cancelled
            for slot in self._slots:
                slot.release()

    def add(self, addresses: Iterable[bytes]) -> None:
        """Dial these addresses too. Those that the rules deny are left out."""
        if self.begun_at is None:
            self.begun_at = time.monotonic()
            self._on_begin()
        kinds: dict[Kind, list[bytes]] = {}
        for address in addresses:
            kinds.setdefault(self._rules.kind(self._peer_id, address), []).append(address)
        for name in kinds.get(Kind.NAME, ()):
            self._begin(self._resolve_and_connect(name), direct=True)
        if direct := kinds.get(Kind.DIRECT):
            # p2pd dials a peer's further addresses beside those that it is dialling.
            self._begin(self._connect(direct), direct=True)
        self._add_circuits(kinds.get(Kind.CIRCUIT, ()))

    def _add_circuits(self, addresses: Iterable[bytes]) -> None:
        named: defaultdict[str, list[bytes]] = defaultdict(list)
        for circuit in filter(None, (split_circuit(components(address)) for address in addresses)):
            named[circuit.relay].append(circuit.relay_address)
        for relay, at in named.items():
            if relay not in self._relays_reached:
                self._begin(self._connect_through(relay, at), direct=False)

    async def ended(self) -> None:
        """Wait until every dial begun so far has succeeded or failed."""
        while running := [task for task in self._all if not task.done()]:
            await asyncio.wait(running)

    def _begin(self, dialling: Coroutine[object, object, None], *, direct: bool) -> None:
        task = awaited(dialling)
        self._all.add(task)
        if direct:
            self._direct.add(task)

    async def _connect(self, addresses: Collection[bytes], relay: str | None = None) -> None:
        self.last_begun_at = time.monotonic()
        try:
            await dial(self._prober_node, self._peer_id, addresses)
        except P2PDaemonError as error:
            self.failures.append(Failure(str(error), relay))
        except (OSError, EOFError) as error:
            self.error = error
        else:
            self.connected.set()

    async def _resolve_and_connect(self, address: bytes) -> None:
        self.names_resolving.add(address)
        try:
            found = await resolve(address, base58.b58decode(self._peer_id))
        except NotResolvedError as error:
            self.failures.append(Failure(f"no address for the name {error}", cause=Cause.NAME_NOT_RESOLVED))
            return
        finally:
            self.names_resolving.discard(address)
        allowed = [one for one in found if self._rules.kind(self._peer_id, one) is Kind.DIRECT]
        if allowed:
            await self._connect(allowed)
        else:
            self.failures.append(Failure("the name stands for a private address", cause=Cause.NOT_DIALABLE))

    async def _connect_through(self, relay: str, at: Collection[bytes]) -> None:
        if direct := [task for task in self._direct if not task.done()]:
            await asyncio.wait(direct, timeout=DIRECT_FIRST)
        self.relays_asked.add(relay)
        relays = self._prober_node.relays
        self.relays_dialling.add(relay)
        self.last_begun_at = time.monotonic()
        try:
            await relays.connect(relay, at)
        except P2PDaemonError as error:
            self.relays_dialling.discard(relay)
            if relay not in self._relays_reached:
                self.failures.append(Failure(str(error), relay, relay_away=True))
            return
        except (OSError, EOFError) as error:
            self.error = error
            return
        self.relays_dialling.discard(relay)
        if relay in self._relays_reached:
            return  # at another address: one circuit is enough
        self._relays_reached.add(relay)
        self.failures = [one for one in self.failures if not (one.relay_away and one.relay == relay)]
        slot = relays.slot(relay)
        self.relays_waited_for.add(relay)
        await slot.acquire()
        self.relays_waited_for.discard(relay)
        self._slots.append(slot)
        await self._connect((circuit_through(relay),), relay)


class NotConnectedError(Exception):
    """No connection to the peer could be made from here, for whatever reason."""


@asynccontextmanager
async def connection(
    prober_node: ProberNode, peer_id: str, addresses: Iterable[bytes], rules: AddressRules, *, within: float
) -> AsyncIterator[None]:
    """Hold a connection to a peer at known addresses for the block, and close it. Raises `NotConnectedError`.

    Nothing else may use this daemon's connections to the peer meanwhile: all of them are closed at the end.
    """
    async with PeerDials(prober_node, peer_id, rules) as dials:
        dials.add(addresses)
        ended, connected = awaited(dials.ended()), awaited(dials.connected.wait())
        try:
            await asyncio.wait({ended, connected}, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(ended, connected)
        if not dials.connected.is_set():
            words = [failure.words for failure in dials.failures] or [repr(dials.error) if dials.error else "no answer"]
            raise NotConnectedError(words[0])
        try:
            yield
        finally:
            with suppress(P2PDaemonError, OSError, EOFError):
                await prober_node.disconnect(peer_id)
