"""One peer in full: what it announces in each model, what the monitor found, how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.pages import blocks, cards, rows, text
from shared.advice.inference import agreement_words, server_proof
from shared.judgement.coverage import coverage
from shared.judgement.swarm import pings_to
from shared.snapshot import PeerState, Verdict

if TYPE_CHECKING:
    from api.pages.view import View
    from shared.advice.inference import Proof
    from shared.snapshot import BootstrapPeer, ModelReport, ServerReport, Snapshot
    from shared.store.history import ServerHistory

MAX_PINGS_SHOWN = 100
CONFLICT_ADVICE = (
    "Records carry no signature: anyone can write one in this server’s name, and this one may be forged. Where the "
    "server has just been started anew, it passes within minutes."
)


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping to or from another server. `value` is a time in words; slower ones come later."""

    short_id: str
    href: str
    value: str
    blocks: str


@dataclass(frozen=True, slots=True)
class Share:
    """The server's part in one model."""

    model_name: str
    model_href: str
    strip: cards.Strip
    row: rows.Row
    proof: Proof
    agreement: str
    """How its numbers stand to those of others; empty where it was not asked to compute."""
    blocks: str
    facts: tuple[tuple[str, str], ...]
    adapters: tuple[text.Shown, ...]
    verdict: str
    pings_to: tuple[Ping, ...]
    pings_from: tuple[Ping, ...]


@dataclass(frozen=True, slots=True)
class ServerView:
    """A server's page. `tone` is good, warn, bad or idle."""

    peer_id: str
    short_id: str
    check_href: str
    contributor: text.Shown | None
    tone: str
    title: str
    text: str
    shares: tuple[Share, ...]
    errors: tuple[tuple[str, str], ...]
    """What is wrong, and the advice."""
    addresses: tuple[str, ...]
    location: str
    bootstrap: str
    """What the crawler found of it as a bootstrap peer; empty if it is none."""


def make_server(view: View, peer_id: str) -> ServerView | None:
    """Return what the page of `peer_id` shows; None where the snapshot does not know it."""
    snapshot = view.snapshot
    if snapshot is None:
        return None
    found = [(model, server) for model in snapshot.models for server in model.servers if server.peer_id == peer_id]
    bootstrap = next((peer for peer in snapshot.bootstrap_peers if peer.peer_id == peer_id), None)
    if not found and bootstrap is None:
        return None
    servers = [server for _, server in found]
    tone, title, words = _headline(servers, bootstrap)
    contributor = next(filter(None, map(rows.contributor, servers)), None)
    addresses = {address: None for server in servers for address in server.multiaddrs}
    return ServerView(
        peer_id=text.clean(peer_id),
        short_id=text.cut(peer_id[-6:]),
        check_href=text.check_href(peer_id),
        contributor=contributor,
        tone=tone,
        title=title,
        text=words,
        shares=tuple(_share(model, server) for model, server in found),
        errors=_errors(snapshot, peer_id, servers),
        addresses=tuple(text.cut(address, 160) for address in list(addresses)[:20]) if view.show_addresses else (),
        location=_location(servers) if view.show_addresses else "",
        bootstrap=_bootstrap(bootstrap),
    )


def make_left(view: View, history: ServerHistory) -> ServerView:
    """Return what is shown of a server that the snapshot does not know any more, but the history does."""
    record = history.record
    ago = text.duration(max(0.0, view.now - record.last_seen))
    online = f"last online {text.duration(max(0.0, view.now - record.last_online))} ago" if record.last_online else ""
    return ServerView(
        peer_id=text.clean(history.peer_id),
        short_id=text.cut(history.peer_id[-6:]),
        check_href=text.check_href(history.peer_id),
        contributor=None,
        tone="idle",
        title="has left the swarm",
        text=f"It was last announced {ago} ago, and {online or 'no crawl ever found it online'}.",
        shares=(),
        errors=(),
        addresses=(),
        location="",
        bootstrap="",
    )


