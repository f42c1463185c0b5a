"""This module makes a model's card: its verdict, the coverage of its blocks, the path of a client, its servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.pages import rows, text
from shared import words
from shared.advice.inference import model_proof, seconds
from shared.judgement.coverage import coverage, online, weakest_stage
from shared.judgement.path import find_path, tokens_per_second
from shared.judgement.usability import gives_tokens, path_stands
from shared.peer_id import named_peer
from shared.snapshot import ModelState, PeerState

if TYPE_CHECKING:
    from shared.advice.inference import Proved
    from shared.advice.models import ModelAdvice
    from shared.inference import Hop
    from shared.judgement.coverage import Coverage
    from shared.snapshot import ModelReport

FULL_TABLE = 60
"""A card shows all servers of a model up to this many; of more, the fastest `SHORT_TABLE`."""
SHORT_TABLE = 30
OPEN_TABLE = 16
"""Up to this many rows the table of a card is unfolded."""


@dataclass(frozen=True, slots=True)
class StripPart:
    """Blocks of one redundancy in the coverage strip; `level` is r0, r1 or r2 (two and more)."""

    level: str
    x: str
    width: str
    title: str


@dataclass(frozen=True, slots=True)
class Strip:
    """The coverage of a model and, in `path`, the servers that a computation passed through."""

    parts: tuple[StripPart, ...]
    label: str
    ruler: rows.Ruler
    path: tuple[StripPart, ...] = ()


@dataclass(frozen=True, slots=True)
class PathView:
    """A client's path through the model: that of the latest inference check, else the one estimated to be fastest."""

    tokens: str = ""
    """Tokens/s of one user, measured if `proved`, else estimated; empty where neither is known."""
    proved: bool = False
    hops: tuple[tuple[str, str, str], ...] = ()
    """Of each server: short id, address of its page, blocks."""


@dataclass(frozen=True, slots=True)
class Card:
    """A model, and what its card shows."""

    model: ModelReport
    anchor: str
    href: str
    name: str
    short_name: str
    repository: text.Shown | None
    proof: Proved
    """What the latest chain of inference proved: the first thing that is said."""
    healthy: bool
    stale: bool
    covered: int
    strip: Strip
    judged: ModelAdvice
    capacity: str
    """What all users together get at most, as the servers claim; empty where nobody can use it."""
    path: PathView
    states: list[tuple[str, int]]
    rows: list[rows.Row]
    unfolded: bool

    @property
    def tone(self) -> str:
        """good: healthy; idle: healthy when it was last seen; bad: broken."""
        if not self.healthy:
            return "bad"
        return "idle" if self.stale else "good"

    @property
    def num_online(self) -> int:
        return dict(self.states).get(PeerState.ONLINE.value, 0)


def make_card(
    model: ModelReport,
    judged: ModelAdvice,
    *,
    max_rows: int = FULL_TABLE,
    stale: bool = False,
    estimates: dict[str, PathView] | None = None,
) -> Card:
    """Return a model's card with its verdict and at most `max_rows` of its servers.

    `estimates` holds estimated paths of this snapshot by DHT prefix: one that is missing is found and added.
    """
    estimates = {} if estimates is None else estimates
    held = coverage(model)
    listed = model.servers
    if len(listed) > max_rows:
        listed = tuple(rows.fastest(listed, min(SHORT_TABLE, max_rows)))
    return Card(
        model=model,
        anchor=text.anchor(model.dht_prefix),
        href=text.model_href(model.dht_prefix),
        name=text.name(model.name, 60),
        short_name=text.cut(model.short_name, 32) or text.name(model.dht_prefix, 32),
        repository=text.shown_name(link, 60) if (link := text.safe_link(model.repository)) else None,
        proof=model_proof(model, stale=stale),
        healthy=model.state is ModelState.HEALTHY,
        stale=stale,
        covered=held.covered_blocks,
        strip=make_strip(held, model),
        judged=judged,
        capacity="" if stale else _capacity(model),
        path=PathView() if stale else _proved_path(model) or _estimated_path(model, estimates),
        states=rows.state_counts(model),
        rows=rows.make_rows(listed, model.num_blocks),
        unfolded=len(listed) <= OPEN_TABLE,
    )


