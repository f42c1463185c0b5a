"""The few kinds of panels that the dashboards are made of: a title, a sentence, a unit, queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana_foundation_sdk.builders import common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.models.common import BigValueColorMode, StackingMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, Threshold, ThresholdsMode, VariableRefresh
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, AMBER, RED = "green", "orange", "red"
RATE = "[$__rate_interval]"

Query = tuple[str, str]
"""PromQL and the legend of its series."""
Panel = stat.Panel | table.Panel | timeseries.Panel


def new_board(
    uid: str, title: str, description: str, *parts: dashboards.QueryVariable | dashboards.Row | Panel
) -> dashboards.Dashboard:
    """Return a dashboard of these variables, rows and panels, in this order."""
    board = dashboards.Dashboard(title).uid(f"petals-{uid}").description(description).tags(["petals"])
    board.refresh("30s").time("now-6h", "now").timezone("browser")
    board.with_variable(dashboards.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    for part in parts:
        if isinstance(part, dashboards.QueryVariable):
            board.with_variable(part)
        elif isinstance(part, dashboards.Row):
            board.with_row(part)
        else:
            board.with_panel(part)
    return board


def variable(name: str, query: str) -> dashboards.QueryVariable:
    return (
        dashboards.QueryVariable(name)
        .query(query)
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
    )


def graph(
    title: str, description: str, *queries: Query, unit: str = "short", stacked: bool = False
) -> timeseries.Panel:
    panel = timeseries.Panel().title(title).description(description).datasource(SOURCE).unit(unit).span(12).height(8)
    panel.fill_opacity(20 if stacked else 5).min(0)
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    for target in _targets(queries):
        panel.with_target(target)
    return panel


def number(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    steps: Sequence[tuple[float | None, str]] = ((None, GREEN),),
) -> stat.Panel:
    """A few big numbers. `steps`: the colour from each value on; None for the lowest."""
    panel = stat.Panel().title(title).description(description).datasource(SOURCE).unit(unit).span(6).height(5)
    for target in _targets(queries):
        panel.with_target(target)
    thresholds = [Threshold(value=value, color=color) for value, color in steps]
    return panel.color_mode(BigValueColorMode.VALUE).thresholds(
        dashboards.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(thresholds)
    )


def rows(title: str, description: str, query: str) -> table.Panel:
    target = prometheus.Dataquery().expr(query).instant().format(PromQueryFormat.TABLE).ref_id("A")
    panel = table.Panel().title(title).description(description).datasource(SOURCE).span(12).height(8)
    return panel.with_target(target)


def quantiles(title: str, description: str, histogram: str) -> timeseries.Panel:
    """Median, p90 and p99 of a histogram of seconds, over all its processes."""
    queries = [(quantile(q, histogram), f"p{round(q * 100)}") for q in (0.5, 0.9, 0.99)]
    return graph(title, description, *queries, unit="s")


def quantile(q: float, histogram: str, *labels: str) -> str:
    """Return the query for a quantile of a histogram that counts, for each value of the labels."""
    return f"histogram_quantile({q}, sum by ({', '.join([*labels, 'le'])}) (rate({histogram}_bucket{RATE})))"


def _targets(queries: Sequence[Query]) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(ref_id)
        for ref_id, (expression, legend) in zip("ABCDEFGH", queries, strict=False)
    ]
