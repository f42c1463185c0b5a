"""This module names the commands that the history's script runs in one atomic step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.changes import encode

if TYPE_CHECKING:
    from shared.changes import Change

Command = tuple[str | bytes | int | float, ...]
"""A Redis command, or one that `change_command` returns."""


def change_command(change: Change) -> Command:
    """Return what the script turns into the one entry of this change: an older one is replaced."""
    return ("CHANGE", change.id, encode(change))
