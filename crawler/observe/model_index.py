"""Which of the announced models are looked at: anyone can announce any number, and each block costs a look-up.

Models that the last crawl found served come first, so that no flood displaces them. Where the others are too
many, a random sample of them is probed: those whose blocks somebody serves are chosen, largest first. So a
flood of names alone is worth nothing, and an honest model that it hides is found within some crawls, and stays.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

from crawler.models import Model
from crawler.observe.blocks import Place
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from shared.snapshot import Snapshot

MAX_ANNOUNCED_MODELS = 100
"""Models beside the official ones."""
MAX_ANNOUNCED_BLOCKS = 10_000
"""Blocks of these in all. The public swarm has announced about 1,500."""
MAX_PROBED_MODELS = 1_000
PROBED_BLOCKS = 2


def reached(last: Snapshot | None) -> frozenset[str]:
    """Return the servers that the last crawl reached."""
    models = last.models if last is not None else ()
    return frozenset(
        server.peer_id for model in models for server in model.servers if server.verdict is Verdict.REACHABLE
    )


def served_before(last: Snapshot | None) -> list[Model]:
    """Return the announced models of which the last crawl reached a server."""
    return [
        Model(report.dht_prefix, report.num_blocks, report.repository, official=False)
        for report in (last.models if last is not None else ())
        if not report.official and any(server.verdict is Verdict.REACHABLE for server in report.servers)
    ]


def standing(model: Model) -> tuple[int, str]:
    """The public contract's order of announced models."""
    return -model.num_blocks, model.dht_prefix


def first_that_fit(models: Collection[Model], *, beside: Collection[Model] = ()) -> list[Model]:
    """Return those of `models` that there is room for beside others that are chosen already."""
    chosen: list[Model] = []
    room, blocks = MAX_ANNOUNCED_MODELS - len(beside), MAX_ANNOUNCED_BLOCKS - sum(model.num_blocks for model in beside)
    for model in models:
        if len(chosen) < room and model.num_blocks <= blocks:
            chosen.append(model)
            blocks -= model.num_blocks
    return chosen


def fit_early(models: Collection[Model]) -> bool:
    """Whether these may be looked at before the whole index is known: they leave half of the room to the others."""
    blocks = sum(model.num_blocks for model in models)
    return len(models) <= MAX_ANNOUNCED_MODELS // 2 and blocks <= MAX_ANNOUNCED_BLOCKS // 2


async def served_first(
    models: Collection[Model], is_served: Callable[[list[Place]], Awaitable[Collection[Place]]]
) -> list[Model]:
    """Probe some blocks of a random sample and return it, those first that are served.

    `is_served` returns those of the blocks under which a sound record stands.
    """
    sample = random.sample(list(models), min(len(models), MAX_PROBED_MODELS))
    places = [
        Place(model.dht_prefix, block)
        for model in sample
        for block in random.sample(range(model.num_blocks), min(model.num_blocks, PROBED_BLOCKS))
    ]
    served = Counter(prefix for prefix, _ in await is_served(places))

    def rank(model: Model) -> tuple[float, int, str]:
        return -served[model.dht_prefix] / min(model.num_blocks, PROBED_BLOCKS), *standing(model)

    return sorted(sample, key=rank)
