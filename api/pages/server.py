"""This module prepares a server's page: the verdict, what to do, what it announces in each model, what was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.pages import cards, contributors, rows, text
from shared import words
from shared.advice.inference import agreement_words, server_proof
from shared.advice.servers import Server, server_advice, what_failed
from shared.judgement.contributors import serving
from shared.judgement.coverage import coverage
from shared.judgement.swarm import pings_to

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.pages.view import View
    from shared.advice.advice import Advice
    from shared.advice.inference import Proved
    from shared.incidents import Incident, LostServer
    from shared.snapshot import BootstrapPeer, ModelReport, ServerReport
    from shared.store.history import ServerHistory

MAX_PINGS_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping to or from another server. `value` is a time in words; slower ones come later."""

    peer_id: str
    known: bool
    """Whether the model still has that server."""
    value: str
    blocks: str


@dataclass(frozen=True, slots=True)
class Share:
    """The server's part in one model."""

    model: ModelReport
    strip: cards.Strip
    row: rows.Row
    proof: Proved
    agreement: str
    """How its numbers stand to those of others; empty where it was not asked to compute."""
    adapter_proof: Proved | None
    """Of the latest check with an adapter."""
    blocks: str
    announced: tuple[tuple[str, str], ...]
    """What the server says of itself: (name, value)."""
    found: tuple[tuple[str, str], ...]
    """What the monitor saw when it dialled the server."""
    adapters: tuple[text.Shown, ...]
    pings_to: tuple[Ping, ...]
    pings_from: tuple[Ping, ...]


@dataclass(frozen=True, slots=True)
class ServerView:
    """A server's page."""

    peer_id: str
    contributor: text.Shown | None
    contributor_href: str | None
    """The page of the contributor of that name, if there is one."""
    advice: Advice
    shares: tuple[Share, ...]
    addresses: tuple[str, ...]
    location: str
    bootstrap: str
    """What the crawler found of it as a bootstrap peer; empty if it is none."""
    checked_by: str
    """The end of the id of the peer that makes inference checks, as servers log it; empty where none are made."""


def make_server(
    view: View, peer_id: str, history: ServerHistory | None = None, incidents: Sequence[Incident] = ()
) -> ServerView | None:
    """Return what the page of `peer_id` shows; None where neither the snapshot nor the history knows it."""
    if view.snapshot is None:
        return None
    found = Server.of(peer_id, view.snapshot)
    if not found.shares and found.bootstrap is None and history is None:
        return None
    advice = server_advice(
        found,
        view.now,
        record=None if history is None else history.record,
        lost=_lost(peer_id, incidents),
        stale=view.stale,
    )
    servers = [server for _, server in found.shares]
    named = next((server for server in servers if rows.contributor(server)), None)
    name = named.public_name if named is not None else None
    return ServerView(
        peer_id=words.clean(peer_id),
        contributor=rows.contributor(named) if named is not None else None,
        contributor_href=contributors.href(name) if name and name in serving(view.snapshot) else None,
        advice=advice,
        shares=tuple(_share(model, server) for model, server in found.shares),
        addresses=tuple(text.cut(address, 160) for address in found.addresses[:20]),
        location=_location(servers),
        bootstrap=_bootstrap(found.bootstrap),
        checked_by=text.cut((view.snapshot.inference_peer_id or "")[-6:]),
    )


def _lost(peer_id: str, incidents: Sequence[Incident]) -> LostServer | None:
    """Return what the newest incident tells of a server that it names."""
    named = (server for incident in incidents for lost in incident.cause for server in lost.servers)
    return next((server for server in named if server.peer_id == peer_id), None)


def _bootstrap(peer: BootstrapPeer | None) -> str:
    if peer is None:
        return ""
    return f"bootstrap peer, {peer.verdict.value}" + (f": {text.cut(peer.error, 200)}" if peer.error else "")


def _location(servers: list[ServerReport]) -> str:
    for server in servers:
        if server.location is not None:
            place = server.location
            return ", ".join(
                text.cut(part, 60) for part in (place.city, place.region, place.country_name or place.country) if part
            )
    return ""


def _share(model: ModelReport, server: ServerReport) -> Share:
    span = server.span
    speeds = (
        ("Inference through one block", server.inference_rps),
        ("Forward pass through one block", server.forward_rps),
        ("Network", server.network_rps),
    )
    cache = words.number(server.cache_tokens_left_per_block) if span.length else ""
    announced = (
        ("State", server.announced.value),
        ("Throughput", words.throughput(server.throughput)),
        *((name, words.throughput(speed)) for name, speed in speeds),
        ("Precision", rows.precision(server)),
        ("Attention cache left", f"{cache} tokens per block" if cache else ""),
        ("Connects", words.way(server.using_relay)),
        ("Petals version", text.cut(server.version or "", 40)),
    )
    error = (server.error or "").removeprefix(what_failed(server.cause, None)).strip(" ()")
    found = (
        ("Verdict", rows.verdict_words(server)),
        ("Connected", rows.how_reached(server)),
        ("Error of libp2p", text.cut(error, text.MAX_ERROR)),
    )
    return Share(
        model=model,
        strip=cards.make_strip(coverage(model), model),
        proof=server_proof(server.inference),
        agreement=agreement_words(server.inference.agreement) if server.inference else "",
        adapter_proof=server_proof(server.adapter_inference) if server.adapter_inference else None,
        row=rows.make_row(server, model.num_blocks),
        blocks=f"{words.blocks([(span.start, span.end)])} of {model.num_blocks}",
        announced=tuple((name, value) for name, value in announced if value),
        found=tuple((name, value) for name, value in found if value),
        adapters=tuple(text.adapter(name) for name in server.adapters[:50]),
        pings_to=_pings(model, server.next_pings or {}),
        pings_from=_pings(model, pings_to(model, server.peer_id)),
    )


def _pings(model: ModelReport, pings: dict[str, float]) -> tuple[Ping, ...]:
    """Quickest first; peers that are gone from the model keep their id, without blocks."""
    spans = {server.peer_id: server.span for server in model.servers if server.peer_id in pings}
    nearest = sorted(pings.items(), key=lambda item: item[1])[:MAX_PINGS_SHOWN]
    return tuple(
        Ping(
            peer_id=peer_id,
            known=peer_id in spans,
            value=words.milliseconds(seconds),
            blocks=words.block_range(spans[peer_id].start, spans[peer_id].end) if peer_id in spans else "",
        )
        for peer_id, seconds in nearest
    )