def _headline(servers: list[ServerReport], bootstrap: BootstrapPeer | None) -> tuple[str, str, str]:
    """Tone, what follows the id, a sentence: by the worst of its states, for that is what needs a hand."""
    if not servers:
        if bootstrap is not None and bootstrap.verdict is Verdict.UNREACHABLE:
            return "bad", "cannot be reached", "It is a bootstrap peer, and the monitor could not connect to it."
        return "good", "is a bootstrap peer", "It lets others join the swarm and announces no blocks itself."
    nobody_looked = all(server.verdict is Verdict.UNKNOWN for server in servers)
    words = {
        PeerState.UNREACHABLE: (
            "bad",
            "cannot be reached",
            "It announces to be online, but the monitor could not connect to it.",
        ),
        PeerState.ONLINE: ("idle", "says that it is online", "Nobody could look whether it can be reached.")
        if nobody_looked
        else ("good", "is online", "The monitor reached it: clients can use its blocks."),
        PeerState.JOINING: ("warn", "is joining", "It is loading its blocks and will serve them in a few minutes."),
        PeerState.OFFLINE: ("idle", "is offline", "It said goodbye; its announcement will expire in a few minutes."),
    }
    states = {server.state for server in servers}
    if states == {PeerState.ONLINE} and any(server.conflict for server in servers):
        return "warn", "is online, but its record is in doubt", "The monitor reached it, and it says otherwise."
    return next(said for state, said in words.items() if state in states)


def _bootstrap(peer: BootstrapPeer | None) -> str:
    if peer is None:
        return ""
    return f"bootstrap peer, {peer.verdict.value}" + (f": {text.cut(peer.error, 200)}" if peer.error else "")


def _errors(snapshot: Snapshot, peer_id: str, servers: list[ServerReport]) -> tuple[tuple[str, str], ...]:
    conflicts = dict.fromkeys(server.conflict for server in servers if server.conflict)
    found = _failures(snapshot, peer_id, servers)
    return (*found, *((text.cut(conflict, text.MAX_ERROR), CONFLICT_ADVICE) for conflict in conflicts))


def _failures(snapshot: Snapshot, peer_id: str, servers: list[ServerReport]) -> tuple[tuple[str, str], ...]:
    issues = [issue for issue in snapshot.reachability_issues if issue.peer_id == peer_id]
    if issues:
        return tuple((text.cut(issue.error, text.MAX_ERROR), text.cut(issue.advice, 600)) for issue in issues)
    errors = dict.fromkeys(server.error for server in servers if server.error)
    return tuple((text.cut(error, text.MAX_ERROR), "") for error in errors)


def _location(servers: list[ServerReport]) -> str:
    for server in servers:
        if server.location is not None:
            place = server.location
            return ", ".join(text.cut(part, 60) for part in (place.city, place.region, place.country) if part)
    return ""


def _share(model: ModelReport, server: ServerReport) -> Share:
    span = server.span
    speeds = (
        ("Inference, one block", server.inference_rps),
        ("Forward pass, one block", server.forward_rps),
        ("Network", server.network_rps),
    )
    cache = text.number(server.cache_tokens_left_per_block) if span.length else ""
    facts = (
        ("Throughput", f"{text.number(server.throughput)} tok/s"),
        *((name, f"{text.number(speed)} tok/s" if speed is not None else "") for name, speed in speeds),
        ("Precision", rows.precision(server)),
        ("Attention cache left", f"{cache} tokens a block" if cache else ""),
        ("Reached", rows.way_found(server)),
        ("Announces its way", {True: "through a relay", False: "directly", None: ""}[server.using_relay]),
        ("Petals version", text.cut(server.version or "", 40)),
        ("Announces to be", server.announced.value),
    )
    return Share(
        model_name=text.cut(model.name, 60),
        model_href=text.model_href(model.dht_prefix),
        strip=cards.make_strip(coverage(model), model),
        proof=server_proof(server.inference),
        agreement=agreement_words(server.inference.agreement) if server.inference else "",
        row=rows.make_row(server, model.num_blocks),
        blocks=f"{blocks.in_words([(span.start, span.end)])} of {model.num_blocks}",
        facts=tuple((name, value) for name, value in facts if value),
        adapters=tuple(text.adapter(name) for name in server.adapters[:50]),
        verdict=rows.verdict_words(server),
        pings_to=_pings(model, server.next_pings or {}),
        pings_from=_pings(model, pings_to(model, server.peer_id)),
    )


def _pings(model: ModelReport, pings: dict[str, float]) -> tuple[Ping, ...]:
    """Quickest first; peers that are gone from the model keep their id, without blocks."""
    spans = {server.peer_id: server.span for server in model.servers if server.peer_id in pings}
    nearest = sorted(pings.items(), key=lambda item: item[1])[:MAX_PINGS_SHOWN]
    return tuple(
        Ping(
            short_id=text.cut(peer_id[-6:]),
            href=text.server_href(peer_id) if peer_id in spans else "",
            value=text.milliseconds(seconds),
            blocks=blocks.block_range(spans[peer_id].start, spans[peer_id].end) if peer_id in spans else "",
        )
        for peer_id, seconds in nearest
    )
