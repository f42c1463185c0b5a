"""`GET /api/v1/reports` and `/api/v1/reports/{week}`: what a week was like."""

from __future__ import annotations

import msgspec

from shared.days import parse_week
from shared.public.document import Document
from shared.snapshot import check_times

MAX_INCIDENTS = 5
MAX_PEERS = 50
MAX_NAMES = 50


class ReportModel(Document):
    """One model in the week."""

    dht_prefix: str
    official: bool
    crawls: int
    """Crawls that could judge it."""
    uptime: float
    """Share of them that found it healthy."""
    mean_servers_online: float
    median_speed: float
    """Tokens/s that the servers of the weakest block claimed together: the median of the hours."""


class ReportIncident(Document):
    """One outage that lasted into the week or through it."""

    id: str
    dht_prefix: str
    start: float
    end: float | None
    """Nothing where it had not ended when the report was made."""
    duration: float
    """Seconds within the week."""
    summary: str


class ReportDocument(Document):
    """One week of the swarm, made once from the history, two hours after the week's end."""

    week: str
    start: float
    end: float
    made_at: float
    hours_looked: int
    """Hours of the week's 168 in which a crawl saw the swarm; the rest is unknown."""
    models: tuple[ReportModel, ...]
    """Official ones first, then those with the most servers."""
    servers_online: int
    """Servers that were found online at some time."""
    server_hours: float
    """Hours that they were online, all together."""
    num_new_servers: int | None
    """Servers that were online and were not known before; nothing where the history begins in this week."""
    new_servers: tuple[str, ...]
    """Peer ids of some of them."""
    num_lost_servers: int
    """Servers that were online once, and were announced last in the seven days up to a day before the week's end."""
    lost_servers: tuple[str, ...]
    """Peer ids of some of them."""
    num_incidents: int
    incidents: tuple[ReportIncident, ...]
    """The longest ones."""
    contributors: dict[str, int]
    """Blocks by the name that servers show, in the newest snapshot when the report was made. Names are claimed."""


class ReportLink(Document):
    """A week that has a report."""

    week: str
    url: str


class ReportsDocument(Document):
    """Weeks that have a report."""

    reports: tuple[ReportLink, ...]
    """The newest first."""


def decode_report(data: bytes) -> ReportDocument:
    """Return a stored report. Whatever this raises, `stored.read` refuses the entry."""
    report = msgspec.json.decode(data, type=ReportDocument)
    check_times(report.start, report.end, report.made_at)
    for incident in report.incidents:
        check_times(incident.start, incident.end)
    if parse_week(report.week) is None:
        raise ValueError("not a report: its week is none")
    if not all(0 <= model.uptime <= 1 for model in report.models):
        raise ValueError("not a report: an uptime is out of range")
    return report
