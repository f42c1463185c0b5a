"""This module probes one peer, and returns what was found as a `DialOutcome`."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from google.protobuf.message import DecodeError

from shared.p2p.address_search import SEARCH_WITHIN
from shared.p2p.addresses import host_and_port
from shared.p2p.connect import PeerDials
from shared.p2p.dial_errors import MAX_ADDRESSES, classify, clean, outcome_of
from shared.p2p.hivemind import P2PDaemonError, P2PHandlerError, runtime_pb2
from shared.p2p.lateness import when_late
from shared.p2p.multiaddr import is_circuit, relay_of, to_text
from shared.p2p.petals import PeerID, TransformerConnectionHandler
from shared.p2p.rpc_info import read_version
from shared.p2p.waiting import any_true
from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import Verdict
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shared.p2p.address_search import Search
    from shared.p2p.connect import ProberNode
    from shared.p2p.dht_node import DHTClientNode

KNOCK_TIMEOUT = 0.4
"""Seconds of a deadline that are kept to test, after a dial that timed out, whether the port accepts connections."""
LEAST_TIME = 1.0
"""Seconds: a dial or a call that hung for less when the deadline came proves nothing. One lost packet takes as long."""
LIST_TIMEOUT = 1.0
RPC_INFO_TIMEOUT = 2.0
"""Seconds that a connected peer gets to answer `rpc_info`."""


async def probe(
    dht_node: DHTClientNode,
    prober_node: ProberNode,
    peer_id: str,
    *,
    deadline: float,
    must_serve: bool = False,
    at: bytes | None = None,
    on_stage: Callable[[Stage], None] = lambda _: None,
) -> DialOutcome:
    """Find a peer's addresses, connect to it anew, and call its `rpc_info`, as any client on the Internet would.

    The `dht_node` has joined the swarm and searches the addresses; the `prober_node` dials them. Where an address is
    given as `at`, it is dialled instead of what the swarm knows, and the peer proves its id there and is asked nothing.
    The `prober_node` must know no other address of the peer then, for it would dial that too.

    `deadline` is in `time.monotonic()` seconds. Reachable means that the peer proved its identity on a new
    connection and, with `must_serve`, answered a call on it, even with "protocol not supported". A direct connection
    stays open, one through a relay is closed. `on_stage` is called with each stage as it begins. Never raises for what
    the peer or the network does.
    """
    begun: dict[Stage, float] = {Stage.LOOKUP: time.monotonic()}
    on_stage(Stage.LOOKUP)
    search = dht_node.search(peer_id, dialled_from=prober_node.peer_id, at=at)
    async with (
        dht_node.lateness,
        dht_node.network,
        prober_node.lateness,
        PeerDials(prober_node, peer_id, search.rules, on_begin=partial(on_stage, Stage.DIAL)) as dials,
    ):
        outcome = await _probe(
            dht_node,
            prober_node,
            search,
            dials,
            deadline=deadline,
            must_serve=must_serve,
            handshake_only=at is not None,
            begun=begun,
            on_stage=on_stage,
        )
        # What was held up in the first half of a stage had the second half to end: TCP sends lost packets again.
        half = (max(begun.values()) + time.monotonic()) / 2
        late = any(own.since(half) for own in (dht_node.lateness, dht_node.network, prober_node.lateness))
    if late or search.missed:
        outcome = when_late(outcome, certain=search.missed)
    if outcome.verdict is Verdict.UNREACHABLE and dht_node.shares_address(search.addresses):
        # Our router may not let us in from inside, where it lets others in from outside.
        outcome = msgspec.structs.replace(outcome, verdict=Verdict.UNKNOWN, cause=Cause.SAME_NETWORK)
    ends = [*list(begun.values())[1:], time.monotonic()]
    durations = {str(stage): end - start for (stage, start), end in zip(begun.items(), ends, strict=True)}
    return msgspec.structs.replace(outcome, durations=durations)


async def _probe(
    dht_node: DHTClientNode,
    prober_node: ProberNode,
    search: Search,
    dials: PeerDials,
    *,
    deadline: float,
    must_serve: bool,
    handshake_only: bool,
    begun: dict[Stage, float],
    on_stage: Callable[[Stage], None],
) -> DialOutcome:
    """Probe, and write into `begun` when each stage began (monotonic seconds)."""
    peer_id = search.peer_id
    try:
        async with asyncio.timeout_at(_loop_time(deadline - KNOCK_TIMEOUT)):
            # The daemon keeps connections to peers that are gone for some time: only a new one proves anything.
            await prober_node.disconnect(peer_id)
            await _reach(search, dials, deadline)
    except TimeoutError:
        return await _hung(dht_node, prober_node, search, dials)
    except (OSError, EOFError) as error:
        return _node_failed(error)
    finally:
        if dials.begun_at is not None:
            begun[Stage.DIAL] = dials.begun_at
    if not dials.connected.is_set():
        if dials.failures and search.over:
            failed = outcome_of(dials.failures)
            return msgspec.structs.replace(failed, addresses=failed.addresses or known_addresses(search))
        return _node_failed(dials.error) if dials.error is not None else _not_located(dht_node, search)
    begun[Stage.PROTOCOL] = time.monotonic()
    on_stage(Stage.PROTOCOL)

    served = None
    if not handshake_only:
        until = min(deadline, time.monotonic() + RPC_INFO_TIMEOUT)
        served = await _ask(prober_node, peer_id, until)
        if served is not None and served.verdict is not Verdict.REACHABLE:
            # The connection ended meanwhile: it may have led over a relay whose own probe has just begun anew.
            served = await _ask(prober_node, peer_id, until)
    if must_serve:
        served = served or _unserved(prober_node, begun[Stage.PROTOCOL])
    elif served is None or served.verdict is not Verdict.REACHABLE:
        # It proved who it is, but does not answer calls.
        served = DialOutcome(Verdict.REACHABLE, Stage.PROTOCOL)
    rtt = begun[Stage.PROTOCOL] - begun[Stage.DIAL]
    served = msgspec.structs.replace(served, rtt=rtt, addresses=known_addresses(search))
    return (
        await with_open_connections(prober_node, peer_id, served)
        if dials.relays_asked
        else _with_connections(served, ())
    )


def _unserved(prober_node: ProberNode, asked_at: float) -> DialOutcome:
    """Return the outcome of a call that timed out, made at `asked_at` (monotonic seconds)."""
    if not prober_node.is_alive:
        return DialOutcome.unknown(Cause.NODE_UNFIT, stage=Stage.PROTOCOL)
    if time.monotonic() - asked_at < LEAST_TIME:
        return DialOutcome.unknown(Cause.NO_SLOT, stage=Stage.PROTOCOL)
    return DialOutcome(Verdict.UNREACHABLE, Stage.PROTOCOL, Cause.TIMEOUT)


async def _reach(search: Search, dials: PeerDials, deadline: float) -> None:
    """Dial each address as soon as a node names it, while the search goes on: one node's answer may be false.

    Returns at the first connection, else when the search is over and all dials have failed. Raises `OSError` or
    `EOFError` where a daemon is gone.
    """

    async def try_all() -> None:
        await search.run(dials.add, min(SEARCH_WITHIN, (deadline - time.monotonic()) / 2))
        await dials.ended()

    trying = awaited(try_all())
    connected = awaited(dials.connected.wait())
    try:
        await asyncio.wait({trying, connected}, return_when=asyncio.FIRST_COMPLETED)
        if trying.done():
            trying.result()
    finally:
        await end(trying, connected)


async def with_open_connections(prober_node: ProberNode, peer_id: str, outcome: DialOutcome) -> DialOutcome:
    """Add which connection the peer was reached over, while it is still open."""
    try:
        async with asyncio.timeout(LIST_TIMEOUT):
            return _with_connections(outcome, await prober_node.connections_to(peer_id))
    except (TimeoutError, P2PDaemonError, OSError, EOFError):
        return outcome


def _with_connections(outcome: DialOutcome, connections: Iterable[bytes]) -> DialOutcome:
    """Add the addresses of the peer's open connections to a reached peer's outcome: a direct one counts first.

    Where none is known, no relay was used: the connection is direct.
    """
    if outcome.verdict is not Verdict.REACHABLE:
        return outcome
    used = sorted(connections, key=is_circuit)
    if not used:
        return msgspec.structs.replace(outcome, relayed=False)
    addresses = tuple(map(to_text, used))
    relay = relay_of(used[0])
    return msgspec.structs.replace(
        outcome,
        addresses=addresses,
        known=outcome.addresses,
        reached_at=addresses[0],
        relayed=relay is not None,
        relay=relay,
    )


async def _ask(node: ProberNode, peer_id: str, deadline: float) -> DialOutcome | None:
    """Return the outcome of an `rpc_info` call, None where it timed out."""
    started = time.monotonic()
    stub = TransformerConnectionHandler.get_stub(node.p2p, PeerID.from_base58(peer_id))
    try:
        async with asyncio.timeout_at(_loop_time(deadline)):
            answer = await stub.rpc_info(runtime_pb2.ExpertUID())
    except TimeoutError:
        return None
    except P2PDaemonError as error:
        return classify(str(error))
    except (OSError, EOFError) as error:
        return _node_failed(error)
    except (P2PHandlerError, DecodeError) as error:
        # It answered, if not well: a live peer.
        return DialOutcome(
            Verdict.REACHABLE, Stage.ANSWERED, Cause.HANDLER_FAILED, clean(str(error)), protocol_ok=False
        )
    if version := read_version(answer.serialized_info):
        node.versions[peer_id] = version
    return DialOutcome(Verdict.REACHABLE, Stage.ANSWERED, rtt=time.monotonic() - started, protocol_ok=True)


def _not_located(dht_node: DHTClientNode, search: Search) -> DialOutcome:
    """Return the outcome without an address: unreachable where nodes know none, unknown where they are silent."""
    if not search.over or not dht_node.is_alive:
        return DialOutcome.unknown(Cause.LOOKUP_UNFINISHED, stage=Stage.LOOKUP)
    if search.withheld:
        return DialOutcome(Verdict.UNREACHABLE, Stage.LOOKUP, Cause.NOT_DIALABLE, addresses=known_addresses(search))
    return DialOutcome(Verdict.UNREACHABLE, Stage.LOOKUP, Cause.NO_ADDRESS)


async def _hung(dht_node: DHTClientNode, prober_node: ProberNode, search: Search, dials: PeerDials) -> DialOutcome:
    """Return the outcome of a dial that timed out: our own failure, a silent port, or a silent process."""
    if not (dht_node.is_alive and prober_node.is_alive):
        return DialOutcome.unknown(Cause.NODE_UNFIT, stage=Stage.DIAL, error="p2pd has ended")
    if (untried := _untried(search, dials)) is not None:
        return untried
    addresses = known_addresses(search)
    failed = outcome_of(dials.failures) if dials.failures else None
    if failed is not None and (failed.verdict is Verdict.UNKNOWN or failed.relay is not None):
        # An address that could not be dialled, or a relay's error, is more specific than a dial that timed out.
        return msgspec.structs.replace(failed, addresses=failed.addresses or addresses)
    relay = next(iter(dials.relays_asked), None)
    if relay is not None:
        cause = Cause.RELAY_AWAY if dials.relays_dialling else Cause.SILENT_BEHIND_RELAY
        return DialOutcome(Verdict.UNREACHABLE, Stage.DIAL, cause, addresses=addresses, relay=relay)
    accepts = await _accepts_tcp(search.addresses)
    stage, cause = (Stage.SECURITY, Cause.FROZEN) if accepts else (Stage.DIAL, Cause.TIMEOUT)
    return DialOutcome(Verdict.UNREACHABLE, stage, cause, addresses=addresses)


def _untried(search: Search, dials: PeerDials) -> DialOutcome | None:
    """Return the outcome of a dial that timed out before all addresses were known, and dialled for long enough."""
    if not search.over:
        return DialOutcome.unknown(Cause.LOOKUP_UNFINISHED, stage=Stage.LOOKUP)
    if dials.names_resolving:
        return DialOutcome.unknown(Cause.NAME_NOT_RESOLVED, stage=Stage.DIAL)
    if dials.relays_waited_for or time.monotonic() - dials.last_begun_at < LEAST_TIME:
        return DialOutcome.unknown(Cause.NO_SLOT, stage=Stage.DIAL)
    return None


def known_addresses(search: Search) -> tuple[str, ...]:
    """Return what the swarm knows of the peer's addresses, as text: those that were dialled first."""
    return tuple(map(to_text, (*search.addresses, *search.withheld)))[:MAX_ADDRESSES]


async def _accepts_tcp(addresses: Iterable[bytes]) -> bool:
    """Whether any direct address accepts a TCP connection: the machine is there, the program is not."""
    places = filter(None, map(host_and_port, addresses))
    return await any_true(_knock(*place) for place in places)


async def _knock(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(KNOCK_TIMEOUT):
            _, writer = await asyncio.open_connection(host, port)
    except (TimeoutError, OSError):
        return False
    writer.close()
    return True


def _node_failed(error: Exception) -> DialOutcome:
    return DialOutcome.unknown(Cause.NODE_UNFIT, stage=Stage.DIAL, error=clean(f"p2pd: {error!r}"))


def _loop_time(deadline: float) -> float:
    """Turn monotonic seconds into the running loop's."""
    return asyncio.get_running_loop().time() + deadline - time.monotonic()
