"""The dashboard of reachability checks: are they answered, how fast, and with what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.grafana.panels import AMBER, GREEN, RATE, RED, graph, new_board, number, quantile, quantiles, variable

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

VANTAGE = 'vantage=~"$vantage"'


def board() -> Dashboard:
    return new_board(
        "reachability",
        "Petals: reachability checks",
        "What servers hear when they ask about themselves.",
        variable("vantage", "label_values(petals_worker_looking, vantage)"),
        number(
            "Workers that look",
            "Fit and not suspended.",
            (f"sum by (vantage) (petals_worker_looking{{{VANTAGE}}})", "{{vantage}}"),
            steps=((None, RED), (1, GREEN)),
        ),
        number(
            "Waiting for a worker",
            "Checks in the queue.",
            (f"max by (vantage) (petals_worker_queue_checks{{{VANTAGE}}})", "{{vantage}}"),
        ),
        number(
            "Oldest in the queue",
            "A caller waits nine seconds in all.",
            (f"max by (vantage) (petals_worker_queue_oldest_age_seconds{{{VANTAGE}}})", "{{vantage}}"),
            unit="s",
            steps=((None, GREEN), (1, AMBER), (3, RED)),
        ),
        number("Callers waiting", "In the api.", ("sum(petals_api_checks_waiting)", "waiting")),
        graph(
            "Verdicts",
            "Unknown: nobody could look. Never told as unreachable.",
            (f"sum by (verdict) (rate(petals_worker_checks_total{{{VANTAGE}}}{RATE}))", "{{verdict}}"),
            unit="ops",
            stacked=True,
        ),
        graph(
            "Why not",
            "Checks that did not end well, by stage and cause.",
            (
                f'sum by (stage, cause) (rate(petals_worker_checks_total{{verdict!="reachable", {VANTAGE}}}{RATE}))',
                "{{stage}}: {{cause}}",
            ),
            unit="ops",
        ),
        graph(
            "Answers",
            "is_reachable by status; 503 is: nobody could look.",
            (
                f'sum by (status) (rate(petals_api_requests_total{{route=~"/api/v1/is_reachable/.*"}}{RATE}))',
                "{{status}}",
            ),
            unit="reqps",
            stacked=True,
        ),
        quantiles("Duration of a look", "In the worker.", "petals_worker_check_duration_seconds"),
        graph(
            "Stages of a look, p90",
            "Look-up in the DHT, dial with its handshake, the question whether it serves.",
            (quantile(0.9, "petals_worker_stage_duration_seconds", "stage"), "{{stage}}"),
            unit="s",
        ),
        quantiles("Reply lag", "From verdict to api.", "petals_api_reply_lag_seconds"),
        graph("Checks held", "By worker.", ("petals_worker_checks_in_flight", "{{instance}}"), stacked=True),
        graph(
            "Nodes opened",
            "A DHT node beyond the first of a process: the worker lost the swarm. Prober nodes are replaced by plan.",
            ("sum by (role) (petals_worker_nodes_opened_total)", "{{role}}"),
        ),
    )
