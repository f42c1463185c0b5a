"""This module draws one frame of `--watch` as lines that fit the terminal: the verdict first, then servers and blocks.

Lines are made of pieces with a colour each, and are cut by the cells that they take on a terminal. A model of more
blocks than there are columns is compressed: a column stands for several blocks, and shows the worst of them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from shared import words
from shared.advice.models import model_advice
from shared.judgement.coverage import coverage
from shared.judgement.freshness import stale_after
from shared.judgement.swarm import judged_models, swarm_state
from shared.judgement.usability import ModelUsability, does_not_compute
from shared.peer_id import short_peer_id
from shared.snapshot import PeerState
from shared.text_picture import CHARACTERS, SILENT

if TYPE_CHECKING:
    from shared.snapshot import CrawlProgress, ModelReport, ServerReport, Snapshot

BOLD, RED, GREEN, YELLOW, GREY, PLAIN = "1", "31", "32", "33", "90", ""
"""Colours as terminals know them (ECMA-48, SGR)."""

Piece = tuple[str, str]
"""A text and its colour."""
Line = Sequence[Piece]

STALE_PERIODS = 3.0
"""Crawl periods after which the verdict is in the past tense."""
NAME_COLUMNS = 24
FACTS_COLUMNS = 30
"""Columns reserved to the right of a server's blocks."""
MIN_BAR = 8
HELP = "q quit  / filter  ↑↓ scroll   # online X silent J joining ? unreachable _ offline ! none"

_STATE_COLOUR = {
    PeerState.ONLINE: GREEN,
    PeerState.JOINING: YELLOW,
    PeerState.UNREACHABLE: RED,
    PeerState.OFFLINE: GREY,
}
_MARK = {
    ModelUsability.BROKEN: ("DOWN", RED),
    ModelUsability.UNUSABLE: ("DOWN", RED),
    ModelUsability.DEGRADED: ("WEAK", YELLOW),
    ModelUsability.USABLE: ("OK", GREEN),
    ModelUsability.UNSERVED: ("NONE", GREY),
}
"""Words beside the colours; the most urgent first."""
_URGENCY = list(_MARK)
_DOING = {"joining": "joining the swarm", "reading": "reading announcements", "dialling": "dialling servers"}


@dataclass(slots=True)
class Seen:
    """What the frame shows: the last snapshot, and how the crawl that runs now is going."""

    snapshot: Snapshot | None = None
    problem: str = ""
    """Why the last crawl failed; empty where it did not."""
    progress: CrawlProgress | None = None
    """How far the crawl is that runs now."""


@dataclass(slots=True)
class Choice:
    """What the reader chose with keys."""

    scroll: int = 0
    filter: str = ""
    typing: bool = False
    """Whether keys go to the filter."""


def frame(seen: Seen, choice: Choice, *, width: int, height: int, now: float) -> list[str]:
    """Return at most `height` lines of at most `width` cells. Limits `choice.scroll` to the number of lines."""
    head = [_verdict(seen, now), _activity(seen, now)]
    foot: list[Line] = [_footer(choice)]
    body: list[Line] = []
    room = height - len(head) - len(foot)
    if seen.snapshot is not None and room > 0:
        body = _body(seen.snapshot, choice, width=width, room=room, now=now)
    lines = [*head, *body]
    lines += [[]] * (height - len(lines) - len(foot))
    return [_drawn(line, width) for line in [*lines, *foot][: max(0, height)]]


def _verdict(seen: Seen, now: float) -> Line:
    snapshot = seen.snapshot
    if snapshot is None:
        return [("Nothing is known yet: the first crawl is running", BOLD)]
    state = swarm_state(snapshot)
    colour = {"healthy": GREEN, "partly healthy": YELLOW}.get(state, RED)
    if snapshot.age(now) > stale_after(snapshot, STALE_PERIODS):
        return [(f"The swarm was {state} when last seen, {words.ago(snapshot.taken_at, now)}", f"{BOLD};{YELLOW}")]
    judged = judged_models(snapshot)
    usable = sum(coverage(model).has_path for model in judged)
    official = any(model.official for model in judged)
    counted = f"{usable} of {words.count(len(judged), 'official model' if official else 'model')} can be used"
    said = f": {counted}, {words.count(snapshot.num_servers, 'server')}" if judged else ": no server announces blocks"
    return [(f"The swarm is {state}", f"{BOLD};{colour}"), (said, BOLD)]


def _activity(seen: Seen, now: float) -> Line:
    if seen.problem:
        return [(f"The last crawl failed: {words.clean(seen.problem)}", YELLOW)]
    age = "" if seen.snapshot is None else f"As of {words.duration(seen.snapshot.age(now))} ago. "
    if seen.progress is None:
        return [(age, GREY)]
    progress = seen.progress
    said = f"{age}A crawl runs: {_DOING[progress.doing]}"
    if progress.servers:
        said += f", {words.count(progress.servers, 'server')} found, {progress.dialled} of {progress.to_dial} dialled"
    return [(said, GREY)]


def _footer(choice: Choice) -> Line:
    if choice.typing:
        return [("Filter: ", BOLD), (words.clean(choice.filter), PLAIN), ("_   Enter keeps it, Esc clears it", GREY)]
    if choice.filter:
        return [
            ("Filter: ", BOLD),
            (words.clean(choice.filter), PLAIN),
            ("   Esc clears it, / changes it, q quits", GREY),
        ]
    return [(HELP, GREY)]


