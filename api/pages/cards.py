"""A model as a card: what it is, whether it can be used, where it is thin, who serves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.pages import coverage, rows, text
from shared.snapshot import ModelState, PeerState

if TYPE_CHECKING:
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
    parts: tuple[StripPart, ...]
    label: str
    ruler: rows.Ruler


@dataclass(frozen=True, slots=True)
class PathView:
    """The verdict on a way through the model, in words. `tokens` is the estimate as text, empty without one."""

    usable: bool
    sentence: str
    tokens: str
    hops: tuple[tuple[str, str, str], ...] = ()
    """Of each server: short id, address of its page, blocks."""


@dataclass(frozen=True, slots=True)
class Card:
    anchor: str
    href: str
    name: str
    full_name: str
    short_name: str
    dht_prefix: str
    repository: text.Shown | None
    official: bool
    limited: bool
    healthy: bool
    stale: bool
    num_blocks: int
    covered: int
    strip: Strip
    bottleneck: str
    weak: bool
    """Whether the bottleneck is worth a warning: no server, or one alone."""
    slowest: str
    path: PathView
    states: list[tuple[str, int]]
    num_servers: int
    rows: list[rows.Row]
    unfolded: bool

    @property
    def num_online(self) -> int:
        return dict(self.states).get(PeerState.ONLINE.value, 0)


def make_card(model: ModelReport, *, max_rows: int = FULL_TABLE, stale: bool = False) -> Card:
    """Draw a model with at most `max_rows` of its servers; what is `stale` is told in the past tense."""
    redundancy = model.redundancy()
    runs = coverage.redundancy_runs(redundancy)
    listed = model.servers
    if len(listed) > max_rows:
        listed = tuple(rows.fastest(listed, min(SHORT_TABLE, max_rows)))
    return Card(
        anchor=text.anchor(model.dht_prefix),
        href=text.model_href(model.dht_prefix),
        name=text.cut(model.name, 60) or "(nameless)",
        full_name=text.clean(model.name),
        short_name=text.cut(model.short_name, 32) or text.cut(model.dht_prefix, 32) or "(nameless)",
        dht_prefix=text.cut(model.dht_prefix, 80),
        repository=_repository(model),
        official=model.official,
        limited=model.limited,
        healthy=model.state is ModelState.HEALTHY,
        stale=stale,
        num_blocks=model.num_blocks,
        covered=sum(run.end - run.start for run in runs if run.redundancy),
        strip=make_strip(runs, model.num_blocks),
        bottleneck=coverage.bottleneck(runs),
        weak=min(redundancy, default=0) <= 1,
        slowest=_slowest(model),
        path=path_view(model, redundancy, stale=stale),
        states=rows.state_counts(model),
        num_servers=len(model.servers),
        rows=rows.make_rows(listed, model.num_blocks),
        unfolded=len(listed) <= OPEN_TABLE,
    )


def make_strip(runs: list[coverage.Run], num_blocks: int) -> Strip:
    return Strip(
        tuple(
            StripPart(
                f"r{min(run.redundancy, 2)}",
                rows.percent(run.start, num_blocks),
                rows.percent(run.end - run.start, num_blocks),
                f"{coverage.in_words([(run.start, run.end)])}: {text.count(run.redundancy, 'server')}",
            )
            for run in runs
        ),
        _strip_label(runs, num_blocks),
        rows.ruler(num_blocks),
    )


def _strip_label(runs: list[coverage.Run], num_blocks: int) -> str:
    """The strip for those who cannot see it."""
    parts = [f"Coverage of {text.count(num_blocks, 'block')}"]
    for words, level in (("no server", 0), ("one server", 1), ("two or more servers", 2)):
        spans = coverage.merge((run.start, run.end) for run in runs if min(run.redundancy, 2) == level)
        if spans:
            parts.append(f"{words}: {coverage.in_words(spans, 6)}")
    return "; ".join(parts)


def path_view(model: ModelReport, redundancy: list[int], *, stale: bool = False) -> PathView:
    """Say whether the model can be used, and how, or why not."""
    can, cannot, serves = "Can be used now", "Cannot be used now", "Nobody serves it now"
    if stale:
        can, cannot, serves = "Could be used", "Could not be used", "Nobody served it"
    path = coverage.find_path(model, redundancy)
    if path is None:
        if not any(redundancy):
            return PathView(usable=False, sentence=f"{serves}.", tokens="")
        gaps = coverage.merge(
            (run.start, run.end) for run in coverage.redundancy_runs(redundancy) if not run.redundancy
        )
        verb = "has" if sum(end - start for start, end in gaps) == 1 else "have"
        return PathView(usable=False, sentence=f"{cannot}: {coverage.in_words(gaps)} {verb} no server.", tokens="")
    way = f"through {len(path.hops)} servers in a row" if len(path.hops) > 1 else "with one server for all blocks"
    hops = tuple(
        (
            text.cut(hop.server.peer_id[-6:]),
            text.server_href(hop.server.peer_id),
            coverage.block_range(hop.start, hop.end),
        )
        for hop in path.hops
    )
    tokens = "" if path.tokens_per_second is None else f"{path.tokens_per_second:.2g}"
    if path.tokens_per_second is not None and path.tokens_per_second >= 10:  # noqa: PLR2004 - `1.2e+02` reads badly
        tokens = text.number(path.tokens_per_second)
    return PathView(usable=True, sentence=f"{can}, {way}.", tokens=tokens, hops=hops)


def _slowest(model: ModelReport) -> str:
    stage = coverage.slowest_stage(model)
    if stage is None:
        return ""
    return f"{text.number(stage.throughput)} tok/s at {coverage.in_words([(stage.start, stage.end)])}"


def _repository(model: ModelReport) -> text.Shown | None:
    link = text.safe_link(model.repository)
    return None if link is None else text.shown_name(link, 60)
