"""Search: the page `/search?q=`, and `/api/v1/search?q=` for the suggestions of a page while somebody types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.responses import HTMLResponse, RedirectResponse, Response

from api.http.headers import CORS, JSON, SECURITY_HEADERS
from api.pages.search import make_search, match_href
from api.responses.history_cache import in_time
from api.services import services_of
from shared.paste import MAX_READ
from shared.resolve import Kind

if TYPE_CHECKING:
    from starlette.requests import Request

    from shared.public.search import SearchDocument
    from shared.resolve import Resolution


async def page(request: Request) -> Response:
    """What the text names: the page of the one thing that it names, else a list, else what may have been meant."""
    services = services_of(request)
    text = request.query_params.get("q", "")
    resolution = await services.resolve(text)
    only = resolution.only
    if only is not None and only.kind is not Kind.CONTRIBUTOR:
        return RedirectResponse(match_href(only), 303, headers={"cache-control": "no-store"})
    found = await _search(request, resolution)
    view = services.swarm.view()
    html = await services.on_demand.render(lambda: services.pages.search(view, found))
    return HTMLResponse(html, headers={**SECURITY_HEADERS, "cache-control": "no-cache"})


async def search(request: Request) -> Response:
    """The same for programs: JSON, and never a redirect."""
    services = services_of(request)
    services.snapshot()
    text = request.query_params.get("q", "")[: MAX_READ + 1]
    resolution = await services.resolve(text)
    found = await _search(request, resolution)
    headers = {**CORS, "cache-control": "public, max-age=15"}
    return Response(msgspec.json.encode(found), media_type=JSON, headers=headers)


async def _search(request: Request, resolution: Resolution) -> SearchDocument:
    services = services_of(request)
    incidents = await in_time(services.history.incidents()) or ()
    view = services.swarm.view()
    return await services.on_demand.render(lambda: make_search(resolution, view.snapshot, incidents, stale=view.stale))
