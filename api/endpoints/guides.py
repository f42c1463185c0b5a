"""For people who bring a GPU: `/help`; and the terms that the pages use: `/glossary`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.resources import parameters, resource
from api.pages.help import GPU_SIZES
from api.responses import kinds
from api.services import services_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.responses.prepared import PreparedResponse


async def page(request: Request) -> PreparedResponse:
    """Where one more server counts most; `?gpu=` is the memory of a GPU in GB, one of those that the page offers."""
    services = services_of(request)
    given = parameters(request.scope).get("gpu", "")
    gpu_gb = next((size for size in GPU_SIZES if given == str(size)), None)
    key = resource(request.scope) if gpu_gb is not None else request.scope["path"]
    return await services.draw(request, lambda view: kinds.page(services.pages.help(view, gpu_gb=gpu_gb)), key=key)


async def glossary(request: Request) -> PreparedResponse:
    """The terms; they do not depend on the swarm."""
    services = services_of(request)
    return await services.draw(request, lambda _: kinds.page(services.pages.glossary()))
