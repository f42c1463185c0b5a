"""This module decides when an incident opens and ends: pure steps from crawl to crawl over a state kept in Redis.

An incident opens when two crawls in a row find a model broken, and is dated to the first of them; it ends likewise. A
crawl that could not judge the model (it failed, or too many DHT keys did not answer) counts for neither. Only a model
that was healthy before, or an official one that has servers, can have an incident.

A model whose blocks all have servers counts as broken, too, when two chains of inference in a row gave no token.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated

import msgspec

from shared.incidents import MAX_UNUSABLE_CHARS, Fate, Incident, LostBlocks, LostServer, Outcome, checked
from shared.judgement.coverage import coverage
from shared.judgement.usability import gives_tokens
from shared.snapshot import MAX_BLOCKS, ModelReport, ModelState, PeerState, UnixSeconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.inference import Usability

WITHDRAWN_AFTER = 7 * 86400.0
"""Seconds without any server after which a model counts as withdrawn, not as broken."""
MAX_HELD = 2_000
"""Servers of a healthy model that are stored, so that an incident can name those that the model lost."""
MAX_LOST_BLOCKS = 20
MAX_LOST_SERVERS = 20


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A server that held blocks `start <= block < end` when the model was last healthy."""

    peer_id: str
    start: int
    end: int


class Watch(msgspec.Struct, frozen=True):
    """What is stored about a model between crawls."""

    name: str
    official: bool
    num_blocks: Annotated[int, msgspec.Meta(ge=1, le=MAX_BLOCKS)]
    last_served: UnixSeconds
    """When it last had any server."""
    last_healthy: UnixSeconds | None = None
    held: tuple[Held, ...] = ()
    healthy_since: UnixSeconds = 0.0
    """The first of the crawls in a row that found it healthy; 0 where the latest that could judge it did not."""
    suspected: Incident | None = None
    """The incident that opens if the next crawl finds the model broken too."""
    unusable_since: UnixSeconds = 0.0
    """When the first of the chains began that gave no token; 0 where the latest gave one."""
    incident: Incident | None = None

    @property
    def missed_when_absent(self) -> bool:
        """Whether it counts as broken when nobody announces it."""
        return self.last_healthy is not None or self.incident is not None

    @classmethod
    def of(cls, incident: Incident) -> Watch:
        """Return the watch that an open incident implies, for a model whose watch was lost."""
        return cls(
            incident.name,
            incident.official,
            incident.num_blocks,
            last_served=incident.start,
            last_healthy=incident.last_healthy,
            incident=incident,
        )


def decode_watch(data: bytes) -> Watch:
    """Return a stored watch. Whatever this raises, `stored.read` refuses the entry."""
    watch = msgspec.msgpack.decode(data, type=Watch)
    for incident in (watch.suspected, watch.incident):
        if incident is not None:
            checked(incident)
    return watch


def judged(model: ModelReport | None, unanswered_keys: int) -> ModelState | None:
    """Return the state that a crawl proves; None where unanswered keys may explain the missing blocks."""
    if model is None:
        return None if unanswered_keys else ModelState.BROKEN
    if model.state is ModelState.BROKEN and coverage(model).missing_blocks <= unanswered_keys:
        return None
    return model.state


def absent(prefix: str, watch: Watch) -> ModelReport:
    """Return a report without servers for a model that nobody announces any more."""
    return ModelReport(
        dht_prefix=prefix,
        num_blocks=watch.num_blocks,
        state=ModelState.BROKEN,
        name=watch.name,
        short_name=watch.name,
    )


def step(
    watch: Watch | None, model: ModelReport, state: ModelState | None, at: float
) -> tuple[Watch | None, Incident | None]:
    """Return the watch after a crawl that ended `at`, and the incident that ended with it, each or None.

    A model that was withdrawn has no watch any more.
    """
    if watch is None:
        watch = Watch(model.name, model.official, model.num_blocks, last_served=at)
    else:
        watch = _not_after(watch, at)
        watch = msgspec.structs.replace(
            watch,
            name=model.name,
            official=model.official,
            num_blocks=model.num_blocks,
            last_served=at if model.servers else watch.last_served,
        )
    if state is None:
        return watch, None
    if state is ModelState.BROKEN or model.usability is None:
        watch = msgspec.structs.replace(watch, unusable_since=0.0)
        return _found_broken(watch, model, at) if state is ModelState.BROKEN else _found_healthy(watch, model, at)
    return _found_served(watch, model, model.usability, at)


