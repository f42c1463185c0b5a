"""This module prepares the overview: models, figures beside the verdict, issues, contributors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from api.pages import cards, text
from api.pages.contributors import href as contributor_href
from shared import words
from shared.advice.models import model_advice
from shared.advice.servers import what_failed
from shared.judgement.contributors import serving
from shared.judgement.swarm import distinct_servers
from shared.judgement.usability import is_usable
from shared.snapshot import PeerState

if TYPE_CHECKING:
    from api.pages.view import View
    from shared.snapshot import Snapshot

MAX_CARDS = 40
"""Models drawn in full; anyone may announce more, and those are only listed."""
MAX_LISTED = 500
"""Models that are named after the cards."""
MAX_ROWS = 400
"""Servers listed over all models."""
MAX_CONTRIBUTORS = 12
MAX_NOT_COUNTED = 5
"""Contributors named for models that are not official."""
MAX_ISSUES = 200
MAX_CHIPS = 8
"""Models named in the verdict."""


def parts(view: View, estimates: dict[str, cards.PathView]) -> dict[str, Any]:
    """Return the variables of overview.html by name; they are empty without a snapshot.

    `estimates` are those of `cards.make_card`.
    """
    snapshot = view.snapshot
    if snapshot is None:
        empty = ("cards", "usable", "unusable", "more_models", "figures", "bootstrap", "issues", "contributors")
        return {**dict.fromkeys((*empty, "not_counted", "refused"), ()), "more_issues": 0, "more_not_counted": 0}
    shown, budget = [], MAX_ROWS
    for model in snapshot.models[:MAX_CARDS]:
        judged = model_advice(model, snapshot, view.now, stale=view.stale)
        most = min(budget, cards.FULL_TABLE)
        shown.append(cards.make_card(model, judged, max_rows=most, stale=view.stale, estimates=estimates))
        budget -= len(shown[-1].rows)
    served = [card for card in shown if card.model.servers]
    hidden = _not_counted(snapshot)
    return {
        "cards": shown,
        "usable": [card for card in served if card.judged.usable][:MAX_CHIPS],
        "unusable": [card for card in served if not card.judged.usable][:MAX_CHIPS],
        "more_models": snapshot.models[MAX_CARDS : MAX_CARDS + MAX_LISTED],
        "figures": _figures(snapshot, stale=view.stale),
        "bootstrap": snapshot.bootstrap_peers,
        "issues": _issues(snapshot),
        "more_issues": max(0, len(snapshot.reachability_issues) - MAX_ISSUES),
        "contributors": _contributors(snapshot),
        "not_counted": hidden[:MAX_NOT_COUNTED],
        "more_not_counted": len(hidden[MAX_NOT_COUNTED:]),
        "refused": sorted(snapshot.refused.by_reason.items()),
    }


def _figures(snapshot: Snapshot, *, stale: bool) -> list[tuple[str, str, str]]:
    """(value, of how many, what) for the tiles beside the verdict: of all models, and each server once."""
    were = "were " if stale else ""
    served = [model for model in snapshot.models if model.servers]
    servers = distinct_servers(snapshot)
    online = sum(server.state is PeerState.ONLINE for server in servers)
    usable = sum(map(is_usable, served))
    reached = sum(peer.verdict == "reachable" for peer in snapshot.bootstrap_peers)
    peers = (f"{reached}", f"{len(snapshot.bootstrap_peers)}", f"bootstrap peers {were}up")
    if not served:
        return [peers]
    return [
        (f"{usable:,}", f"{len(served):,}", f"models {were}usable"),
        (f"{online:,}", f"{len(servers):,}", f"servers {were}online"),
        peers,
    ]


def _issues(snapshot: Snapshot) -> list[tuple[tuple[str, str], list[str]]]:
    """Return ((error, what to do), peer ids) of the servers that fail in the same way."""
    groups: dict[tuple[str, str], list[str]] = {}
    causes = {server.peer_id: server.cause for model in snapshot.models for server in model.servers if server.cause}
    for issue in snapshot.reachability_issues[:MAX_ISSUES]:
        alike = what_failed(causes.get(issue.peer_id), issue.error), text.cut(issue.advice, 600)
        groups.setdefault(alike, []).append(issue.peer_id)
    return list(groups.items())


def _contributors(snapshot: Snapshot) -> list[tuple[text.Shown, str | None, str]]:
    """(name, address of its page if it has one, blocks) of those who serve most now."""
    most, ranked = list(snapshot.top_contributors.items())[:MAX_CONTRIBUTORS], serving(snapshot)
    return [
        (
            text.shown_name(name),
            contributor_href(name) if name in ranked else None,
            f"{words.number(blocks)} block{'s' if blocks != 1 else ''}",
        )
        for name, blocks in most
    ]


def _not_counted(snapshot: Snapshot) -> list[text.Shown]:
    """Return the public names that show in tables and that no official model has."""
    names = {
        server.public_name
        for model in snapshot.models
        for server in model.servers
        if server.show_public_name and server.public_name and server.public_name not in snapshot.top_contributors
    }
    return [text.shown_name(name) for name in sorted(names)]
