"""Snapshots of any size, for benchmarks: as a large real swarm would look, without one."""

from __future__ import annotations

import hashlib
import random
import time

import base58

from shared.snapshot import (
    SCHEMA_VERSION,
    BootstrapPeer,
    ModelReport,
    ModelState,
    PeerState,
    ServerReport,
    Snapshot,
    Span,
    Verdict,
)

STATES = [PeerState.ONLINE] * 8 + [PeerState.JOINING, PeerState.UNREACHABLE]
BLOCKS = 80
PINGS = 5


def peer_id(number: int) -> str:
    return base58.b58encode(b"\x12\x20" + hashlib.sha256(f"synthetic {number}".encode()).digest()).decode()


def snapshot(num_servers: int, num_models: int = 4) -> Snapshot:
    """Return a snapshot taken now: servers spread over models of 80 blocks, in all states, with pings."""
    rng = random.Random(num_servers)
    ids = [peer_id(number) for number in range(num_servers)]
    models = []
    for number in range(num_models):
        own = ids[number::num_models]
        servers = tuple(sorted((_server(rng, identity, own) for identity in own), key=lambda server: server.peer_id))
        name = f"synthetic-{number}-hf"
        models.append(
            ModelReport(
                name,
                BLOCKS,
                ModelState.HEALTHY,
                f"demo/{name}",
                name,
                f"https://huggingface.co/demo/{name}",
                official=number == 0,
                servers=servers,
            )
        )
    return Snapshot(
        schema=SCHEMA_VERSION,
        taken_at=time.time(),
        update_period=60.0,
        update_duration=4.2,
        bootstrap_peers=(BootstrapPeer(peer_id(-1), ("/ip4/192.0.2.1/tcp/31337",), Verdict.REACHABLE),),
        models=tuple(models),
    )


def _server(rng: random.Random, identity: str, others: list[str]) -> ServerReport:
    start = rng.randrange(0, BLOCKS - 10)
    state = rng.choice(STATES)
    return ServerReport(
        peer_id=identity,
        state=state,
        announced=PeerState.ONLINE if state is PeerState.UNREACHABLE else state,
        span=Span(start, rng.randrange(start + 4, min(BLOCKS, start + 30))),
        show_public_name=state is PeerState.ONLINE,
        throughput=round(rng.uniform(50, 4000), 1),
        verdict=Verdict.UNREACHABLE if state is PeerState.UNREACHABLE else Verdict.REACHABLE,
        public_name=rng.choice([None, "Ada", "https://example.org/lab", "GPU Club"]),
        version=rng.choice(["2.2.0.post1", "2.1.0"]),
        network_rps=round(rng.uniform(50, 4000), 1),
        forward_rps=round(rng.uniform(500, 9000), 1),
        inference_rps=round(rng.uniform(50, 400), 1),
        torch_dtype="bfloat16",
        quant_type="nf4",
        using_relay=rng.random() < 0.2,
        cache_tokens_left=rng.randrange(10_000, 300_000),
        next_pings={rng.choice(others): round(rng.uniform(0.005, 0.3), 4) for _ in range(PINGS)},
        multiaddrs=(f"/ip4/192.0.2.{rng.randrange(1, 255)}/tcp/31337",),
    )
