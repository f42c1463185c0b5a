"""`GET /api/v1/incidents`: models that broke, and what became of their servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shared.incidents import Incident, summary
from shared.judgement.freshness import FRESH, Freshness
from shared.judgement.outages import OutageState, outages
from shared.public.document import Document

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.snapshot import Snapshot


class IncidentEntry(Incident, frozen=True, kw_only=True):
    """An incident with its cause in words."""

    summary: str


class OutageEntry(Document):
    """A model that the latest crawl found broken, or whose incident is open."""

    dht_prefix: str
    name: str
    official: bool
    state: OutageState
    """`broken`: blocks have no server, or no token comes out. `unserved`: nobody announces it. `recovering`: the latest
    crawl found it healthy. `unknown`: no snapshot yet, or nobody could look whether tokens come out again."""
    incident: str | None
    """The open incident's id. Null where the latest crawl was the first to find it broken, and for a model that anyone
    can announce and that no crawl found healthy."""


class IncidentsDocument(Document):
    """Outages of models."""

    ongoing: int
    """Also of those that the limit leaves out."""
    incidents: tuple[IncidentEntry, ...]
    """The newest first."""
    outages: tuple[OutageEntry, ...]
    """All models that are broken, as the latest snapshot tells it, with and without an incident."""
    stale: bool
    """Whether that snapshot is too old to be taken for the present."""
    age_seconds: int
    """Seconds that it is old at least, in whole update periods."""


def incidents_document(
    incidents: Sequence[Incident],
    limit: int,
    snapshot: Snapshot | None = None,
    freshness: Freshness = FRESH,
    *,
    dht_prefix: str | None = None,
) -> IncidentsDocument:
    """Return at most `limit` of the incidents, which come newest first; of one model where `dht_prefix` is given."""
    incidents = [each for each in incidents if dht_prefix in (None, each.dht_prefix)]
    return IncidentsDocument(
        ongoing=sum(incident.end is None for incident in incidents),
        incidents=tuple(
            IncidentEntry(**msgspec.structs.asdict(incident), summary=summary(incident))
            for incident in incidents[:limit]
        ),
        outages=tuple(
            OutageEntry.of(outage, incident=None if outage.incident is None else outage.incident.id)
            for outage in outages(snapshot, incidents)
            if dht_prefix in (None, outage.dht_prefix)
        ),
        stale=freshness.stale,
        age_seconds=freshness.at_least,
    )
