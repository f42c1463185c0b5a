"""Compares this monitor's paths with those of Petals' genuine client over random swarms: `python paths.py HOW_MANY`.

It prints JSON, by swarm: the seconds per token of the path that `find_path` finds, as the client's own graph counts
them, and of the path that the client finds in it; both None where neither finds one. It runs in the genuine server's
environment.
"""

from __future__ import annotations

import json
import random
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from runner import restore_hivemind_names

BLOCKS = 12


def random_servers(rng: random.Random, peer_ids: list[Any]) -> list[Any]:
    """Return servers with the fields of a `ServerReport` that a path depends on."""
    servers = []
    for peer_id in rng.sample(peer_ids, rng.randint(6, len(peer_ids))):
        start = rng.randrange(BLOCKS)
        pings = {
            other.to_base58(): rng.choice([rng.random(), float("inf")]) for other in peer_ids if rng.random() < 0.5
        }
        span = SimpleNamespace(start=start, end=(end := rng.randint(start + 1, BLOCKS)), length=end - start)
        servers.append(
            SimpleNamespace(
                peer=peer_id, peer_id=peer_id.to_base58(), span=span, rtt=rng.choice([None, rng.random()]),
                inference_rps=rng.choice([None, rng.uniform(5, 500)]), next_pings=rng.choice([None, pings]),
                cache_tokens_left=rng.choice([None, rng.randrange(4000)]),
            )
        )  # fmt: skip
    return servers


def graph_of(servers: list[Any], start: int, end: int, cache_tokens: int) -> Any:
    """Return the graph in which the client searches; None where it finds that blocks are missing."""
    data, manager = import_module("petals.data_structures"), import_module("petals.client.routing.sequence_manager")
    infos = [data.RemoteModuleInfo(f"model.{block}", {}) for block in range(BLOCKS)]
    for one in servers:
        told = {name: getattr(one, name) for name in ("inference_rps", "next_pings", "cache_tokens_left")}
        for block in range(one.span.start, one.span.end):
            infos[block].servers[one.peer] = data.ServerInfo(data.ServerState.ONLINE, 1.0, **told)
    client = object.__new__(manager.RemoteSequenceManager)
    client.state = SimpleNamespace(sequence_info=manager.RemoteSequenceInfo.make_empty([info.uid for info in infos]))
    client.state.sequence_info.update_(infos)
    client.ping_aggregator = SimpleNamespace(to_dict=lambda: {one.peer: one.rtt for one in servers})
    try:
        return client._build_inference_graph(start, end, cache_tokens_needed=cache_tokens)
    except manager.MissingBlocksError:
        return None


def compare(rng: random.Random, peer_ids: list[Any]) -> tuple[float | None, float | None]:
    path = import_module("shared.judgement.path")
    servers, start = random_servers(rng, peer_ids), rng.choice([0, rng.randrange(BLOCKS)])
    end = rng.choice([BLOCKS, rng.randint(start + 1, BLOCKS)])
    graph, legs = graph_of(servers, start, end, path.CACHE_TOKENS), path.find_path(servers, start, end)
    if graph is None or legs is None:
        return (None if legs is None else 0.0), (None if graph is None else 0.0)
    nodes = [(leg.server.peer, block) for leg in legs for block in range(leg.start, leg.end + 1)]
    ours = sum(graph.get_edge(*edge) for edge in pairwise(["start", *nodes, "end"]))
    return ours, import_module("dijkstar").find_path(graph, "start", "end").total_cost


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parent.parent.parent))
    restore_hivemind_names()
    make_id = import_module("hivemind").PeerID
    peers = [make_id(b"\x12\x20" + bytes([number]) * 32) for number in range(14)]
    print(json.dumps([compare(random.Random(seed), peers) for seed in range(int(sys.argv[1]))]))  # noqa: T201
