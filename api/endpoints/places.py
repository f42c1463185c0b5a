"""`/places`: servers by country and city, where the operator has set a geo database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.problems import Problem
from api.responses import kinds
from api.services import services_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.responses.prepared import PreparedResponse


async def page(request: Request) -> PreparedResponse:
    """A 404 where no location is known, or where none may be shown."""
    services = services_of(request)
    services.require_public(request)
    services.snapshot()
    unknown = "No location is known: this monitor has no geo database (GEOIP_DATABASE), or shows no addresses."

    async def make() -> PreparedResponse:
        view = services.swarm.view()

        def render() -> PreparedResponse | None:
            html = services.pages.places(view)
            return None if html is None else kinds.page(html, "/places")

        response = await services.on_demand.render(render)
        if response is None:
            raise Problem(404, unknown)
        return response

    # No path begins like this key: who may see it is asked each time.
    return await services.on_demand.get("places", make)
