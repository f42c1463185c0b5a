"""`/places`: servers by country and city, where the operator has set a geo database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.problems import Problem
from api.responses import kinds
from api.services import services_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.pages import View
    from api.responses.prepared import PreparedResponse


async def page(request: Request) -> PreparedResponse:
    """A 404 where no location is known, or where none may be shown."""
    services = services_of(request)
    services.require_public(request)
    services.snapshot()
    unknown = "No location is known: this monitor has no geo database (GEOIP_DATABASE), or shows no addresses."

    def draw(view: View) -> PreparedResponse:
        html = services.pages.places(view)
        if html is None:
            raise Problem(404, unknown)
        return kinds.page(html)

    # No resource is named like this key: who may see it is checked each time.
    return await services.draw(request, draw, key="places")
