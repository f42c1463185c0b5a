"""`GET /api/v1/changes`: what became of servers and models, each change with its evidence in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shared import changes
from shared.changes import Change, Severity
from shared.public.document import Document

if TYPE_CHECKING:
    from collections.abc import Sequence


class ChangeEntry(Change, frozen=True, kw_only=True):
    """A change in words."""

    severity: Severity
    title: str
    text: str


class ChangesDocument(Document):
    """Changes of servers and models."""

    changes: tuple[ChangeEntry, ...]
    """Those that were updated last come first."""


def change_entry(change: Change) -> ChangeEntry:
    """Return a change with its words."""
    return ChangeEntry(
        **msgspec.structs.asdict(change),
        severity=changes.severity(change),
        title=changes.title(change),
        text=changes.sentence(change),
    )


def changes_document(found: Sequence[Change], limit: int) -> ChangesDocument:
    """Return at most `limit` of the changes, which come newest first."""
    return ChangesDocument(changes=tuple(change_entry(change) for change in found[:limit]))
