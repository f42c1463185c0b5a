"""This module makes the headline of the overview, and the notices about stale, incomplete or contradictory data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.pages import text
from shared import words
from shared.judgement.swarm import judged_models, nobody_can_join, swarm_state
from shared.judgement.usability import gives_tokens, is_usable
from shared.snapshot import Verdict
from shared.words import listed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from api.pages.view import View
    from shared.snapshot import BootstrapPeer, CrawlProgress, CrawlStatus, Snapshot

MAX_TRIED = 8
"""Bootstrap addresses, or servers, named in an explanation."""


_PAST = (
    (" used now", " used"), ("cannot be", "could not be"), ("can be", "could be"),
    (" is ", " was "), (" gives ", " gave "),
)  # fmt: skip
"""Replacements that turn a headline into the past tense, for a stale snapshot."""


@dataclass(frozen=True, slots=True)
class Notice:
    """The verdict on the swarm, or a warning above the page's content. `tone` is good, warn, bad or idle."""

    tone: str
    title: str
    text: str
    lines: tuple[str, ...] = ()
    """What it is about: bootstrap peers that did not answer, servers."""


def headline(view: View) -> Notice:
    """Return the verdict on the swarm, and its reason."""
    snapshot = view.snapshot
    if snapshot is None:
        return _without_snapshot(view)
    fresh = _judge(snapshot)
    if not view.stale:
        return fresh
    # A stale snapshot is described in the past tense, and never in green.
    title, then = fresh.title, fresh.text
    for now, past in _PAST:
        title, then = title.replace(now, past), then.replace(now, past)
    title += " when it was last seen"
    return Notice("warn" if fresh.tone == "good" else fresh.tone, title, then)


def _judge(snapshot: Snapshot) -> Notice:
    if nobody_can_join(snapshot.bootstrap_peers):
        return Notice(
            "bad",
            "The swarm cannot be joined",
            "None of its bootstrap peers can be reached: new clients and servers find no way in.",
        )
    judged = judged_models(snapshot)
    if not judged:
        return _empty(snapshot)
    kind = "official model" if judged[0].official else "model"
    usable = sum(map(is_usable, judged))
    counted = f"{usable} of {words.count(len(judged), kind)} can be used now."
    if len(judged) == 1 and not usable:
        counted = f"Its {kind} cannot be used now."
    if usable == len(judged):
        counted = f"All {len(judged)} {kind}s can be used now." if usable > 1 else f"Its {kind} can be used now."
    unserved = sum(model.official for model in snapshot.models) - len(judged)
    if judged[0].official and unserved:
        counted += f" Nobody serves {unserved} more."
    if usable and not any(map(gives_tokens, judged)):
        counted += " The servers answered; no computation has proved it."
    match swarm_state(snapshot):
        case "healthy" if usable < len(judged):
            return Notice("warn", "Every block is served, but not every model gives tokens", counted)
        case "healthy":
            return Notice("good", "The swarm is healthy", counted)
        case "partly healthy":
            return Notice("warn", "The swarm is partly healthy", counted)
        case _:
            return Notice("bad", "The swarm is broken", counted.replace("0 of", "None of"))


def _empty(snapshot: Snapshot) -> Notice:
    reached = sum(peer.verdict is Verdict.REACHABLE for peer in snapshot.bootstrap_peers)
    looked = f"{reached} of {words.count(len(snapshot.bootstrap_peers), 'bootstrap peer')} answered"
    wanted = [text.cut(model.dht_prefix, 40) for model in snapshot.models]
    if not snapshot.private_swarm:
        return Notice("bad", "The swarm is empty", f"{looked}, and no server announces any block.")
    sought = f" Looked for the models of the settings ({listed(wanted)}) and" if wanted else " Looked for"
    return Notice(
        "idle",
        "The private swarm is empty",
        f"{looked}.{sought} whatever is announced under the DHT key _petals.models: no server was there. "
        "A server shows up here about a minute after it starts with the same initial peers.",
    )


