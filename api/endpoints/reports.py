"""Weekly reports: `/reports` and `/reports/{week}` for people, `/api/v1/reports…` for programs, `/reports.atom`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from starlette.responses import Response

from api.http.base_address import base_address
from api.http.headers import ATOM
from api.http.problems import Problem
from api.pages.feed import MAX_REPORTS, report_feed
from api.responses import kinds
from api.responses.read_through import FRESH_SECONDS
from api.services import services_of
from shared.days import parse_week
from shared.public.reports import ReportLink, ReportsDocument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from api.pages import View
    from api.responses.prepared import PreparedResponse
    from api.services import Services
    from shared.public.reports import ReportDocument


async def page(request: Request) -> PreparedResponse:
    """The weeks that have a report, for people."""
    services = services_of(request)
    return await services.read_and_draw(
        request,
        services.history.report_weeks,
        lambda view, weeks: kinds.page(services.pages.reports(view, weeks)),
        key=services.public_resource(request),
    )


async def week_page(request: Request) -> PreparedResponse:
    """One week for people."""
    services = services_of(request)
    return await services.read_and_draw(
        request,
        partial(_report, services, request.path_params["week"]),
        lambda view, found: kinds.page(services.pages.report(view, found)),
        key=services.public_resource(request),
    )


async def reports(request: Request) -> PreparedResponse:
    """The weeks that have a report, for programs."""
    services = services_of(request)

    def draw(_: View, weeks: Sequence[str]) -> PreparedResponse:
        links = tuple(ReportLink(week, f"/api/v1/reports/{week}") for week in weeks)
        return kinds.document(ReportsDocument(reports=links))

    key = services.public_resource(request)
    return await services.read_and_draw(request, services.history.report_weeks, draw, key=key)


async def report(request: Request) -> PreparedResponse:
    """One week for programs."""
    services = services_of(request)
    return await services.read_and_draw(
        request,
        partial(_report, services, request.path_params["week"]),
        lambda _, found: kinds.document(found),
        key=services.public_resource(request),
    )


async def atom(request: Request) -> Response:
    """The newest reports as a feed."""
    services = services_of(request)
    services.require_public(request)
    history = services.history
    weeks = (await history.report_weeks())[:MAX_REPORTS]
    content = report_feed(await history.reports(*weeks), base=base_address(request))
    headers = {"cache-control": f"public, max-age={FRESH_SECONDS:.0f}", "vary": "Host"}
    return Response(content, media_type=ATOM, headers=headers)


async def _report(services: Services, name: str) -> ReportDocument:
    """Return the week's report. Raises a 404 `Problem`; text that names no week costs no read of its report."""
    if parse_week(name) is not None:
        for found in await services.history.reports(name):
            return found
    newest = (await services.history.report_weeks())[:3]
    near = [(week, f"/reports/{week}") for week in newest]
    raise Problem(
        404, f"There is no report of {name[:20]!r}; /api/v1/reports lists the weeks that have one.", near=near
    )
