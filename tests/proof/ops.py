"""The `ops` profile: Prometheus finds every process, loads the rules, and reaches Alertmanager."""

from __future__ import annotations

import json
from typing import Any

import httpx
import yaml

from tests.proof.stack import OPS, ROOT, SCALE, Stack, expect, wait

JOBS = {
    "petals-swarm": 1,
    "petals-api": SCALE["api"],
    "petals-crawler": SCALE["crawler"],
    "petals-worker": SCALE["reachability_worker"],
}
"""Targets that deploy/prometheus/prometheus.yml finds in the stack."""
DASHBOARDS = ROOT / "deploy/grafana/dashboards"
DASHBOARD_VARIABLES = {"$__rate_interval": "1m", "$model": ".*", "$vantage": ".*"}


def prometheus_watches_every_process(stack: Stack) -> str:
    stack.up(OPS)

    def healthy() -> bool:
        return all(stack.is_healthy(stack.containers(service)[0]) for service in OPS)

    def up() -> dict[str, int]:
        targets = _asked(stack, "prometheus", "/api/v1/targets")["activeTargets"]
        found: dict[str, int] = {}
        for target in targets:
            if target["health"] == "up":
                found[target["labels"]["job"]] = found.get(target["labels"]["job"], 0) + 1
        return found

    started = wait("Prometheus and Alertmanager are healthy", healthy, 90)
    seconds = wait(f"targets {JOBS}", lambda: up() == JOBS, 90)
    wait("the swarm's metrics are in", lambda: _query(stack, "petals_models"), 60)
    return f"healthy after {started:.0f} s; {sum(JOBS.values())} targets up {seconds:.0f} s later: {JOBS}"


def rules_are_loaded_and_alerts_have_somewhere_to_go(stack: Stack) -> str:
    groups = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())["groups"]
    written = sum(len(group["rules"]) for group in groups)
    evaluated: list[dict[str, Any]] = []

    def all_evaluated() -> bool:
        loaded = _asked(stack, "prometheus", "/api/v1/rules")["groups"]
        evaluated[:] = [rule for group in loaded for rule in group["rules"]]
        return len(evaluated) == written and all(rule["health"] == "ok" for rule in evaluated)

    wait(f"{written} rules evaluated without an error", all_evaluated, 90)
    receivers = _asked(stack, "prometheus", "/api/v1/alertmanagers")["activeAlertmanagers"]
    expect([one["url"] for one in receivers] == ["http://alertmanager:9093/api/v2/alerts"], f"sent to {receivers}")
    # An alert goes all the way: Prometheus's own path to it is in `activeAlertmanagers`, and it takes what comes.
    status = httpx.get(f"http://127.0.0.1:{stack.ports['alertmanager']}/api/v2/status", timeout=10).json()
    expect("receiver: operators" in status["config"]["original"], f"Alertmanager runs {status['config']}")
    return f"{written} rules, none with an error; Alertmanager runs the project's configuration"


def dashboards_find_their_data(stack: Stack) -> str:
    """Each panel's query, asked of the Prometheus that the provisioned data source names."""
    source = yaml.safe_load((DASHBOARDS.parent / "provisioning/datasources/prometheus.yml").read_text())["datasources"][
        0
    ]
    expect(source["url"] == "http://prometheus:9090", f"the data source is {source['url']}")
    asked, empty = 0, []
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                expression = target["expr"]
                for name, value in DASHBOARD_VARIABLES.items():
                    expression = expression.replace(name, value)
                asked += 1
                if not _query(stack, expression):
                    empty.append(panel["title"])
    expect(len(empty) < asked / 2, f"{len(empty)} of {asked} queries find nothing: {empty}")
    return f"{asked} queries answered, {asked - len(empty)} with data now"


def _asked(stack: Stack, service: str, path: str, **parameters: str) -> Any:
    answer = httpx.get(f"http://127.0.0.1:{stack.ports[service]}{path}", params=parameters, timeout=10)
    expect(answer.is_success, f"{service}{path}: {answer.status_code} {answer.text[:300]}")
    return answer.json()["data"]


def _query(stack: Stack, expression: str) -> list[Any]:
    found: list[Any] = _asked(stack, "prometheus", "/api/v1/query", query=expression)["result"]
    return found
