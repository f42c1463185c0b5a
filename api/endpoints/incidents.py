"""Outages: `GET /api/v1/incidents`, the page `/incidents`, and `/incidents.atom` for feed readers."""

from __future__ import annotations

import re
import uuid
from html import escape
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response

from api.http.headers import CORS
from api.http.problems import Problem
from api.http.resources import resource
from api.pages import text
from api.pages.history import events, make_event
from api.responses.history_cache import HistoryAwayError, history_is_away
from api.responses.on_demand import document
from api.responses.on_demand import page as html_page
from api.responses.read_through import FRESH_SECONDS
from shared.public.incidents import incidents_document

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from api.pages import Pages
    from api.pages.view import View
    from api.responses.on_demand import OnDemand
    from api.responses.prepared import Body
    from shared.incidents import Incident

ATOM = "application/atom+xml; charset=utf-8"
MAX_FEED_ENTRIES = 50
MAX_ON_PAGE = 200
MAX_LIMIT = 1_000
_HOST = re.compile(r"[A-Za-z0-9.\-]+(:\d{1,5})?|\[[0-9a-fA-F:]+\](:\d{1,5})?")


async def as_json(request: Request) -> Body:
    """All incidents, the newest first; `?limit=` of them, `?model=` for those of one DHT prefix."""
    limit = _limit(request.query_params.get("limit"))
    wanted = request.query_params.get("model")

    demand: OnDemand = request.app.state.on_demand

    async def make() -> Body:
        # A filter that was never asked for before costs no read of Redis.
        found = [i for i in await request.app.state.history.incidents() if wanted is None or i.dht_prefix == wanted]
        return await demand.draw(
            lambda: document(msgspec.json.encode(incidents_document(found, limit)), "/api/v1/incidents")
        )

    try:
        return await demand.get(resource(request.scope), make)
    except HistoryAwayError:
        raise history_is_away() from None


async def page(request: Request) -> Body:
    """The same for people."""
    demand: OnDemand = request.app.state.on_demand
    pages: Pages = request.app.state.pages

    async def make() -> Body:
        found, view = await _incidents(request), request.app.state.swarm.view()
        return await demand.draw(
            lambda: html_page(_draw(pages, view, found, request.app.state.clock.now()), "/incidents")
        )

    return await demand.get(resource(request.scope), make)


def _draw(pages: Pages, view: View, found: Sequence[Incident], now: float) -> str:
    ongoing, ended = events(found, now)
    return pages.incidents(view, ongoing, ended[:MAX_ON_PAGE], left_out=max(0, len(ended) - MAX_ON_PAGE))


async def atom(request: Request) -> Response:
    """The newest, as a feed; an incident that ends is the same entry, updated."""
    found = await _incidents(request)
    content = atom_feed(found, base=_base(request), now=request.app.state.clock.now())
    headers = {**CORS, "cache-control": f"public, max-age={FRESH_SECONDS:.0f}", "vary": "Host"}
    return Response(content, media_type=ATOM, headers=headers)


def atom_feed(incidents: Sequence[Incident], *, base: str, now: float) -> str:
    """Return an Atom feed (RFC 4287). `base` is the monitor's own address, without a slash; `now` is Unix seconds."""
    newest = sorted(incidents, key=lambda incident: incident.updated, reverse=True)[:MAX_FEED_ENTRIES]
    updated = newest[0].updated if newest else 0.0
    entries = "".join(_entry(incident, base, now) for incident in newest)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">'
        f"<id>{_urn('feed')}</id><title>Petals Health: incidents</title><updated>{_rfc3339(updated)}</updated>"
        f'<author><name>Petals Health Monitor</name></author><link rel="self" href="{escape(base)}/incidents.atom"/>'
        f'<link rel="alternate" type="text/html" href="{escape(base)}/incidents"/>{entries}</feed>\n'
    )


def _entry(incident: Incident, base: str, now: float) -> str:
    event = make_event(incident, now)
    if incident.end is None:
        title, lasted = f"{event.name} is down", ""
    else:
        title, lasted = f"{event.name} was down for {event.duration} ({event.state})", f" It lasted {event.duration}."
    words = f"Since {_rfc3339(incident.start)}: {event.summary} {event.blocks}.{lasted}"
    link = f"{base}/incidents#{incident.id}"
    return (
        f"<entry><id>{_urn(incident.id + incident.dht_prefix)}</id><title>{_xml(title)}</title>"
        f"<published>{_rfc3339(incident.start)}</published><updated>{_rfc3339(incident.updated)}</updated>"
        f'<link rel="alternate" type="text/html" href="{_xml(link)}"/><summary>{_xml(words)}</summary></entry>'
    )


async def _incidents(request: Request) -> tuple[Incident, ...]:
    try:
        found: tuple[Incident, ...] = await request.app.state.history.incidents()
    except HistoryAwayError:
        raise history_is_away() from None
    return found


def _limit(given: str | None) -> int:
    if given is None:
        return MAX_LIMIT
    if (
        not given.isascii()
        or not given.isdigit()
        or len(given) > len(str(MAX_LIMIT))
        or not 1 <= int(given) <= MAX_LIMIT
    ):
        raise Problem(400, f"Bad limit {given[:50]!r}: expected a number from 1 to {MAX_LIMIT}.", headers=CORS)
    return int(given)


def _base(request: Request) -> str:
    """The address that the client used; nothing of it where a header made it up."""
    host = request.headers.get("host", "")
    return f"{request.url.scheme}://{host}" if _HOST.fullmatch(host) else ""


def _xml(words: str) -> str:
    return escape(text.clean(words))  # clean: control characters cannot stand in XML, escaped or not


def _urn(name: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, f"petals-health/incidents/{name}").urn


def _rfc3339(seconds: float) -> str:
    return f"{text.utc(seconds):%Y-%m-%dT%H:%M:%SZ}"
