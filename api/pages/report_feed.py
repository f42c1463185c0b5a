"""This module writes the weekly reports as an Atom feed (RFC 4287)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.pages import charts
from api.pages.feed import Entry, urn, write_feed
from shared.words import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.public.reports import ReportDocument

MAX_ENTRIES = 12
MAX_MODELS = 10
"""Models that an entry names."""


def report_feed(reports: Sequence[ReportDocument], *, base: str) -> str:
    """Return the feed of these reports, the newest first. `base` is the monitor's own address, without a slash."""
    entries = [
        Entry(
            urn(f"reports/{report.week}"),
            f"Week {report.week}",
            in_words(report),
            report.made_at,
            report.made_at,
            f"{base}/reports/{report.week}",
        )
        for report in reports
    ]
    itself, page, feed_id = f"{base}/reports.atom", f"{base}/reports", urn("reports/feed")
    return write_feed("Petals Health: weekly reports", entries, 0.0, itself=itself, page=page, feed_id=feed_id)


def in_words(report: ReportDocument) -> str:
    """Return the week in a few sentences."""
    sentences = [
        f"{model.dht_prefix} was usable {charts.percent(model.uptime)} of the time."
        for model in report.models[:MAX_MODELS]
    ]
    servers = f"{count(report.servers_online, 'server')} online, {report.num_lost_servers:,} lost"
    if report.num_new_servers is not None:
        servers += f", {report.num_new_servers:,} new"
    return " ".join([*sentences, f"{servers}.", f"{count(report.num_incidents, 'incident')}."])
