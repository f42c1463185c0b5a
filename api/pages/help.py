"""This module prepares the help page: where one more server counts most, and how many blocks a GPU may hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.pages import text
from shared.advice.help import Need, gpu_blocks, wanted

if TYPE_CHECKING:
    from api.pages.view import View
    from shared.advice.help import Wanted
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
class Help:
    """What the help page shows."""

    gpu_gb: int | None
    sizes: tuple[int, ...]
    places: tuple[tuple[str, str, Wanted], ...]
    """Tone, why a server is wanted, and where."""
    estimates: tuple[tuple[str, str, int, tuple[int, ...]], ...]
    """Of each model: its name, the dtype and quantisation, its blocks, and how many of them fit each of `sizes`."""
    unknown: tuple[str, ...]
    """Models whose size is not known."""


def make_help(view: View, gpu_gb: int | None) -> Help:
    snapshot = view.snapshot
    if snapshot is None:
        return Help(gpu_gb, GPU_SIZES, (), (), ())
    places = tuple((*_WHY[place.need], place) for place in wanted(snapshot, gpu_gb=gpu_gb)[:MAX_ROWS])
    return Help(gpu_gb, GPU_SIZES, places, *_estimates(snapshot))


def _estimates(
    snapshot: Snapshot,
) -> tuple[tuple[tuple[str, str, int, tuple[int, ...]], ...], tuple[str, ...]]:
    known, unknown = [], []
    for model in [model for model in snapshot.models if model.servers or model.official][:MAX_MODELS]:
        fits = [estimate for size in GPU_SIZES if (estimate := gpu_blocks(model, size)) is not None]
        name = text.name(model.name, 40)
        if not fits:
            unknown.append(name)
            continue
        in_what = (
            fits[0].torch_dtype if fits[0].quant_type == "none" else f"{fits[0].quant_type}, {fits[0].torch_dtype}"
        )
        known.append((name, text.cut(in_what, 24), model.num_blocks, tuple(estimate.blocks for estimate in fits)))
    return tuple(known), tuple(unknown)
