"""Contributors: `/contributors` and `/contributors/{name}` for people, the same below `/api/v1/` for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.problems import Problem
from api.responses import kinds
from api.services import services_of
from shared.public.contributors import NAMES_ARE, ContributorDocument, ContributorsDocument, ranking

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from api.pages.view import View
    from api.responses.prepared import PreparedResponse
    from shared.public.contributors import ContributorEntry

    Draw = Callable[[View, tuple[ContributorEntry, ...]], PreparedResponse | None]


async def page(request: Request) -> PreparedResponse:
    """The ranking."""
    pages = services_of(request).pages
    return await _answer(request, lambda view, found: kinds.page(pages.contributors(view, found), "/contributors"))


async def contributor_page(request: Request) -> PreparedResponse:
    """One contributor."""
    pages, name = services_of(request).pages, request.path_params["name"]

    def draw(view: View, found: tuple[ContributorEntry, ...]) -> PreparedResponse | None:
        html = pages.contributor(view, found, name)
        return None if html is None else kinds.page(html, "/contributors/{name}")

    return await _answer(request, draw)


async def contributors(request: Request) -> PreparedResponse:
    """The ranking as JSON."""
    return await _answer(
        request,
        lambda _, found: kinds.document(
            ContributorsDocument(names_are=NAMES_ARE, contributors=found), "/api/v1/contributors"
        ),
    )


async def contributor(request: Request) -> PreparedResponse:
    """One contributor as JSON."""
    name = request.path_params["name"]

    def draw(_: View, found: tuple[ContributorEntry, ...]) -> PreparedResponse | None:
        entry = next((each for each in found if each.name == name), None)
        if entry is None:
            return None
        document = ContributorDocument(names_are=NAMES_ARE, contributor=entry)
        return kinds.document(document, "/api/v1/contributors/{name}")

    return await _answer(request, draw)


async def _answer(request: Request, draw: Draw) -> PreparedResponse:
    services = services_of(request)

    async def make() -> PreparedResponse:
        known, view = await services.history.contributors(), services.swarm.view()
        response = await services.on_demand.render(lambda: draw(view, ranking(known, view.snapshot, view.now)))
        if response is None:
            name = request.path_params["name"][:100]
            raise Problem(404, f"No server that shows the name {name!r} was ever reached.")
        return response

    return await services.on_demand.get(services.public_resource(request), make)
