"""What is shown elsewhere: pictures that links unfold to, cards in frames, snippets, an incident's own address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import FileResponse, PlainTextResponse, Response

from api.http.base_address import base_address
from api.http.problems import Problem
from api.pages.templating import STATIC_DIR
from api.responses import kinds
from api.services import services_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from api.pages import View
    from api.responses.prepared import PreparedResponse
    from shared.incidents import Incident

CACHED = {"cache-control": "public, max-age=86400"}


async def picture(request: Request) -> PreparedResponse:
    """A model, or the whole swarm, as PNG: drawn once per snapshot."""
    services = services_of(request)
    services.require_public(request)
    prefix = request.path_params.get("dht_prefix")

    def draw(view: View) -> PreparedResponse:
        model = None if prefix is None else services.known_model(view.snapshot, prefix)
        return kinds.picture(services.pages.picture(view, model))

    # No resource is named like this key, here and below: who may see it is checked each time.
    return await services.draw(request, draw, key=f"picture {prefix!r}")


async def embed(request: Request) -> PreparedResponse:
    """A model as a card for other sites' frames."""
    services = services_of(request)
    services.require_public(request)
    prefix: str = request.path_params["dht_prefix"]

    def draw(view: View) -> PreparedResponse:
        return kinds.framed_page(services.pages.embed(view, services.known_model(view.snapshot, prefix)))

    return await services.draw(request, draw, key=f"card {prefix}")


async def page(request: Request) -> PreparedResponse:
    """Snippets that show a model elsewhere."""
    services = services_of(request)
    prefix: str = request.path_params["dht_prefix"]
    base = services.settings.public_url or base_address(request)

    def draw(view: View) -> PreparedResponse:
        return kinds.page(services.pages.share(services.known_model(view.snapshot, prefix), base))

    return await services.draw(request, draw, key=f"share {base} {prefix}")


async def incident(request: Request) -> PreparedResponse:
    """One incident."""
    services = services_of(request)
    wanted: str = request.path_params["incident_id"]

    def draw(view: View, incidents: Sequence[Incident]) -> PreparedResponse:
        found = next((one for one in incidents if one.id == wanted), None)
        if found is None:
            raise Problem(404, f"No incident {wanted[:80]!r} is known: none, or it is too old.")
        return kinds.page(services.pages.incident(view, found))

    return await services.read_and_draw(request, services.history.incidents, draw)


async def robots(request: Request) -> Response:
    """What crawlers of the web may read."""
    if services_of(request).settings.public_pages == "private":
        return PlainTextResponse("User-agent: *\nDisallow: /\n", headers=CACHED)
    return FileResponse(STATIC_DIR / "robots.txt", headers=CACHED)


async def favicon(request: Request) -> Response:
    """The icon, for what asks for it here."""
    return FileResponse(STATIC_DIR / "favicon.ico", media_type="image/x-icon", headers=CACHED)
