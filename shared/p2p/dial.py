"""Look at one peer, and say as data what was found."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

import msgspec
from google.protobuf.message import DecodeError
from hivemind.p2p.p2p_daemon_bindings.control import P2PDaemonError, P2PHandlerError
from hivemind.proto import runtime_pb2

from shared.p2p.dial_words import classify, clean
from shared.p2p.kad import SEARCH_WITHIN
from shared.p2p.petals_wire import PeerID, TransformerConnectionHandler
from shared.p2p.rpc_info import read_version
from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import Verdict
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.p2p.kad import Search
    from shared.p2p.node import Dialler, SwarmNode

KNOCK_TIMEOUT = 0.4
"""Seconds kept of a deadline to see, after a dial that hung, whether the port accepts at all."""
RPC_INFO_TIMEOUT = 2.0
"""Seconds that a peer which is already connected gets to say that it serves blocks."""


async def dial(
    guide: SwarmNode, dialler: Dialler, peer_id: str, *, deadline: float, must_serve: bool = False
) -> DialOutcome:
    """Find a peer, connect to it anew and ask what it serves: what a stranger on the Internet would find.

    The `guide` has joined the swarm and says where peers are; the `dialler` dials them there.

    `deadline` is in `time.monotonic()` seconds. Reachable means that the peer proved its identity on a new
    connection and, with `must_serve`, answered a call on it, were it "I lack this protocol". The connection
    stays open. Never raises for what the peer or the network does.
    """
    begun: dict[Stage, float] = {Stage.LOOKUP: time.monotonic()}
    outcome = await _dial(guide, dialler, peer_id, deadline=deadline, must_serve=must_serve, begun=begun)
    ends = [*list(begun.values())[1:], time.monotonic()]
    durations = {str(stage): end - start for (stage, start), end in zip(begun.items(), ends, strict=True)}
    return msgspec.structs.replace(outcome, durations=durations)


async def _dial(
    guide: SwarmNode, dialler: Dialler, peer_id: str, *, deadline: float, must_serve: bool, begun: dict[Stage, float]
) -> DialOutcome:
    """Do it, and note in `begun` when each stage began."""
    search = guide.search(peer_id)
    try:
        async with asyncio.timeout_at(_loop_time(deadline - KNOCK_TIMEOUT)):
            # An old connection would answer for a peer that is gone: the daemon notices only later.
            await dialler.disconnect(peer_id)
            failures = await _reach(dialler, peer_id, search, deadline, begun)
    except TimeoutError:
        return await _hung(guide, dialler, search)
    except (OSError, EOFError) as error:
        return _node_failed(error)
    if failures is not None:
        return classify(*failures) if failures else _not_located(guide, search)
    begun[Stage.PROTOCOL] = time.monotonic()

    served = await _ask(dialler, peer_id, min(deadline, time.monotonic() + RPC_INFO_TIMEOUT))
    if served is None or served.verdict is not Verdict.REACHABLE:
        # It proved who it is, but does not answer calls.
        if must_serve and served is None and dialler.is_alive:
            served = DialOutcome(Verdict.UNREACHABLE, Stage.PROTOCOL, Cause.TIMEOUT)
        elif must_serve:
            served = served or DialOutcome.unknown(Cause.NODE_UNFIT, stage=Stage.PROTOCOL)
        else:
            served = DialOutcome(Verdict.REACHABLE, Stage.PROTOCOL)
    rtt = begun[Stage.PROTOCOL] - begun[Stage.DIAL]
    return msgspec.structs.replace(served, rtt=rtt, addresses=tuple(search.addresses))


async def _reach(
    dialler: Dialler, peer_id: str, search: Search, deadline: float, begun: dict[Stage, float]
) -> list[str] | None:
    """Dial each address as soon as it is named, while the search goes on: what one node names may be a lie.

    Return None at the first connection, else, when the search is over and all dials have ended, why each failed.
    Raises `OSError` or `EOFError` where a daemon is gone.
    """
    dials: list[asyncio.Task[None]] = []

    def found(addresses: tuple[str, ...]) -> None:
        begun.setdefault(Stage.DIAL, time.monotonic())
        # p2pd dials a peer's further addresses beside those that it is dialling.
        dials.append(awaited(dialler.connect(peer_id, addresses)))

    patience = min(SEARCH_WITHIN, (deadline - time.monotonic()) / 2)
    searching = awaited(search.run(found, patience))
    try:
        while running := [task for task in (searching, *dials) if not task.done()]:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            if any(dial.done() and dial.exception() is None for dial in dials):
                return None
        searching.result()
        failures = [error for dial in dials if (error := dial.exception()) is not None]
        for error in failures:
            if not isinstance(error, P2PDaemonError):
                raise error
        return [str(error) for error in failures]
    finally:
        await end(searching, *dials)


async def _ask(node: Dialler, peer_id: str, deadline: float) -> DialOutcome | None:
    """Return what `rpc_info` came to, None where it hung."""
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


def _not_located(guide: SwarmNode, search: Search) -> DialOutcome:
    """No address: the peer's failure where the swarm's nodes said so, ours where they did not answer."""
    if search.withheld:
        # A host name may stand for a public address: nobody looked.
        if any(address.startswith("/dns") for address in search.withheld):
            return DialOutcome.unknown(Cause.NO_LOCAL_ROUTE, stage=Stage.LOOKUP)
        return DialOutcome(Verdict.UNREACHABLE, Stage.LOOKUP, Cause.NOT_DIALABLE, addresses=search.withheld)
    if not search.over or not guide.is_alive:
        return DialOutcome.unknown(Cause.LOOKUP_UNFINISHED, stage=Stage.LOOKUP)
    return DialOutcome(Verdict.UNREACHABLE, Stage.LOOKUP, Cause.NO_ADDRESS)


async def _hung(guide: SwarmNode, dialler: Dialler, search: Search) -> DialOutcome:
    """Tell a dial that hung, the peer's failure, from our own; and a silent port from a silent process."""
    if not (guide.is_alive and dialler.is_alive):
        return DialOutcome.unknown(Cause.NODE_UNFIT, stage=Stage.DIAL, error="p2pd has ended")
    if not search.over:
        # Others might have named another address.
        return DialOutcome.unknown(Cause.LOOKUP_UNFINISHED, stage=Stage.LOOKUP)
    if await _accepts_tcp(search.addresses):
        return DialOutcome(Verdict.UNREACHABLE, Stage.SECURITY, Cause.FROZEN, addresses=tuple(search.addresses))
    return DialOutcome(Verdict.UNREACHABLE, Stage.DIAL, Cause.TIMEOUT, addresses=tuple(search.addresses))


_DIRECT_TCP = re.compile(r"/ip[46]/(?P<host>[0-9a-fA-F.:]+)/tcp/(?P<port>\d+)")


async def _accepts_tcp(addresses: Iterable[str]) -> bool:
    """Whether any direct address accepts a TCP connection: the machine is there, the program is not."""
    places = filter(None, map(_DIRECT_TCP.fullmatch, addresses))
    return any(await asyncio.gather(*(_knock(place["host"], int(place["port"])) for place in places)))


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
