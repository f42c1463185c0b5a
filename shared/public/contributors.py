"""`GET /api/v1/contributors` and `/api/v1/contributors/{name}`: who serves how much, under which claimed name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shared.contributors import WINDOWS, Contributor
from shared.judgement.contributors import serving
from shared.public.document import Document
from shared.words import HOUR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.snapshot import Snapshot

NO_CONTRIBUTOR = Contributor(0.0, 0.0)


class Served(msgspec.Struct, frozen=True):
    """Hours in which probes reached servers under the name, and the same times each server's blocks."""

    server_hours: float
    block_hours: float


class HelpedModel(msgspec.Struct, frozen=True):
    """A model that was served."""

    dht_prefix: str
    block_hours: float


class ContributorEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A contributor by the public name that its servers announce: claimed, never proven."""

    name: str
    rank: int
    """By block-hours of the last 30 days."""
    servers: int
    """Now."""
    blocks: int
    """Now, of all its servers together."""
    first_seen: float | None
    last_seen: float | None
    served: dict[str, Served]
    """By window: `day`, `week`, `month` (UTC days, today included) and `all`."""
    models: tuple[HelpedModel, ...]
    """The most helped first."""
    peer_ids: tuple[str, ...]
    """Servers under the name now."""


class ContributorsDocument(Document):
    """Contributors by what they served."""

    names_are: str
    """How far to trust a name."""
    contributors: tuple[ContributorEntry, ...]
    """By block-hours of the last 30 days."""


class ContributorDocument(Document):
    """One contributor."""

    names_are: str
    """How far to trust the name."""
    contributor: ContributorEntry


NAMES_ARE = "claimed: anyone can announce any name; only what probes reached of official models counts"


def ranking(known: Mapping[str, Contributor], snapshot: Snapshot | None, now: float) -> tuple[ContributorEntry, ...]:
    """Return all contributors, most block-hours of the last 30 days first, then those of all time."""
    current = serving(snapshot) if snapshot is not None else {}
    found = {name: known.get(name, NO_CONTRIBUTOR) for name in {**known, **current}}
    ranked = sorted(
        found.items(),
        key=lambda item: (-item[1].within(WINDOWS["month"], now)[1], -item[1].block_seconds, item[0]),
    )
    entries = []
    for rank, (name, each) in enumerate(ranked, 1):
        shares = current.get(name, [])
        served = {window: _served(*each.within(days, now)) for window, days in WINDOWS.items()}
        served["all"] = _served(each.server_seconds, each.block_seconds)
        most = sorted(each.models.items(), key=lambda item: (-item[1], item[0]))
        entries.append(
            ContributorEntry(
                name=name,
                rank=rank,
                servers=len({share.peer_id for share in shares}),
                blocks=sum(share.blocks for share in shares),
                first_seen=each.first_seen or None,
                last_seen=each.last_seen or None,
                served=served,
                models=tuple(HelpedModel(prefix, _hours(seconds)) for prefix, seconds in most),
                peer_ids=tuple(sorted({share.peer_id for share in shares})),
            )
        )
    return tuple(entries)


def _served(server_seconds: float, block_seconds: float) -> Served:
    return Served(_hours(server_seconds), _hours(block_seconds))


def _hours(seconds: float) -> float:
    return round(seconds / HOUR, 2)
