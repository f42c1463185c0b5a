"""The paths through a model are those that Petals' genuine client takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.petals_server.harness import compare_paths

if TYPE_CHECKING:
    from pathlib import Path


def test_paths_cost_what_the_clients_own_cost(folder: Path) -> None:
    """Over 300 random swarms with unknown, known and unanswered pings, speeds and caches, for all or some blocks."""
    compared = compare_paths(300, folder)
    found = [(ours, theirs) for ours, theirs in compared if theirs is not None]
    assert len(found) > 100
    assert [ours for ours, _ in found] == pytest.approx([theirs for _, theirs in found])
    assert all(ours is None for ours, theirs in compared if theirs is None)
