"""The base of all public documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import msgspec

if TYPE_CHECKING:
    from shared.judgement.freshness import Freshness
    from shared.snapshot import Snapshot


class Document(msgspec.Struct, gc=False):
    """Fields are encoded in the order in which they are written. `gc=False`: none can contain itself."""

    @classmethod
    def of(cls, source: object, **others: Any) -> Self:
        """Return the document with `others`, and with every other field as the attribute of its name in `source`."""
        same = {name: getattr(source, name) for name in cls.__struct_fields__ if name not in others}
        return cls(**same, **others)


def as_of(snapshot: Snapshot, freshness: Freshness) -> dict[str, Any]:
    """Return the fields by which documents of a snapshot tell how old they are."""
    return {
        "last_updated": snapshot.taken_at,
        "update_period": snapshot.update_period,
        "stale": freshness.stale,
        "age_seconds": freshness.at_least,
    }
