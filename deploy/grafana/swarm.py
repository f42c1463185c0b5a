"""The swarm's dashboard: can people use it, and where is it thin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana_foundation_sdk.builders.dashboard import Row

from deploy.grafana.panels import AMBER, GREEN, RATE, RED, graph, new_board, number, rows, variable

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

MODEL = 'model=~"$model"'


def board() -> Dashboard:
    return new_board(
        "swarm",
        "Petals: swarm",
        "Which models work, and what they stand on. A view of the snapshot.",
        variable("model", "label_values(petals_model_info, model)"),
        number(
            "Models that work",
            "Every block has a server, of all models with series of their own.",
            ("sum(petals_model_healthy)", "work"),
            ("count(petals_model_healthy)", "announced"),
        ),
        number("Servers", "Distinct servers in the snapshot.", ("petals_servers", "servers")),
        number(
            "Snapshot age",
            "Seconds since the last crawl that saw the swarm ended.",
            ("time() - petals_crawl_last_success_timestamp_seconds", "age"),
            unit="s",
            steps=((None, GREEN), (120, AMBER), (180, RED)),
        ),
        number(
            "Bootstrap peers",
            "How many answer, of all.",
            ("sum(petals_bootstrap_peer_up)", "answer"),
            ("count(petals_bootstrap_peer_up)", "all"),
        ),
        Row("Models"),
        graph(
            "Covered blocks",
            "Share of a model's blocks that an online server holds. Below 100% nobody can use it.",
            (f"petals_model_covered_ratio{{{MODEL}}}", "{{model}}"),
            unit="percentunit",
        ),
        graph(
            "Blocks on a single server",
            "Blocks that one restart would lose.",
            (f'petals_model_blocks{{redundancy="1", {MODEL}}}', "{{model}}"),
        ),
        graph(
            "Servers by state",
            "Unreachable: announced as online, dialled, not reached.",
            (f"sum by (state) (petals_model_servers{{{MODEL}}})", "{{state}}"),
            stacked=True,
        ),
        graph(
            "Worst block's throughput",
            "Least over blocks of the online servers' summed requests per second: the model's narrowest place.",
            (f'petals_model_worst_block_throughput_rps{{kind="inference", {MODEL}}}', "{{model}}"),
            unit="reqps",
        ),
        rows(
            "Models now",
            "1 where a client finds servers for all blocks in a row.",
            f"petals_model_path_available{{{MODEL}}}",
        ),
        graph(
            "Free attention cache",
            "Tokens, over a model's online servers.",
            (f"petals_model_cache_tokens_left{{{MODEL}}}", "{{model}}"),
        ),
        Row("Inference"),
        rows(
            "Models that give tokens",
            "1 where the latest chain gave tokens; a model is missing where nobody could look.",
            f"petals_model_usable{{{MODEL}}}",
        ),
        graph(
            "Seconds per token",
            "Of the latest chain through all blocks, measured from the crawler's place.",
            (f"petals_model_seconds_per_token{{{MODEL}}}", "{{model}}"),
            unit="s",
        ),
        graph(
            "Servers by inference outcome",
            "The latest check of each online server.",
            (f"sum by (outcome) (petals_model_servers_by_inference{{{MODEL}}})", "{{outcome}}"),
            stacked=True,
        ),
        graph(
            "Servers that disagree",
            "Against most of three or more that were given the same input.",
            (f"petals_model_servers_disagreeing{{{MODEL}}}", "{{model}}"),
        ),
        graph(
            "Inference checks",
            "Of the crawler that leads, by how they ended.",
            (f"sum by (outcome) (rate(petals_inference_checks_total{RATE}))", "{{outcome}}"),
            unit="ops",
        ),
        Row("Servers"),
        graph("Versions", "Servers by petals version.", ("petals_servers_by_version", "{{version}}"), stacked=True),
        graph(
            "Pings between servers",
            "As servers announce them.",
            ("histogram_quantile(0.5, petals_ping_seconds_bucket)", "p50"),
            ("histogram_quantile(0.9, petals_ping_seconds_bucket)", "p90"),
            unit="s",
        ),
        graph("Adapters", "Servers by LoRA adapter.", ("petals_servers_by_adapter", "{{adapter}}")),
        graph("Behind a relay", "Servers.", ("petals_servers_using_relay", "relayed")),
        graph("Refused records", "In the latest crawl, by reason.", ("petals_records_refused", "{{reason}}")),
        graph(
            "Beyond the limits",
            "Models, versions and adapters that are counted together as (other).",
            ("petals_models_overflow", "models"),
            ("petals_versions_overflow", "versions"),
            ("petals_adapters_overflow", "adapters"),
        ),
    )
