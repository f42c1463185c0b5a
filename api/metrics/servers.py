"""This module collects metrics per server: opt-in, on a path of its own, because a large swarm has thousands of series.

Labels hold peer ids only: a public name is free text that its server can change at any time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.registry import Collector

from api.metrics.swarm import RPS_FIELDS, family, gauge, shown_models
from shared.inference import AgreementOutcome
from shared.snapshot import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric
    from prometheus_client.core import GaugeMetricFamily

    from shared.snapshot import Snapshot

MAX_SERVERS = 5_000
"""Servers with series of their own, in the order of the models."""


class ServerCollector(Collector):
    """One snapshot's servers. A server that serves two models has series for each."""

    def __init__(self, snapshot: Snapshot) -> None:
        models, _ = shown_models(snapshot)
        servers = {(model.dht_prefix, server.peer_id): server for model in models for server in model.servers}
        everywhere = sum(len(model.servers) for model in snapshot.models)
        self._servers = dict(list(servers.items())[:MAX_SERVERS])
        self._overflow = everywhere - len(self._servers)

    def collect(self) -> Iterator[Metric]:
        state = _family("petals_server_state", "1 for the server's state.", "state")
        reached = _family(
            "petals_server_reachable", "1 if the crawler reached it, 0 if not; absent if nobody could probe it."
        )
        first = _family("petals_server_first_block", "The first block that it serves.")
        blocks = _family("petals_server_blocks", "Blocks that it serves.")
        rps = _family("petals_server_throughput_rps", "Requests per second, as announced.", "kind")
        cache = _family("petals_server_cache_tokens_left", "Free attention cache.")
        relay = _family("petals_server_using_relay", "1 if it announces that it uses a relay.")
        relayed = _family(
            "petals_server_relayed", "1 if reached through a relay, 0 if directly; absent if not reached."
        )
        for name, server in self._servers.items():
            state.add_metric([*name, server.state.value], 1)
            if server.verdict is not Verdict.UNKNOWN:
                reached.add_metric(name, server.verdict is Verdict.REACHABLE)
            first.add_metric(name, server.span.start)
            blocks.add_metric(name, server.span.length)
            for kind, field in RPS_FIELDS.items():
                announced: float | None = getattr(server, field)
                if announced is not None:
                    rps.add_metric([*name, kind], announced)
            if server.cache_tokens_left is not None:
                cache.add_metric(name, server.cache_tokens_left)
            if server.using_relay is not None:
                relay.add_metric(name, server.using_relay)
            if server.relayed is not None:
                relayed.add_metric(name, server.relayed)
        yield from (state, reached, first, blocks, rps, cache, relay, relayed)
        yield from self._inference()
        yield gauge("petals_servers_overflow", "Servers without series of their own.", self._overflow)

    def _inference(self) -> Iterator[Metric]:
        inference = _family("petals_server_inference", "1 for the outcome of its latest inference check.", "outcome")
        per_step = _family(
            "petals_server_seconds_per_step",
            "Seconds that it took for one token through its blocks, measured by the crawler.",
        )
        agrees = _family(
            "petals_server_agrees",
            "1 if it computes the same as others with the same input, 0 if not; absent without others.",
        )
        for name, server in self._servers.items():
            if server.inference is None:
                continue
            inference.add_metric([*name, server.inference.outcome], 1)
            if server.inference.seconds_per_step is not None:
                per_step.add_metric(name, server.inference.seconds_per_step)
            if server.inference.agreement.outcome in (AgreementOutcome.AGREES, AgreementOutcome.DISAGREES):
                agrees.add_metric(name, server.inference.agreement.outcome is AgreementOutcome.AGREES)
        yield from (inference, per_step, agrees)


def _family(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return family(name, documentation, "peer_id", *labels)
