"""What is shown elsewhere: pictures that links unfold to, cards in frames, snippets, an incident's own address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import FileResponse, PlainTextResponse, Response

from api.http.base_address import base_address
from api.http.problems import Problem
from api.http.resources import resource
from api.pages.history import make_event
from api.pages.templating import STATIC_DIR
from api.responses import kinds
from api.services import services_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.responses.prepared import PreparedResponse
    from api.services import Services
    from shared.snapshot import ModelReport

CACHED = {"cache-control": "public, max-age=86400"}


async def picture(request: Request) -> PreparedResponse:
    """A model, or the whole swarm, as PNG: drawn once per snapshot."""
    services = services_of(request)
    services.require_public(request)
    prefix = request.path_params.get("dht_prefix")
    model = None if prefix is None else await _model(services, prefix)
    route = "/og.png" if prefix is None else "/og/models/{dht_prefix}.png"
    view = services.swarm.view()
    # No path begins like this key, here and below: who may see it is checked each time.
    return await services.on_demand.draw(
        f"picture {prefix!r}", lambda: kinds.picture(services.pages.picture(view, model), route)
    )


async def embed(request: Request) -> PreparedResponse:
    """A model as a card for other sites' frames."""
    services = services_of(request)
    services.require_public(request)
    prefix: str = request.path_params["dht_prefix"]
    model = await _model(services, prefix)
    view = services.swarm.view()

    def draw() -> PreparedResponse:
        return kinds.framed_page(services.pages.embed(view, model), "/embed/models/{dht_prefix}")

    return await services.on_demand.draw(f"card {prefix}", draw)


async def page(request: Request) -> PreparedResponse:
    """Snippets that show a model elsewhere."""
    services = services_of(request)
    prefix: str = request.path_params["dht_prefix"]
    model, base = await _model(services, prefix), services.settings.public_url or base_address(request)

    def draw() -> PreparedResponse:
        return kinds.page(services.pages.share(model, base), "/share/models/{dht_prefix}")

    return await services.on_demand.draw(f"share {base} {prefix}", draw)


async def incident(request: Request) -> PreparedResponse:
    """One incident."""
    services = services_of(request)
    wanted: str = request.path_params["incident_id"]

    async def make() -> PreparedResponse:
        found = next((one for one in await services.history.incidents() if one.id == wanted), None)
        if found is None:
            raise Problem(404, f"No incident {wanted[:80]!r} is known: none, or it is too old.")
        view = services.swarm.view()

        def render() -> PreparedResponse:
            return kinds.page(services.pages.incident(view, make_event(found, view.now)), "/i/{incident_id}")

        return await services.on_demand.render(render)

    return await services.on_demand.get(resource(request.scope), make)


async def robots(request: Request) -> Response:
    """What crawlers of the web may read."""
    if services_of(request).settings.public_pages == "private":
        return PlainTextResponse("User-agent: *\nDisallow: /\n", headers=CACHED)
    return FileResponse(STATIC_DIR / "robots.txt", headers=CACHED)


async def favicon(request: Request) -> Response:
    """The icon, for what asks for it here."""
    return FileResponse(STATIC_DIR / "favicon.ico", media_type="image/x-icon", headers=CACHED)


async def _model(services: Services, prefix: str) -> ModelReport:
    model = services.model(prefix)
    if model is None:
        raise await services.unknown("model", prefix, f"No model {prefix[:100]!r} is known.")
    return model
