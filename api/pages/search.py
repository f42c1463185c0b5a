"""This module prepares search results: what a pasted or typed text names, each match with a link to its page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from api.pages import text
from api.pages.view import model_of
from shared import words
from shared.judgement.contributors import serving
from shared.peer_id import named_peer
from shared.public.search import SearchDocument, SearchHit
from shared.resolve import Kind, Match, Resolution

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from shared.incidents import Incident
    from shared.snapshot import ModelReport, ServerReport, Snapshot

MAX_INCIDENTS = 3
MAX_OF_CONTRIBUTOR = 20
_PEERS = (Kind.SERVER, Kind.BOOTSTRAP, Kind.PEER)


def is_peer(match: Match) -> bool:
    return match.kind in _PEERS


def match_href(match: Match) -> str:
    """Return the page of what was found; for a contributor, who may have none, the list of its servers."""
    match match.kind:
        case Kind.MODEL:
            return text.model_href(match.key)
        case Kind.CONTRIBUTOR:
            return text.search_href(match.key)
        case _:
            return text.server_href(match.key)


def named(matches: Iterable[Match]) -> list[tuple[str, str]]:
    """Return (name, address of the page) of matches, peers under their whole id: what an error may suggest."""
    return [
        (match.key if is_peer(match) or match.kind is Kind.MODEL else match.text, match_href(match))
        for match in matches
    ]


def make_search(
    resolution: Resolution,
    snapshot: Snapshot | None,
    incidents: Sequence[Incident] = (),
    *,
    to_check: bool = False,
    stale: bool = False,
) -> SearchDocument:
    """Return what is shown for a resolution. `incidents` are all that are known, the newest first.

    With `to_check`, links to peers lead to their checks, and models and contributors are left out. `stale` says that
    the snapshot is too old to be described in the present tense.
    """
    matches = (*resolution.found, *resolution.suggestions)
    named = any(match.kind is Kind.CONTRIBUTOR for match in matches)
    contributors = serving(snapshot) if named and snapshot is not None else {}
    found = [_hit(match, snapshot, to_check, contributors) for match in resolution.found]
    suggestions = [_hit(match, snapshot, to_check, contributors) for match in resolution.suggestions]
    for match in resolution.found:
        if match.kind is Kind.CONTRIBUTOR:
            found += _servers_of(match.key, snapshot, to_check)
    if to_check:
        found = [hit for hit in found if hit.kind not in (Kind.MODEL, Kind.CONTRIBUTOR)]
    else:
        found += _incidents(resolution.pasted, resolution.found, incidents)
        suggestions += _incidents("", resolution.suggestions, incidents)
    if stale:
        found, suggestions = ([_in_the_past(hit) for hit in hits] for hits in (found, suggestions))
    sentence = resolution.sentence if not any(hit.kind == "incident" for hit in found) else ""
    return SearchDocument(
        query=resolution.pasted,
        sentence=sentence,
        found=tuple(found),
        more=resolution.more,
        suggestions=tuple(suggestions),
    )


def _hit(match: Match, snapshot: Snapshot | None, to_check: bool, contributors: Container[str]) -> SearchHit:
    """Return a match as it is shown. `contributors` are the names that serve now, which have a page of their own."""
    href = match_href(match)
    if to_check and is_peer(match):
        href = text.check_href(match.key)
    elif match.kind is Kind.CONTRIBUTOR and match.key in contributors:
        href = text.contributor_href(match.key)
    more = _more(match, snapshot)
    return SearchHit(kind=match.kind.value, key=match.key, text=match.text, more=more, href=href)


def _in_the_past(hit: SearchHit) -> SearchHit:
    return replace(hit, more=f"was {hit.more}") if hit.kind in (Kind.SERVER, Kind.MODEL) and hit.more else hit


def _more(match: Match, snapshot: Snapshot | None) -> str:
    """Say what tells a match from others of its kind."""
    models = () if snapshot is None else snapshot.models
    match match.kind:
        case Kind.SERVER:
            shares = ((m, server) for m in models for server in m.servers if server.peer_id == match.key)
            return next((_share(model, server) for model, server in shares), "")
        case Kind.MODEL:
            found = model_of(snapshot, match.key)
            return "" if found is None else f"{found.state.value}, {words.count(len(found.servers), 'server')}"
        case Kind.BOOTSTRAP:
            return "lets others join"
        case Kind.PEER:
            return "not known here"
        case Kind.CONTRIBUTOR:
            return ""


def _share(model: ModelReport, server: ServerReport) -> str:
    span = words.blocks([(server.span.start, server.span.end)])
    return f"{server.state.value}, {span} of {text.cut(model.name, 40)}"


def _servers_of(name: str, snapshot: Snapshot | None, to_check: bool) -> list[SearchHit]:
    models = () if snapshot is None else snapshot.models
    servers = {s.peer_id: _share(model, s) for model in models for s in model.servers if s.public_name == name}
    href = text.check_href if to_check else text.server_href
    return [
        SearchHit(kind="server", key=peer_id, text=named_peer(words.clean(peer_id)), more=more, href=href(peer_id))
        for peer_id, more in list(servers.items())[:MAX_OF_CONTRIBUTOR]
    ]


def _incidents(pasted: str, matches: Iterable[Match], incidents: Sequence[Incident]) -> list[SearchHit]:
    """Return incidents by their id, or the newest of the models among the matches."""
    models = {match.key for match in matches if match.kind is Kind.MODEL}
    wanted = pasted.strip().rpartition("#")[2]
    chosen = [incident for incident in incidents if incident.id == wanted]
    chosen += [incident for incident in incidents if incident.dht_prefix in models and incident not in chosen]
    return [
        SearchHit(
            kind="incident",
            key=incident.id,
            text=text.name(incident.name, 40),
            more=f"{'goes on' if incident.end is None else 'ended'}, began {words.utc_minute(incident.start)}",
            href=f"/incidents#{incident.id}",
        )
        for incident in chosen[:MAX_INCIDENTS]
    ]