def _body(snapshot: Snapshot, choice: Choice, *, width: int, room: int, now: float) -> list[Line]:
    """Verdicts of models, at most a third of the room; below them servers, as far as they were scrolled."""
    shown = _filtered(snapshot, choice.filter)
    if not shown:
        return [[], [("Nothing fits the filter." if choice.filter else "No model is announced in this swarm.", PLAIN)]]
    verdicts = _verdicts(snapshot, [model for model, _ in shown], now, max(1, room // 3), width)
    room -= len(verdicts) + 1
    total = sum(3 + len(servers) for _, servers in shown) - 1
    choice.scroll = max(0, min(choice.scroll, total - room))
    details = islice(_details(shown, width), choice.scroll, choice.scroll + max(0, room))
    return [*verdicts, [], *details]


def _filtered(snapshot: Snapshot, text: str) -> list[tuple[ModelReport, Sequence[ServerReport]]]:
    """Return the models whose name has the text in it, with all servers; of other models the servers that have it."""
    needle = text.strip().lower().lstrip(".…")
    found: list[tuple[ModelReport, Sequence[ServerReport]]] = []
    for model in snapshot.models:
        if not needle or needle in model.name.lower() or needle in model.dht_prefix.lower():
            found.append((model, model.servers))
            continue
        servers = [
            server for server in model.servers
            if needle in f"{server.peer_id} {server.public_name or ''} {server.state}".lower()
        ]  # fmt: skip
        if servers:
            found.append((model, servers))
    return found


def _verdicts(snapshot: Snapshot, models: list[ModelReport], now: float, limit: int, width: int) -> list[Line]:
    judged = [(model, model_advice(model, snapshot, now)) for model in models]
    judged.sort(key=lambda item: (_URGENCY.index(item[1].usability), not item[0].official))
    lines: list[Line] = []
    for model, verdict in judged[: limit if len(judged) <= limit else limit - 1]:
        mark, colour = _MARK[verdict.usability]
        name = _padded(words.cut(model.name, NAME_COLUMNS), NAME_COLUMNS)
        lines.append([(f"{mark:<4} ", colour), (f"{name} ", BOLD), (verdict.advice.reason, PLAIN)])
    if left := len(judged) - len(lines):
        lines.append([(f"     and {words.count(left, 'more model')}", GREY)])
    return lines


def _details(shown: list[tuple[ModelReport, Sequence[ServerReport]]], width: int) -> Iterator[Line]:
    """A model's name, the servers of each block, a line for each server; an empty line between models."""
    label = len(short_peer_id("")) + 7
    for place, (model, servers) in enumerate(shown):
        if place:
            yield []
        columns = max(MIN_BAR, min(model.num_blocks, width - label - 2 - FACTS_COLUMNS))
        columns = min(columns, model.num_blocks)
        per_column = -(-model.num_blocks // columns) if columns else 1
        scale = f", {per_column} per column" if per_column > 1 else ""
        name = words.cut(model.name, max(NAME_COLUMNS, width // 2))
        yield [(name, BOLD), (f"   {words.count(model.num_blocks, 'block')}{scale}", GREY)]
        yield [
            (" " * (label - 1), PLAIN),
            (" |", GREY),
            *_coverage_bar(coverage(model).redundancy, columns),
            ("|", GREY),
        ]
        for server in servers:
            yield _server_line(server, model.num_blocks, columns, label)


def _server_line(server: ServerReport, num_blocks: int, columns: int, label: int) -> Line:
    start, end = _columns_of(server.span.start, server.span.end, num_blocks, columns)
    facts = f" {words.block_range(server.span.start, server.span.end)}"
    facts += f"  {words.throughput(server.throughput)}" + (" relay" if server.relayed else "")
    silent = does_not_compute(server)
    colour = RED if silent else _STATE_COLOUR[server.state]
    mark = SILENT if silent else CHARACTERS[server.state]
    name = f"  {words.cut(server.public_name, NAME_COLUMNS)}" if server.show_public_name and server.public_name else ""
    return [
        (_padded(short_peer_id(server.peer_id), label - 1), PLAIN), (" |", GREY),
        (" " * start, PLAIN), (mark * (end - start), colour), (" " * (columns - end), PLAIN),
        ("|", GREY), (facts, PLAIN), (name, GREY),
    ]  # fmt: skip


def _columns_of(start: int, end: int, num_blocks: int, columns: int) -> tuple[int, int]:
    """Return the columns `first <= column < last` of which some block is in `start <= block < end`; at least one."""
    first = start * columns // num_blocks
    return first, max(first + 1, -(-end * columns // num_blocks))


def _coverage_bar(redundancy: Sequence[int], columns: int) -> Iterator[Piece]:
    """For each column the fewest servers that one of its blocks has: a digit, `+` for ten and more, `!` for none."""
    for column in range(columns):
        start = column * len(redundancy) // columns
        end = max(start + 1, (column + 1) * len(redundancy) // columns)
        least = min(redundancy[start:end])
        if not least:
            yield "!", f"{BOLD};{RED}"
        else:
            yield (str(least) if least < 10 else "+"), YELLOW if least == 1 else GREEN  # noqa: PLR2004 - a digit


def _padded(text: str, columns: int) -> str:
    return text + " " * (columns - cells(text))


def cells(text: str) -> int:
    """Return how many columns of a terminal a printable text takes."""
    return sum(map(_cells_of, text))


def _cells_of(char: str) -> int:
    if char.isascii():
        return 1
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _drawn(line: Line, width: int) -> str:
    """Return the line with its colours, cut at `width` cells."""
    drawn, left = [], width
    for text, sgr in line:
        kept = text if cells(text) <= left else _beginning(text, left - 1) + "…" * (left > 0)
        left -= cells(kept)
        drawn.append(f"\x1b[{sgr}m{kept}\x1b[0m" if sgr and kept else kept)
        if len(kept) < len(text):
            break
    return "".join(drawn)


def _beginning(text: str, columns: int) -> str:
    for place, char in enumerate(text):
        columns -= _cells_of(char)
        if columns < 0:
            return text[:place]
    return text