def _found_served(
    watch: Watch, model: ModelReport, proved: Usability, at: float
) -> tuple[Watch | None, Incident | None]:
    """Take a crawl that found servers for all blocks, of which it is proved whether they compute."""
    tokens = gives_tokens(model)
    if tokens:
        return _found_healthy(msgspec.structs.replace(watch, unusable_since=0.0), model, at)
    if tokens is None:  # not known whether they compute: no reason to end an incident
        last = watch.incident or watch.suspected
        return (watch, None) if last is not None and last.unusable is not None else _found_healthy(watch, model, at)
    began = min(watch.unusable_since or proved.checked_at, proved.checked_at)
    watch = msgspec.structs.replace(watch, unusable_since=began)
    if proved.checked_at <= began and watch.incident is None:
        return watch, None  # one chain alone counts for neither
    return _found_broken(watch, model, at, unusable=(proved.reason or "")[:MAX_UNUSABLE_CHARS])


def _not_after(watch: Watch, at: float) -> Watch:
    """Return the watch without times after `at`, which a clock that was ahead has left."""

    def cut(incident: Incident | None) -> Incident | None:
        return None if incident is None else msgspec.structs.replace(incident, start=min(incident.start, at))

    return msgspec.structs.replace(
        watch,
        last_served=min(watch.last_served, at),
        last_healthy=None if watch.last_healthy is None else min(watch.last_healthy, at),
        healthy_since=min(watch.healthy_since, at),
        suspected=cut(watch.suspected),
        incident=cut(watch.incident),
    )


def _found_healthy(watch: Watch, model: ModelReport, at: float) -> tuple[Watch, Incident | None]:
    online = [server for server in model.servers if server.state is PeerState.ONLINE]
    incident, closed = watch.incident, None
    if incident is not None and watch.healthy_since:
        closed = msgspec.structs.replace(incident, end=watch.healthy_since, outcome=Outcome.RECOVERED)
        incident = None
    after = msgspec.structs.replace(
        watch,
        healthy_since=watch.healthy_since or at,
        suspected=None,
        incident=incident,
        last_healthy=at,
        held=tuple(Held(server.peer_id, server.span.start, server.span.end) for server in online[:MAX_HELD]),
    )
    return after, closed


def _found_broken(
    watch: Watch, model: ModelReport, at: float, *, unusable: str | None = None
) -> tuple[Watch | None, Incident | None]:
    """Take a crawl that found blocks without servers, or, as `unusable` says, servers that do not compute."""
    suspected, incident = watch.suspected, watch.incident
    covered = coverage(model).covered_blocks
    if suspected is not None:
        suspected, incident = None, suspected
    elif incident is None and (watch.last_healthy is not None or (model.official and model.servers)):
        suspected = _suspect(watch, model, covered, unusable, at)
    if incident is not None:
        incident = msgspec.structs.replace(incident, covered_blocks=min(covered, incident.covered_blocks))
    if at - watch.last_served >= WITHDRAWN_AFTER:
        if incident is not None:
            incident = msgspec.structs.replace(incident, end=at, outcome=Outcome.WITHDRAWN)
        return None, incident
    return msgspec.structs.replace(watch, healthy_since=0.0, suspected=suspected, incident=incident), None


def _suspect(watch: Watch, model: ModelReport, covered: int, unusable: str | None, at: float) -> Incident:
    stretches = [_lost(watch.held, model, start, end) for start, end in coverage(model).gaps()]
    mark = hashlib.blake2b(model.dht_prefix.encode(errors="replace"), digest_size=4).hexdigest()
    return Incident(
        id=f"{int(at)}-{mark}",
        dht_prefix=model.dht_prefix,
        name=model.name,
        official=model.official,
        start=at,
        num_blocks=model.num_blocks,
        covered_blocks=covered,
        last_healthy=watch.last_healthy,
        cause=tuple(stretches[:MAX_LOST_BLOCKS]),
        more_blocks=max(0, len(stretches) - MAX_LOST_BLOCKS),
        unusable=unusable,
    )


def _lost(held: Sequence[Held], model: ModelReport, start: int, end: int) -> LostBlocks:
    now = {server.peer_id: server for server in model.servers}
    lost = []
    for server in held:
        if server.start < end and start < server.end:
            report = now.get(server.peer_id)
            lost.append(LostServer(server.peer_id, server.start, server.end, _fate(report.state if report else None)))
    return LostBlocks(start, end, tuple(lost[:MAX_LOST_SERVERS]), max(0, len(lost) - MAX_LOST_SERVERS))


def _fate(state: PeerState | None) -> Fate:
    match state:
        case None:
            return Fate.GONE
        case PeerState.ONLINE:  # it serves other blocks now
            return Fate.MOVED
        case _:
            return Fate(state.value)
