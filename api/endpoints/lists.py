"""Lists for programs: `/api/v1/servers` and `/api/v1/models`, as JSON, NDJSON or CSV by suffix or `Accept`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from api.http.encodings import accepted_coding
from api.lists.forms import form_of
from api.lists.query import parse_query
from api.lists.tables import MODELS, SERVERS
from api.services import services_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.lists.index import Table
    from api.pages import View
    from api.responses.prepared import PreparedResponse

SUFFIXES = ("", ".ndjson", ".csv")


async def servers(request: Request) -> PreparedResponse:
    """A row for each server's part in a model."""
    return await _page(request, SERVERS)


async def models(request: Request) -> PreparedResponse:
    """Models without their servers."""
    return await _page(request, MODELS)


async def _page(request: Request, table: Table[Any]) -> PreparedResponse:
    services = services_of(request)
    services.require_public(request)
    query = parse_query(table, request.scope["query_string"])
    path, snapshot, freshness = request.scope["path"], services.snapshot(), services.swarm.view().freshness
    form, coding = form_of(path, request.headers.get("accept", "")), accepted_coding(request)
    # No resource is named like this key: a list is never sent before its whole query and its Accept were read here.
    key = f"list {form} {coding} {path}?{query.text(query.selection.cursor)}"

    def draw(_: View) -> PreparedResponse:
        return services.lists.page(table, snapshot, query, freshness=freshness, form=form, coding=coding, path=path)

    return await services.draw(request, draw, key=key)
