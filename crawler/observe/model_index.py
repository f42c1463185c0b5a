"""This module chooses which announced models a crawl reads.

Anyone can announce any number of models, and each of their blocks costs a lookup.

Models that the last crawl found served come first, so that no flood displaces them. Where there are too many others,
a few blocks of a random sample of them are looked up: the models whose blocks have servers are chosen, largest first.
So a flood of mere names takes no room, and an honest model that it hides is found within some crawls, and then kept.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

from crawler.models import Model
from crawler.observe.blocks import BlockKey
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from shared.snapshot import Snapshot

MAX_ANNOUNCED_MODELS = 100
"""Announced models that are read, without the official ones."""
MAX_ANNOUNCED_BLOCKS = 10_000
"""Total blocks of these. The public swarm has announced about 1,500."""
MAX_SAMPLED_MODELS = 1_000
SAMPLED_BLOCKS = 2
"""Blocks looked up per sampled model."""


def reached(last: Snapshot | None) -> frozenset[str]:
    """Return the peer ids of the servers that the last crawl reached."""
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


def sort_key(model: Model) -> tuple[int, str]:
    """Return the key by which the public API sorts announced models."""
    return -model.num_blocks, model.dht_prefix


def first_that_fit(models: Collection[Model], *, beside: Collection[Model]) -> list[Model]:
    """Return those of `models` that fit in the limits together with others that are chosen already."""
    chosen: list[Model] = []
    room, blocks = MAX_ANNOUNCED_MODELS - len(beside), MAX_ANNOUNCED_BLOCKS - sum(model.num_blocks for model in beside)
    for model in models:
        if len(chosen) < room and model.num_blocks <= blocks:
            chosen.append(model)
            blocks -= model.num_blocks
    return chosen


def fit_early(models: Collection[Model]) -> bool:
    """Whether these may be read before the whole index is known: they take at most half of each limit."""
    blocks = sum(model.num_blocks for model in models)
    return len(models) <= MAX_ANNOUNCED_MODELS // 2 and blocks <= MAX_ANNOUNCED_BLOCKS // 2


async def served_first(
    models: Collection[Model], find_served: Callable[[list[BlockKey]], Awaitable[Collection[BlockKey]]]
) -> list[Model]:
    """Return a random sample of the models, sorted: those with the largest share of served blocks first.

    `find_served` returns those of the given blocks that have a valid record.
    """
    sample = random.sample(list(models), min(len(models), MAX_SAMPLED_MODELS))
    blocks = [
        BlockKey(model.dht_prefix, block)
        for model in sample
        for block in random.sample(range(model.num_blocks), min(model.num_blocks, SAMPLED_BLOCKS))
    ]
    served = Counter(prefix for prefix, _ in await find_served(blocks))

    def rank(model: Model) -> tuple[float, int, str]:
        return -served[model.dht_prefix] / min(model.num_blocks, SAMPLED_BLOCKS), *sort_key(model)

    return sorted(sample, key=rank)
