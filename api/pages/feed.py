"""This module writes incidents, changes and weekly reports as Atom feeds (RFC 4287)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from api.pages import charts, text
from api.pages.incidents import make_event
from shared import words
from shared.changes import sentence, title

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.changes import Change, ChangeFilter
    from shared.incidents import Incident
    from shared.public.reports import ReportDocument

MAX_INCIDENTS = 50
MAX_REPORTS = 12
MAX_REPORT_MODELS = 10
"""Models that the entry of a report names."""
DAY = 86400


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a feed, as text; times are Unix seconds."""

    id: str
    title: str
    summary: str
    published: float
    updated: float
    link: str
    category: str = ""


def atom_feed(incidents: Sequence[Incident], *, base: str, now: float, last_seen: float | None = None) -> str:
    """Return the feed of the newest incidents; one that ends is the same entry, updated.

    `base` is the monitor's own address, without a slash; `now` is Unix seconds. `last_seen` (Unix
    seconds) is given where the last crawl is too long ago for the present tense.
    """
    newest = sorted(incidents, key=lambda incident: incident.updated, reverse=True)[:MAX_INCIDENTS]
    entries = [_incident(incident, base, now, last_seen) for incident in newest]
    itself, page = f"{base}/incidents.atom", f"{base}/incidents"
    return _write_feed(
        "Petals Health: incidents", entries, now, itself=itself, page=page, feed_id=_urn("incidents/feed")
    )


def changes_feed(changes: Sequence[Change], wanted: ChangeFilter, *, base: str, now: float) -> str:
    """Return the feed of changes, which are those that `wanted` takes. The other arguments are as above."""
    given = {name: value for name, value in wanted._asdict().items() if value is not None}
    query = f"?{urlencode(given, errors='replace')}" if given else ""
    about = ", ".join(f"{name} {text.cut(value, 60)}" for name, value in given.items()) or "the swarm"
    page = base + "/"
    if wanted.server is not None:
        page = base + text.server_href(wanted.server)
    elif wanted.model is not None:
        page = base + text.model_href(wanted.model)
    elif wanted.contributor is not None:
        page = base + text.contributor_href(wanted.contributor)
    entries = [
        Entry(
            _urn(f"changes/{change.id}"),
            title(change),
            sentence(change),
            change.start,
            change.updated,
            base + change.path,
            change.kind.value,
        )
        for change in changes
    ]
    itself, feed_id = f"{base}/changes.atom{query}", _urn(f"changes/feed{query}")
    return _write_feed(f"Petals Health: {about}", entries, now, itself=itself, page=page, feed_id=feed_id)


def report_feed(reports: Sequence[ReportDocument], *, base: str) -> str:
    """Return the feed of these reports, the newest first. `base` is the monitor's own address, without a slash."""
    entries = [
        Entry(
            _urn(f"reports/{report.week}"),
            f"Week {report.week}",
            _report_in_words(report),
            report.made_at,
            report.made_at,
            f"{base}/reports/{report.week}",
        )
        for report in reports
    ]
    itself, page, feed_id = f"{base}/reports.atom", f"{base}/reports", _urn("reports/feed")
    return _write_feed("Petals Health: weekly reports", entries, 0.0, itself=itself, page=page, feed_id=feed_id)


def _report_in_words(report: ReportDocument) -> str:
    """Return the week in a few sentences."""
    sentences = [
        f"{model.dht_prefix} was usable {charts.percent(model.uptime)} of the time."
        for model in report.models[:MAX_REPORT_MODELS]
    ]
    servers = f"{words.count(report.servers_online, 'server')} online, {report.num_lost_servers:,} lost"
    if report.num_new_servers is not None:
        servers += f", {report.num_new_servers:,} new"
    return " ".join([*sentences, f"{servers}.", f"{words.count(report.num_incidents, 'incident')}."])


def _incident(incident: Incident, base: str, now: float, last_seen: float | None) -> Entry:
    event = make_event(incident, now, last_seen)
    if incident.end is None:
        name, lasted = f"{event.name} is down" if last_seen is None else f"{event.name} was down when last seen", ""
    else:
        name, lasted = f"{event.name} was down for {event.duration} ({event.state})", f" It lasted {event.duration}."
    return Entry(
        _urn(f"incidents/{incident.id}{incident.dht_prefix}"),
        name,
        f"Since {words.rfc3339(incident.start)}: {event.summary} {event.blocks}.{lasted}",
        incident.start,
        incident.updated,
        f"{base}/incidents#{incident.id}",
        "outage",
    )


def _write_feed(name: str, entries: Sequence[Entry], now: float, *, itself: str, page: str, feed_id: str) -> str:
    """Return an Atom feed; `itself` and `page` are its own address and that of the page with the same."""
    # A feed without entries is dated to the start of the day, so that it stays the same for caches.
    updated = max((entry.updated for entry in entries), default=now // DAY * DAY)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">'
        f"<id>{feed_id}</id><title>{_xml(name)}</title><updated>{words.rfc3339(updated)}</updated>"
        f'<author><name>Petals Health Monitor</name></author><link rel="self" type="application/atom+xml" '
        f'href="{_xml(itself)}"/><link rel="alternate" type="text/html" href="{_xml(page)}"/>'
        f"{''.join(map(_entry, entries))}</feed>\n"
    )


def _entry(entry: Entry) -> str:
    category = f'<category term="{_xml(entry.category)}"/>' if entry.category else ""
    return (
        f"<entry><id>{entry.id}</id><title>{_xml(entry.title)}</title>"
        f"<published>{words.rfc3339(entry.published)}</published><updated>{words.rfc3339(entry.updated)}</updated>"
        f'{category}<link rel="alternate" type="text/html" href="{_xml(entry.link)}"/>'
        f"<summary>{_xml(entry.summary)}</summary></entry>"
    )


def _xml(value: str) -> str:
    return escape(words.clean(value))  # clean: control characters cannot stand in XML, escaped or not


def _urn(name: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, f"petals-health/{name}").urn
