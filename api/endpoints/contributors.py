"""Contributors: `/contributors` and `/contributors/{name}` for people, the same below `/api/v1/` for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.http.problems import Problem
from api.responses import kinds
from api.services import services_of
from shared.public.contributors import NAMES_ARE, ContributorDocument, ContributorsDocument

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from api.pages.view import View
    from api.responses.prepared import PreparedResponse
    from shared.public.contributors import ContributorEntry

    Draw = Callable[[View, tuple[ContributorEntry, ...]], PreparedResponse]


async def page(request: Request) -> PreparedResponse:
    """The ranking."""
    pages = services_of(request).pages
    return await _answer(request, lambda view, found: kinds.page(pages.contributors(view, found)))


async def contributor_page(request: Request) -> PreparedResponse:
    """One contributor."""
    pages, name = services_of(request).pages, request.path_params["name"]

    def draw(view: View, found: tuple[ContributorEntry, ...]) -> PreparedResponse:
        html = pages.contributor(view, found, name)
        if html is None:
            raise _unknown(name)
        return kinds.page(html)

    return await _answer(request, draw)


async def contributors(request: Request) -> PreparedResponse:
    """The ranking as JSON."""
    return await _answer(
        request, lambda _, found: kinds.document(ContributorsDocument(names_are=NAMES_ARE, contributors=found))
    )


async def contributor(request: Request) -> PreparedResponse:
    """One contributor as JSON."""
    name = request.path_params["name"]

    def draw(_: View, found: tuple[ContributorEntry, ...]) -> PreparedResponse:
        entry = next((each for each in found if each.name == name), None)
        if entry is None:
            raise _unknown(name)
        return kinds.document(ContributorDocument(names_are=NAMES_ARE, contributor=entry))

    return await _answer(request, draw)


async def _answer(request: Request, draw: Draw) -> PreparedResponse:
    services = services_of(request)
    return await services.read_and_draw(
        request,
        services.history.contributors,
        lambda view, known: draw(view, services.contributors(known, view)),
        key=services.public_resource(request),
    )


def _unknown(name: str) -> Problem:
    return Problem(404, f"No server that shows the name {name[:100]!r} was ever reached.")
