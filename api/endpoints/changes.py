"""Changes of servers and models: the feeds `/changes.atom`, `/api/v1/changes` for programs.

Both take `?server=`, `?model=` and `?contributor=`, alone or together. What nobody knows has an empty feed, not an
error: a server that comes back is found again by those who follow it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.base_address import base_address
from api.http.encodings import accepted_coding
from api.http.limit import parse_limit
from api.http.resources import parameters
from api.pages.feed import changes_feed
from api.responses import kinds
from api.responses.changes import filter_of
from api.services import services_of
from shared.public.changes import changes_document

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.pages import View
    from api.responses.prepared import PreparedResponse

MAX_LIMIT = 1_000
MAX_ENTRIES = 100
"""Of a feed."""


async def changes(request: Request) -> PreparedResponse:
    """The changes as JSON, those that were updated last first."""
    services, wanted = services_of(request), filter_of(parameters(request.scope))
    limit = parse_limit(parameters(request.scope).get("limit"), MAX_LIMIT)

    return await services.draw(
        request,
        lambda _: kinds.document(changes_document(services.changes.find(wanted), limit)),
        key=services.public_resource(request),
    )


async def atom(request: Request) -> PreparedResponse:
    """The changes as an Atom feed; one that goes on is the same entry, updated."""
    services, wanted = services_of(request), filter_of(parameters(request.scope))
    base, coding = base_address(request), accepted_coding(request)

    def draw(view: View) -> PreparedResponse:
        found = services.changes.find(wanted)[:MAX_ENTRIES]
        return kinds.feed(changes_feed(found, wanted, base=base, now=view.now), coding)

    # Addresses in a feed are whole, so each name of the monitor has its own. Most feeds have one reader.
    return await services.draw(request, draw, key=f"{base} {coding} {services.public_resource(request)}")
