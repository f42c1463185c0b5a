"""This module collects the swarm's metrics: views of one snapshot, named by Prometheus's guidelines.

Label values from the DHT are limited in number. The rest counts under `(other)`, and the `petals_*_overflow` gauges
give its size. prometheus-client escapes the values. The only peer ids here are those of bootstrap peers; those of
servers are in `api.metrics.servers`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeHistogramMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from shared.inference import InferenceOutcome
from shared.judgement.coverage import coverage, online, speed_by_block
from shared.judgement.swarm import count_states, distinct_servers
from shared.judgement.usability import against_majority, gives_tokens
from shared.snapshot import ModelState, PeerState, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client import Metric

    from shared.judgement.coverage import Speed
    from shared.snapshot import CrawlStatus, ModelReport, Snapshot

MAX_MODELS = 60
"""Models with series of their own: official ones, then those with most online servers."""
MAX_VERSIONS = 30
MAX_ADAPTERS = 50
MAX_REASONS = 50
OTHER = "(other)"
PING_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds."""
RPS_FIELDS: dict[str, Speed] = {
    "network": "network_rps",
    "inference": "inference_rps",
    "forward": "forward_rps",
}


class SwarmCollector(Collector):
    """The `petals_*` family."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._shown, self._rest = shown_models(snapshot)

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        yield gauge("petals_crawl_duration_seconds", "Duration of the last crawl.", snapshot.update_duration)
        yield gauge("petals_crawl_period_seconds", "Seconds between crawls.", snapshot.update_period)
        yield gauge(
            "petals_crawl_unanswered_keys", "DHT keys that did not answer in the last crawl.", snapshot.unanswered_keys
        )
        yield gauge(
            "petals_crawl_undialled_servers",
            "Servers that announce they are online, and that the last crawl had no time to dial.",
            snapshot.undialled_servers,
        )
        yield gauge(
            "petals_servers_conflicting",
            "Servers whose answer contradicts a record under their id, which anyone can write.",
            snapshot.num_conflicts,
        )
        yield gauges(
            "petals_bootstrap_peer_up",
            "1 where the bootstrap peer answered the crawler.",
            "peer_id",
            {peer.peer_id: peer.verdict is Verdict.REACHABLE for peer in snapshot.bootstrap_peers},
        )
        yield gauges(
            "petals_records_refused",
            "DHT records refused in the last crawl, by reason.",
            "reason",
            top(snapshot.refused.by_reason, MAX_REASONS),
        )
        yield gauge("petals_models", "Models in the snapshot.", len(snapshot.models))
        yield gauge(
            "petals_models_overflow",
            f'Models without series of their own; their servers count under model="{OTHER}".',
            len(self._rest),
        )
        yield gauge("petals_servers", "Distinct servers in the snapshot.", snapshot.num_servers)
        yield from self._models()
        yield from self._inference()
        yield from self._servers()

    def _models(self) -> Iterator[Metric]:
        info = InfoMetricFamily("petals_model", "1 for each model; the labels describe it.", labels=["model"])
        healthy = family("petals_model_healthy", "1 where every block is served, as far as seen from the crawler.")
        path = family(
            "petals_model_path_available",
            "1 where each block has a server that was not found unreachable from the crawler.",
        )
        covered = family("petals_model_covered_ratio", "Share of blocks that an online server holds.")
        redundancy = family(
            "petals_model_blocks", 'Blocks by how many online servers hold them: "0", "1" or "2+".', "redundancy"
        )
        servers = family("petals_model_servers", "Servers by state.", "state")
        worst = family(
            "petals_model_worst_block_throughput_rps",
            "Minimum over the blocks of the online servers' summed throughput in requests per second, by kind.",
            "kind",
        )
        cache = family("petals_model_cache_tokens_left", "Free attention cache of online servers.")
        for model in self._shown:
            name, held, of_model = model.dht_prefix, coverage(model), [model.dht_prefix]
            info.add_metric(of_model, {"name": model.name, "official": str(model.official).lower()})
            healthy.add_metric(of_model, model.state is ModelState.HEALTHY)
            path.add_metric(of_model, held.has_path)
            covered.add_metric(of_model, held.covered_share)
            grouped = Counter("2+" if count > 1 else str(count) for count in held.redundancy)
            for group in ("0", "1", "2+"):
                redundancy.add_metric([name, group], grouped[group])
            _add_states(servers, name, [model])
            for kind, field in RPS_FIELDS.items():
                worst.add_metric([name, kind], min(speed_by_block(model.num_blocks, online(model), field), default=0.0))
            cache.add_metric(of_model, sum(server.cache_tokens_left or 0 for server in online(model)))
        if self._rest:
            _add_states(servers, OTHER, self._rest)
        yield from (info, healthy, path, covered, redundancy, servers, worst, cache)

    def _inference(self) -> Iterator[Metric]:
        usable = family(
            "petals_model_usable",
            "1 if the latest inference chain generated tokens, 0 if not; absent if nobody could check.",
        )
        per_token = family(
            "petals_model_seconds_per_token",
            "Seconds that the latest chain took for its second token, measured by the crawler.",
        )
        tried = family("petals_model_usability_timestamp_seconds", "When the latest chain began.")
        disagreeing = family(
            "petals_model_servers_disagreeing",
            "Online servers that compute other numbers than most of three or more that were given the same input.",
        )
        computing = family(
            "petals_model_servers_by_inference",
            "Online servers by the outcome of their latest inference check.",
            "outcome",
        )
        for model in self._shown:
            name = model.dht_prefix
            tokens = gives_tokens(model)
            if tokens is not None:
                usable.add_metric([name], tokens)
            if model.usability is not None:
                tried.add_metric([name], model.usability.checked_at)
                if tokens and model.usability.seconds_per_token is not None:
                    per_token.add_metric([name], model.usability.seconds_per_token)
            outcomes = Counter(server.inference.outcome for server in online(model) if server.inference is not None)
            if outcomes:
                disagreeing.add_metric([name], sum(map(against_majority, online(model))))
                for outcome in InferenceOutcome:
                    computing.add_metric([name, outcome], outcomes[outcome])
        yield from (usable, per_token, tried, disagreeing, computing)

    def _servers(self) -> Iterator[Metric]:
        # A server that serves two models counts once here, by the one where it is online if there is one.
        servers = distinct_servers(self._snapshot)
        versions = Counter(server.version or "unknown" for server in servers)
        yield gauges("petals_servers_by_version", "Servers by petals version.", "version", top(versions, MAX_VERSIONS))
        yield gauge(
            "petals_versions_overflow",
            f'Versions counted together under version="{OTHER}".',
            max(0, len(versions) - MAX_VERSIONS),
        )
        adapters = Counter(name for server in servers for name in set(server.adapters))
        yield gauges("petals_servers_by_adapter", "Servers by LoRA adapter.", "adapter", top(adapters, MAX_ADAPTERS))
        yield gauge(
            "petals_adapters_overflow",
            f'Adapters counted together under adapter="{OTHER}".',
            max(0, len(adapters) - MAX_ADAPTERS),
        )
        yield gauge(
            "petals_servers_using_relay",
            "Servers that announce that they use a relay.",
            sum(bool(server.using_relay) for server in servers),
        )
        yield gauge(
            "petals_servers_relayed",
            "Servers that the crawler reached through a relay.",
            sum(bool(server.relayed) for server in servers),
        )
        measured = (seconds for server in servers for seconds in (server.next_pings or {}).values())
        pings = sorted(seconds for seconds in measured if seconds >= 0)  # and no NaN
        # A histogram of now, not of all time: it can shrink, which a counter must not.
        histogram = GaugeHistogramMetricFamily(
            "petals_ping_seconds", "Pings between servers, as they announce them; unanswered ones are in +Inf."
        )
        counts = [(str(bound), float(bisect_right(pings, bound))) for bound in PING_BUCKETS]
        histogram.add_metric([], [*counts, ("+Inf", float(len(pings)))], gsum_value=sum(filter(math.isfinite, pings)))
        yield histogram


class AgeCollector(Collector):
    """The metrics that are still served when the snapshot is too old for all others."""

    def __init__(self, snapshot: Snapshot | None, status: CrawlStatus | None, now: float, stale_after: float) -> None:
        self._snapshot, self._status, self._now, self._stale_after = snapshot, status, now, stale_after

    def collect(self) -> Iterator[Metric]:
        yield gauge(
            "petals_snapshot_stale_after_seconds",
            "Age of the snapshot from which on the swarm's metrics are no longer exported.",
            self._stale_after,
        )
        if self._snapshot is not None:
            yield gauge("petals_snapshot_age_seconds", "Age of the newest snapshot.", self._snapshot.age(self._now))
            yield gauge(
                "petals_crawl_last_success_timestamp_seconds",
                "When the last crawl ended that saw the swarm.",
                self._snapshot.taken_at,
            )
        if self._status is not None and self._status.progress is None:
            yield gauge("petals_crawl_success", "1 where the latest crawl saw the swarm.", self._status.ok)
            yield gauge(
                "petals_crawl_last_attempt_timestamp_seconds", "When the latest crawl began.", self._status.attempted_at
            )


def gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, value=value)


def gauges(name: str, documentation: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    """Return a family with a series for each value of the label."""
    made = GaugeMetricFamily(name, documentation, labels=[label])
    for key, value in values.items():
        made.add_metric([key], value)
    return made


def family(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    """Return a family without series yet. Its first label is the model."""
    return GaugeMetricFamily(name, documentation, labels=["model", *labels])


def shown_models(snapshot: Snapshot) -> tuple[list[ModelReport], list[ModelReport]]:
    """Divide the models into those with series of their own and the rest.

    Anyone can announce models of any size, but only servers that answered count as online.
    """

    def rank(model: ModelReport) -> tuple[bool, int, int]:
        return model.official, sum(1 for _ in online(model)), model.num_blocks

    named = {model.dht_prefix: model for model in snapshot.models if model.dht_prefix != OTHER}
    chosen = {model.dht_prefix for model in sorted(named.values(), key=rank, reverse=True)[:MAX_MODELS]}
    shown = [model for prefix, model in named.items() if prefix in chosen]
    return shown, [model for model in snapshot.models if not any(model is other for other in shown)]


def _add_states(family: GaugeMetricFamily, name: str, models: Iterable[ModelReport]) -> None:
    states = count_states(models)
    for state in PeerState:
        family.add_metric([name, state.value], states[state])


def top(counts: dict[str, int], limit: int) -> dict[str, int]:
    """Return the greatest counts; the rest is added up under `(other)`, so that strangers cannot add series."""
    ranked = sorted(((name, count) for name, count in counts.items() if name != OTHER), key=lambda it: (-it[1], it[0]))
    rest = sum(count for _, count in ranked[limit:]) + counts.get(OTHER, 0)
    return dict(ranked[:limit]) | ({OTHER: rest} if rest else {})
