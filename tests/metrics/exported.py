"""Every metric name that any of the monitor's processes exports, read from the collectors themselves."""

import os
import shutil

import promql_parser
import pytest

from api.metrics.legacy import LegacyCollector
from api.metrics.process import ProcessMetrics
from api.metrics.servers import ServerCollector
from api.metrics.swarm import AgeCollector, SwarmCollector
from crawler.metrics import CrawlerMetrics
from reachability_worker.metrics import WorkerMetrics
from shared.snapshot import CrawlStatus
from tests.fakes import snapshot
from tests.metrics.hostile import hostile_snapshot

SUFFIXES = {
    "counter": ("_total", "_created"),
    "info": ("_info",),
    "histogram": ("_bucket", "_sum", "_count", "_created"),
    "gaugehistogram": ("_bucket", "_gsum", "_gcount"),
    "gauge": ("",),
}


def exported_names():
    made = snapshot()
    crawled = hostile_snapshot()
    api = ProcessMetrics(
        prepared=dict, checks_waiting=int, redis_connected=lambda: True, snapshot_age=lambda: 1.0, now=lambda: 2.0
    )
    collectors = [
        LegacyCollector(crawled), SwarmCollector(crawled), AgeCollector(made, CrawlStatus(1.0, ok=True), 2.0, 180.0),
        ServerCollector(snapshot()), api.registry, CrawlerMetrics().registry, WorkerMetrics().registry,
    ]  # fmt: skip
    names = {"up"}  # Prometheus's own
    for collector in collectors:
        for family in collector.collect():
            names.update(family.name + suffix for suffix in SUFFIXES[family.type])
    return names


def names_in(expression):
    """Return the metrics that a query selects. Raises `ValueError` where it does not parse."""
    found = set()

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            found.add(node.name)
        if isinstance(node, promql_parser.MatrixSelector):
            found.add(node.vector_selector.name)

    promql_parser.walk(promql_parser.parse(expression), pre_visit=visit)
    return found


def needs(program):
    """Skip a test on a machine that lacks one of Debian's programs; in CI it runs, and fails."""
    package = {"promtool": "prometheus"}.get(program, program)
    return pytest.mark.skipif(
        shutil.which(program) is None and not os.environ.get("CI"),
        reason=f"{program} is not installed (apt-get install {package})",
    )