def make_strip(held: Coverage, model: ModelReport) -> Strip:
    """Draw the model's coverage, and the path of the latest chain while its servers are there."""
    num_blocks = len(held.redundancy)
    hops = model.usability.path if model.usability is not None and path_stands(model) else ()
    return Strip(
        tuple(
            StripPart(
                f"r{min(run.redundancy, 2)}",
                rows.percent(run.start, num_blocks),
                rows.percent(run.end - run.start, num_blocks),
                f"{words.blocks([(run.start, run.end)])}: {words.count(run.redundancy, 'server')}",
            )
            for run in held.runs()
        ),
        _strip_label(held) + (f"; a computation went {_over(hops)}" if hops else ""),
        rows.ruler(num_blocks),
        tuple(_hop(hop, num_blocks) for hop in hops),
    )


def _hop(hop: Hop, num_blocks: int) -> StripPart:
    took = "" if hop.seconds_per_step is None else f", {seconds(hop.seconds_per_step)} per token"
    relayed = ", through a relay" if hop.relayed else ""
    title = f"{named_peer(hop.peer_id)} computed {words.blocks([(hop.start, hop.end)])}{took}{relayed}"
    place = rows.percent(hop.start, num_blocks)
    return StripPart("hop", place, rows.percent(hop.end - hop.start, num_blocks), title)


def _over(hops: tuple[Hop, ...]) -> str:
    return f"over {words.count(len(hops), 'server')}, to block {hops[-1].end - 1}"


def _strip_label(held: Coverage) -> str:
    """Return the coverage strip in words, for screen readers."""
    parts = [f"Coverage of {words.count(len(held.redundancy), 'block')}"]
    levels = (("no server", 0, 0), ("one server", 1, 1), ("two or more servers", 2, max(held.redundancy, default=0)))
    for who, least, most in levels:
        if spans := held.spans(least, most):
            parts.append(f"{who}: {words.blocks(spans, 6)}")
    return "; ".join(parts)


def _estimated_path(model: ModelReport, known: dict[str, PathView]) -> PathView:
    """Return the path that a client would find fastest, which is looked for where it is not known."""
    if model.dht_prefix not in known:
        path = find_path(online(model), 0, model.num_blocks) or ()
        hops = tuple(_passed(leg.server.peer_id, leg.start, leg.end) for leg in path)
        known[model.dht_prefix] = PathView(_tokens(tokens_per_second(path)) if path else "", hops=hops)
    return known[model.dht_prefix]


def _proved_path(model: ModelReport) -> PathView | None:
    """Return the chain of the latest computation; None where none gave a token, or where a server of it has left."""
    found = model.usability
    if found is None or not gives_tokens(model):
        return None
    speed = 1 / found.seconds_per_token if found.seconds_per_token else None
    return PathView(_tokens(speed), proved=True, hops=tuple(_passed(h.peer_id, h.start, h.end) for h in found.path))


def _passed(peer_id: str, start: int, end: int) -> tuple[str, str, str]:
    return text.short_id(peer_id), text.server_href(peer_id), words.block_range(start, end)


def _tokens(per_second: float | None) -> str:
    if per_second is None:
        return ""
    return words.number(per_second) if per_second >= 10 else f"{per_second:.2g}"  # noqa: PLR2004 - `1.2e+02` reads badly


def _capacity(model: ModelReport) -> str:
    stage = weakest_stage(model)
    if stage is None:
        return ""
    held = words.blocks([(stage.start, stage.end)])
    return f"{words.throughput(stage.throughput)}, as the servers of {held} claim"
