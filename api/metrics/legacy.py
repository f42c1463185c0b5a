"""This module collects the predecessor's metrics, which dashboards rely on: same names and labels, escaped."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector

from api.metrics.swarm import MAX_VERSIONS, RPS_FIELDS, family, gauge, gauges, shown_models, top
from shared.judgement.coverage import coverage, speed_by_block
from shared.snapshot import PeerState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client import Metric

    from shared.snapshot import Snapshot

PERCENTILES = (25, 50, 75, 90, 95)


class LegacyCollector(Collector):
    """All of them for one snapshot; `blocks_total` is a gauge in spite of its name."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        servers = [server for model in snapshot.models for server in model.servers]
        yield gauge("update_duration", "Seconds that the last crawl took.", snapshot.update_duration)

        pinging = [server.next_pings for server in servers if server.next_pings is not None]
        pings = [seconds for announced in pinging for seconds in announced.values() if not math.isnan(seconds)]
        finite = sorted(seconds for seconds in pings if math.isfinite(seconds))
        if pings:
            yield gauge("peers_per_srv", "Peers that a server pings, on average.", len(pings) / len(pinging))
            yield gauge("pings_inf_share", "Share of pings without an answer.", 1 - len(finite) / len(pings))
        yield gauge("servers_num_total", "Servers that announce pings.", len(pinging))
        yield gauge("servers_num_relay", "Servers behind a relay.", sum(bool(s.using_relay) for s in servers))
        if finite:
            percentiles = {str(percent): _percentile(finite, percent) for percent in PERCENTILES}
            yield gauges("ping_pct", "Percentiles of answered pings, in seconds.", "pct", percentiles)
        versions = top(Counter(server.version for server in servers if server.version), MAX_VERSIONS)
        yield gauges("server_version", "Servers by version.", "version_number", versions)
        yield from self._models()

    def _models(self) -> Iterator[Metric]:
        blocks = family("n_blocks", "Blocks of the model.")
        servers = family("servers_num", "Servers of the model.")
        total = family("blocks_total", "Blocks served, over all servers.")
        online_min = family("blocks_online_min", "Online servers of the rarest block.")
        by_state = family("blocks", "Blocks served, by the servers' state.", "state")
        average = family("rps_avg", "Mean over blocks of the servers' summed RPS.", "rps")
        least = family("rps_min", "Least over blocks of the servers' summed RPS.", "rps")
        for model in shown_models(self._snapshot)[0]:
            name = model.dht_prefix
            blocks.add_metric([name], model.num_blocks)
            servers.add_metric([name], len(model.servers))
            total.add_metric([name], sum(server.span.length for server in model.servers))
            online_min.add_metric([name], coverage(model).min_redundancy)
            served = Counter[PeerState]()
            for server in model.servers:
                served[server.state] += server.span.length
            for state in PeerState:
                by_state.add_metric([name, state.value], served[state])
            for kind, field in RPS_FIELDS.items():
                sums = speed_by_block(model.num_blocks, model.servers, field)
                average.add_metric([name, kind], sum(sums) / max(1, len(sums)))
                least.add_metric([name, kind], min(sums, default=0.0))
        yield from (blocks, servers, total, online_min, by_state, average, least)


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Linear interpolation between the nearest ranks, as numpy does by default."""
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