def _without_snapshot(view: View) -> Notice:
    if not view.redis_connected:
        return Notice(
            "bad",
            "Nothing is known yet",
            "This page cannot reach its Redis, where the crawler leaves what it sees. It goes on trying.",
        )
    if view.unreadable:
        return Notice(
            "bad",
            "No snapshot that this page can read",
            "The crawler has published one, of another version than this api. Run both from the same version.",
        )
    if view.status is None or view.status.ok:
        now = "The crawler has not begun" if view.status is None else _doing(view.status.progress)
        return Notice(
            "idle",
            "No snapshot yet: the first crawl is running",
            f"{now}. It takes some seconds, a minute where many servers are silent. If nothing comes, see whether the "
            "crawler runs: try “make demo” for a swarm on this machine, or set INITIAL_PEERS.",
        )
    hint = "Try “make demo” for a swarm on this machine, or set INITIAL_PEERS. The crawler goes on trying."
    return Notice(
        "bad",
        "No snapshot yet: the first crawl failed",
        f"{_reason(view.status)} {hint}",
        tried(view.status.bootstrap_peers),
    )


def _doing(progress: CrawlProgress | None) -> str:
    """Return what the running crawl does, in words."""
    if progress is None:
        return "It has ended, and its snapshot is on the way"
    seen = f"{words.count(progress.servers, 'server')} found, {progress.dialled} of {progress.to_dial} dialled"
    match progress.doing:
        case "joining":
            return "It joins the swarm through its bootstrap peers"
        case "reading":
            return f"It reads from the DHT which servers there are: {seen} so far"
        case "dialling":
            return f"It dials the servers: {seen} so far"


def _reason(status: CrawlStatus) -> str:
    error = text.cut(status.error or "the crawl failed", text.MAX_ERROR).rstrip(".")
    return error[:1].upper() + error[1:] + "."


def notices(view: View) -> list[Notice]:
    """Return what a reader should know beside the verdict, the most urgent first."""
    found = []
    status, snapshot = view.status, view.snapshot
    if snapshot is not None and not view.redis_connected:
        found.append(
            Notice("warn", "Redis is away.", "This page shows the last snapshot that it read and goes on trying.")
        )
    if snapshot is None:
        return found
    if status is not None and not status.ok and status.attempted_at > snapshot.taken_at:
        title = f"The last crawl failed {words.duration(view.now - status.attempted_at)} ago."
        items = tried(status.bootstrap_peers)
        found.append(Notice("warn", title, f"{_reason(status)} Below is the last good snapshot.", items))
    if view.stale:
        title = f"The snapshot is {words.duration(snapshot.age(view.now))} old."
        period = words.period(snapshot.update_period)
        explained = f"It should be renewed every {period}; the swarm may have changed since."
        found.append(Notice("warn", title, explained))
    if snapshot.unanswered_keys:
        title = f"{words.count(snapshot.unanswered_keys, 'key')} of the swarm’s hash table did not answer in time."
        found.append(Notice("warn", title, "Some blocks may have servers that nobody could see."))
    if snapshot.undialled_servers:
        title = f"{words.count(snapshot.undialled_servers, 'server')} could not be dialled in time."
        found.append(Notice("idle", title, "They are shown in the state that they announce."))
    return found


def conflicts(view: View) -> list[Notice]:
    """Return a notice about servers that differ from their records, for the overview alone."""
    snapshot = view.snapshot
    if snapshot is None or not snapshot.num_conflicts:
        return []
    servers = words.count(snapshot.num_conflicts, "server")
    differs = "differs from its record" if snapshot.num_conflicts == 1 else "differ from their records"
    title = f"{servers} {differs}."
    explained = "Anyone can write a record in another server’s name; ≠ marks them in the tables:"
    differing = (server for model in snapshot.models for server in model.servers if server.conflict)
    lines = (f"…{text.short_id(server.peer_id)}: {text.cut(server.conflict or '', 200)}" for server in differing)
    return [Notice("idle", title, explained, tuple(dict.fromkeys(lines))[:MAX_TRIED])]


def tried(peers: Iterable[BootstrapPeer]) -> tuple[str, ...]:
    """Bootstrap peers as lines: address or id, and what went wrong with each."""
    given = list(peers)
    lines = []
    for peer in given[:MAX_TRIED]:
        name = peer.addresses[0] if peer.addresses else peer.peer_id
        lines.append(text.cut(name, 160) + (f": {text.cut(peer.error, 200)}" if peer.error else ""))
    if len(given) > MAX_TRIED:
        lines.append(f"and {len(given) - MAX_TRIED} more")
    return tuple(lines)
