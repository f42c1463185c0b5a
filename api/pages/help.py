"""This module prepares the help page: where one more server counts most, and how many blocks a GPU may hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.pages import text
from shared.advice.help import Need, gpu_blocks, wanted

if TYPE_CHECKING:
    from api.pages.view import View
    from shared.snapshot import Snapshot

GPU_SIZES = (8, 12, 16, 24, 32, 40, 48, 80)
"""Memory of usual GPUs, in GB."""
MAX_ROWS = 20
MAX_MODELS = 12
_WHY = {
    Need.MISSING: ("bad", "missing"),
    Need.SINGLE: ("warn", "one server alone"),
    Need.SLOWEST: ("idle", "slowest stage"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Blocks that want a server. `rest` says that the command serves a part of them."""

    tone: str
    why: str
    name: str
    href: str
    official: bool
    sentence: str
    command: str
    rest: bool


@dataclass(frozen=True, slots=True)
class Help:
    """What the help page shows."""

    gpu_gb: int | None
    sizes: tuple[int, ...]
    places: tuple[Place, ...]
    estimates: tuple[tuple[str, str, int, tuple[int, ...]], ...]
    """Of each model: its name, the dtype and quantisation, its blocks, and how many of them fit each of `sizes`."""
    unknown: tuple[str, ...]
    """Models whose size is not known."""


def make_help(view: View, gpu_gb: int | None) -> Help:
    snapshot = view.shown
    if snapshot is None:
        return Help(gpu_gb, GPU_SIZES, (), (), ())
    places = tuple(
        Place(
            *_WHY[line.need],
            name=text.cut(line.name, 60) or "(nameless)",
            href=text.model_href(line.dht_prefix),
            official=line.official,
            sentence=line.sentence,
            command=line.command,
            rest=not line.completes,
        )
        for line in wanted(snapshot, gpu_gb=gpu_gb)[:MAX_ROWS]
    )
    return Help(gpu_gb, GPU_SIZES, places, *_estimates(snapshot))


def _estimates(
    snapshot: Snapshot,
) -> tuple[tuple[tuple[str, str, int, tuple[int, ...]], ...], tuple[str, ...]]:
    known, unknown = [], []
    for model in [model for model in snapshot.models if model.servers or model.official][:MAX_MODELS]:
        found = [gpu_blocks(model, size) for size in GPU_SIZES]
        fits = [estimate for estimate in found if estimate is not None]
        name = text.cut(model.name, 40) or "(nameless)"
        if len(fits) < len(found):
            unknown.append(name)
            continue
        in_what = (
            fits[0].torch_dtype if fits[0].quant_type == "none" else f"{fits[0].quant_type}, {fits[0].torch_dtype}"
        )
        known.append((name, text.cut(in_what, 24), model.num_blocks, tuple(estimate.blocks for estimate in fits)))
    return tuple(known), tuple(unknown)
