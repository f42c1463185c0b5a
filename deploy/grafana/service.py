"""The dashboard of the monitor itself: is it well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.grafana.panels import AMBER, GREEN, RATE, RED, graph, new_board, number, quantile

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard


def board() -> Dashboard:
    phases = "petals_crawler_phase_duration_seconds"
    return new_board(
        "service",
        "Petals: the monitor itself",
        "Requests, crawls, Redis, processes.",
        number(
            "Crawlers leading",
            "One leads, the others wait.",
            ("sum(petals_crawler_leading)", "leading"),
            steps=((None, RED), (1, GREEN), (2, AMBER)),
        ),
        number(
            "Last crawl",
            "1 where it saw the swarm.",
            ("petals_crawl_success", "success"),
            steps=((None, RED), (1, GREEN)),
        ),
        number("Redis memory", "used_memory.", ("max(petals_redis_memory_used_bytes)", "used"), unit="bytes"),
        number(
            "Processes that answer",
            "Of those that Prometheus knows.",
            ('sum by (job) (up{job=~"petals-.*"})', "{{job}}"),
            steps=((None, RED), (1, GREEN)),
        ),
        graph(
            "Requests",
            "Through the router, by route, and those answered from ready bodies.",
            (f"sum by (route) (rate(petals_api_requests_total{RATE}))", "{{route}}"),
            (f"sum by (path) (rate(petals_api_cached_responses_total{RATE}))", "ready: {{path}}"),
            unit="reqps",
        ),
        graph(
            "Request duration, p99",
            "By route.",
            (quantile(0.99, "petals_api_request_duration_seconds", "route"), "{{route}}"),
            unit="s",
        ),
        graph(
            "In flight",
            "Requests and open event streams.",
            ("sum(petals_api_requests_in_flight)", "requests"),
            ("sum(petals_api_event_subscribers)", "event streams"),
        ),
        graph(
            "Snapshot age by replica",
            "A replica that rises alone is cut off from Redis.",
            ("petals_api_snapshot_age_seconds", "{{instance}}"),
            unit="s",
        ),
        graph(
            "Crawl duration",
            "Of the latest crawl, and its period.",
            ("petals_crawl_duration_seconds", "duration"),
            ("petals_crawl_period_seconds", "period"),
            unit="s",
        ),
        graph(
            "Crawl phases",
            "Mean duration. Dials begin during look-ups.",
            (f"sum by (phase) (rate({phases}_sum{RATE})) / sum by (phase) (rate({phases}_count{RATE}))", "{{phase}}"),
            unit="s",
            stacked=True,
        ),
        graph(
            "DHT look-ups",
            "Keys, by whether they answered in time.",
            (f"sum by (outcome) (rate(petals_crawler_lookups_total{RATE}))", "{{outcome}}"),
            unit="ops",
        ),
        graph(
            "Dials of the crawler",
            "By stage and cause.",
            (f"sum by (stage, cause) (rate(petals_crawler_dials_total{RATE}))", "{{stage}}: {{cause}}"),
            unit="ops",
        ),
        graph(
            "Memory",
            "Resident, by process.",
            ('process_resident_memory_bytes{job=~"petals-.*"}', "{{job}} {{instance}}"),
            unit="bytes",
        ),
        graph(
            "CPU",
            "Cores, by process.",
            (f'rate(process_cpu_seconds_total{{job=~"petals-.*"}}{RATE})', "{{job}} {{instance}}"),
        ),
    )
