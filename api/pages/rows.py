"""This module makes a server's row in a table, with its span of blocks drawn to scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.pages import text
from shared import words
from shared.judgement.swarm import count_states, uses_relay
from shared.judgement.usability import does_not_compute
from shared.snapshot import PeerState, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.snapshot import ModelReport, ServerReport

MAX_ADAPTERS = 3
"""LoRAs named in a row; the server's own page names all."""

STATES = (PeerState.ONLINE, PeerState.JOINING, PeerState.UNREACHABLE, PeerState.OFFLINE)
"""In the order in which pages count and list them."""


@dataclass(frozen=True, slots=True)
class Row:
    """A server, and what one row shows of it. `x` and `width` place the span on the ruler, in percent."""

    server: ServerReport
    contributor: text.Shown | None
    precision: str
    adapters: tuple[text.Shown, ...]
    cache: str
    via: str
    version_differs: bool
    """Whether dialling found another version than its record."""
    blocks: str
    x: str
    width: str
    silent: bool
    """Whether it is online and does not compute, as an inference check proved."""


@dataclass(frozen=True, slots=True)
class Ruler:
    """Block numbers under a drawing: (percent, number) of each tick."""

    blocks: int
    ticks: tuple[tuple[str, int], ...]


def make_row(server: ServerReport, num_blocks: int) -> Row:
    span = server.span
    return Row(
        server=server,
        contributor=contributor(server),
        precision=precision(server),
        adapters=tuple(text.adapter(name) for name in server.adapters[:MAX_ADAPTERS]),
        cache=words.number(server.cache_tokens_left_per_block) if span.length else "",
        via=via(server),
        version_differs="version" in (server.conflict or ""),
        blocks=words.block_range(span.start, span.end) if span.length else "",
        x=percent(span.start, num_blocks),
        width=percent(span.length, num_blocks),
        silent=does_not_compute(server),
    )


def make_rows(servers: Iterable[ServerReport], num_blocks: int) -> list[Row]:
    """Return rows sorted by block, so that the spans run from top left to bottom right."""
    ordered = sorted(servers, key=lambda server: (server.span.start, server.span.end, server.peer_id))
    return [make_row(server, num_blocks) for server in ordered]


def fastest(servers: Iterable[ServerReport], limit: int) -> list[ServerReport]:
    """The servers that claim most throughput, online ones first."""
    return sorted(servers, key=lambda server: (server.state is not PeerState.ONLINE, -server.throughput))[:limit]


def contributor(server: ServerReport) -> text.Shown | None:
    if not server.show_public_name or not server.public_name:
        return None
    return text.shown_name(server.public_name, 22)


def precision(server: ServerReport) -> str:
    """`f16, nf4`: the type of the weights' numbers and the quantization, if any."""
    parts = [(server.torch_dtype or "").replace("float", "f")]
    if server.quant_type and server.quant_type.lower() != "none":
        parts.append(server.quant_type)
    return text.cut(", ".join(part for part in parts if part), 18)


def via(server: ServerReport) -> str:
    """How the crawler reached the server; where it did not, how the server announces to be reached."""
    return {True: "relay", False: "direct", None: ""}[uses_relay(server)]


def how_reached(server: ServerReport) -> str:
    """How the crawler reached the server, and what that costs a client; empty where it did not."""
    if server.relayed is None or server.rtt is None:
        return ""
    took = f"in {words.milliseconds(server.rtt)}"
    if not server.relayed:
        return f"directly, {took}"
    relay = f" …{text.short_id(server.relay)}" if server.relay else ""
    return f"through the relay{relay}, {took}; each token of a client takes this detour"


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.5g}%" if whole else "0%"


def ruler(num_blocks: int) -> Ruler:
    """Ticks at about four round distances; the last block's edge always has one."""
    step = next(
        (size * scale for scale in (1, 10, 100, 1000, 10_000) for size in (1, 2, 5) if num_blocks <= 5 * size * scale),
        max(1, num_blocks),
    )
    # A tick too close to the last one is left out.
    numbers = [tick for tick in range(0, num_blocks, step) if num_blocks - tick > step / 2] + [num_blocks]
    return Ruler(num_blocks, tuple((percent(tick, num_blocks), tick) for tick in numbers))


def state_counts(model: ModelReport) -> list[tuple[str, int]]:
    """How many servers are in each state that occurs."""
    counts = count_states([model])
    return [(state.value, counts[state]) for state in STATES if counts[state]]


def verdict_words(server: ServerReport) -> str:
    """Return the crawler's verdict on the server in words, or why it was not dialled."""
    if server.conflict:
        return f"reachable, but it differs from its record: {text.cut(server.conflict, text.MAX_ERROR)}"
    if server.state in (PeerState.JOINING, PeerState.OFFLINE):
        return "not dialled: the monitor dials servers that announce that they are online"
    return {
        Verdict.REACHABLE: "reachable: it answered the monitor",
        Verdict.UNREACHABLE: "unreachable: it did not answer the monitor",
        Verdict.UNKNOWN: "not known: the monitor could not dial it",
    }[server.verdict]
