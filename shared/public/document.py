"""The base of all public documents."""

from __future__ import annotations

import msgspec


class Document(msgspec.Struct, gc=False):
    """Fields are encoded in the order in which they are written. `gc=False`: none can contain itself."""
