"""This module makes the table of pings between the servers of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared import words

if TYPE_CHECKING:
    from shared.snapshot import ModelReport

MAX_MATRIX = 40
"""Servers on a side of the matrix; above it the pages of the servers list their own pings."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Pings in ms, empty where none is known: a row for each server that measured, a column for each measured."""

    columns: tuple[str, ...]
    """Peer id of each column's server."""
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    """Peer id, cells."""


def make_matrix(model: ModelReport) -> Matrix | None:
    """Return the matrix; None where nobody measured, or too many did for a table."""
    if len(model.servers) > MAX_MATRIX:
        return None
    ordered = sorted(model.servers, key=lambda server: (server.span.start, server.span.end, server.peer_id))
    sources = [server for server in ordered if server.next_pings]
    measured = {peer_id for server in sources for peer_id in server.next_pings or {}}
    targets = [server.peer_id for server in ordered if server.peer_id in measured]
    if not targets:
        return None
    return Matrix(
        tuple(targets),
        tuple(
            (server.peer_id, tuple(_cell((server.next_pings or {}).get(peer_id)) for peer_id in targets))
            for server in sources
        ),
    )


def _cell(seconds: float | None) -> str:
    # The unit stands in the caption.
    return "✕" if seconds == float("inf") else words.milliseconds(seconds).removesuffix(" ms")
