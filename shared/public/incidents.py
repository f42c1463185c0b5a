"""`GET /api/v1/incidents`: models that broke, and what became of their servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shared.incidents import Incident, summary
from shared.public.document import Document

if TYPE_CHECKING:
    from collections.abc import Sequence


class IncidentEntry(Incident, frozen=True, kw_only=True):
    """An incident with its cause in words."""

    summary: str


class IncidentsDocument(Document):
    """Outages of models."""

    ongoing: int
    """Also of those that the limit leaves out."""
    incidents: tuple[IncidentEntry, ...]
    """The newest first."""


def incidents_document(incidents: Sequence[Incident], limit: int) -> IncidentsDocument:
    """Return at most `limit` of the incidents, which come newest first."""
    return IncidentsDocument(
        ongoing=sum(incident.end is None for incident in incidents),
        incidents=tuple(
            IncidentEntry(**msgspec.structs.asdict(incident), summary=summary(incident))
            for incident in incidents[:limit]
        ),
    )
