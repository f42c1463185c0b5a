"""This module writes incidents as an Atom feed (RFC 4287)."""

from __future__ import annotations

import uuid
from html import escape
from typing import TYPE_CHECKING

from api.pages import text
from api.pages.history import make_event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.incidents import Incident

MAX_ENTRIES = 50


def atom_feed(incidents: Sequence[Incident], *, base: str, now: float, last_seen: float | None = None) -> str:
    """Return the feed of the newest incidents; one that ends is the same entry, updated.

    `base` is the monitor's own address, without a slash; `now` is Unix seconds. `last_seen` is given where
    nobody has looked for so long that what lasted then is told in the past tense.
    """
    newest = sorted(incidents, key=lambda incident: incident.updated, reverse=True)[:MAX_ENTRIES]
    updated = newest[0].updated if newest else 0.0
    entries = "".join(_entry(incident, base, now, last_seen) for incident in newest)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">'
        f"<id>{_urn('feed')}</id><title>Petals Health: incidents</title><updated>{_rfc3339(updated)}</updated>"
        f'<author><name>Petals Health Monitor</name></author><link rel="self" href="{escape(base)}/incidents.atom"/>'
        f'<link rel="alternate" type="text/html" href="{escape(base)}/incidents"/>{entries}</feed>\n'
    )


def _entry(incident: Incident, base: str, now: float, last_seen: float | None) -> str:
    event = make_event(incident, now, last_seen)
    if incident.end is None:
        title, lasted = f"{event.name} is down" if last_seen is None else f"{event.name} was down when last seen", ""
    else:
        title, lasted = f"{event.name} was down for {event.duration} ({event.state})", f" It lasted {event.duration}."
    words = f"Since {_rfc3339(incident.start)}: {event.summary} {event.blocks}.{lasted}"
    link = f"{base}/incidents#{incident.id}"
    return (
        f"<entry><id>{_urn(incident.id + incident.dht_prefix)}</id><title>{_xml(title)}</title>"
        f"<published>{_rfc3339(incident.start)}</published><updated>{_rfc3339(incident.updated)}</updated>"
        f'<link rel="alternate" type="text/html" href="{_xml(link)}"/><summary>{_xml(words)}</summary></entry>'
    )


def _xml(words: str) -> str:
    return escape(text.clean(words))  # clean: control characters cannot stand in XML, escaped or not


def _urn(name: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, f"petals-health/incidents/{name}").urn


def _rfc3339(seconds: float) -> str:
    return f"{text.utc(seconds):%Y-%m-%dT%H:%M:%SZ}"
