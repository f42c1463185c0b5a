"""This module writes the weekly reports as an Atom feed (RFC 4287)."""

from __future__ import annotations

import uuid
from html import escape
from typing import TYPE_CHECKING

from api.pages import charts
from shared.words import clean, count, rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.public.reports import ReportDocument

MAX_ENTRIES = 12
MAX_MODELS = 10
"""Models that an entry names."""


def report_feed(reports: Sequence[ReportDocument], *, base: str) -> str:
    """Return the feed of these reports, the newest first. `base` is the monitor's own address, without a slash."""
    updated = max((report.made_at for report in reports), default=0.0)
    entries = "".join(_entry(report, base) for report in reports)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">'
        f"<id>{_urn('feed')}</id><title>Petals Health: weekly reports</title><updated>{rfc3339(updated)}</updated>"
        f'<author><name>Petals Health Monitor</name></author><link rel="self" href="{escape(base)}/reports.atom"/>'
        f'<link rel="alternate" type="text/html" href="{escape(base)}/reports"/>{entries}</feed>\n'
    )


def _entry(report: ReportDocument, base: str) -> str:
    link = f"{base}/reports/{report.week}"
    return (
        f"<entry><id>{_urn(report.week)}</id><title>Week {report.week}</title>"
        f"<published>{rfc3339(report.made_at)}</published><updated>{rfc3339(report.made_at)}</updated>"
        f'<link rel="alternate" type="text/html" href="{escape(link)}"/>'
        f"<summary>{escape(clean(in_words(report)))}</summary></entry>"
    )


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


def _urn(name: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, f"petals-health/reports/{name}").urn
