"""Open data: `/data` lists the files of the daily export, `/data/{name}` serves one, `/api/v1/data` is the list."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from starlette.responses import FileResponse

from api.http.headers import CORS
from api.http.problems import Problem
from api.responses import kinds
from api.services import services_of
from shared.export_files import Form, parse_name
from shared.public.data import DataDocument, DataFile

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

    from api.responses.prepared import PreparedResponse

MAX_LISTED = 10_000
"""Files; three years of them are 8,800."""
_HEADERS = {**CORS, "cache-control": "public, max-age=86400", "x-content-type-options": "nosniff"}
"""A file never changes once it is there."""


async def page(request: Request) -> PreparedResponse:
    """The files for people."""
    services = services_of(request)
    folder = services.settings.export_folder
    return await services.draw(
        request,
        lambda view: kinds.page(services.pages.data(view, _listed(folder), exports=folder is not None)),
        key=services.public_resource(request),
    )


async def files(request: Request) -> PreparedResponse:
    """The files for programs; none where this monitor exports nothing."""
    services = services_of(request)
    folder = services.settings.export_folder
    key = services.public_resource(request)
    return await services.draw(request, lambda _: kinds.document(_listed(folder)), key=key)


async def file(request: Request) -> FileResponse:
    """One file, whole or in ranges. Its name is one that the export gives, so no other file can be asked for."""
    services = services_of(request)
    services.require_public(request)
    folder = services.settings.export_folder
    wanted = parse_name(request.path_params["name"])
    if folder is None or wanted is None or not (folder / wanted.name).is_file():
        raise Problem(404, "The export has no such file; /api/v1/data lists those that it has.")
    return FileResponse(folder / wanted.name, media_type="application/gzip", headers=_HEADERS, filename=wanted.name)


def _listed(folder: Path | None) -> DataDocument:
    """Read the folder: for a thread."""
    found = []
    try:
        entries = [] if folder is None else list(os.scandir(folder))
    except OSError as error:
        raise Problem(503, "The folder of the export cannot be read now.", headers={"retry-after": "60"}) from error
    for entry in entries:
        named = parse_name(entry.name)
        if named is None:
            continue
        try:
            size = entry.stat().st_size
        except FileNotFoundError:  # it was just deleted
            continue
        url = f"/data/{named.name}"
        found.append(DataFile(named.name, url, named.kind, named.day.isoformat(), named.form, size))
    found.sort(key=lambda each: (each.kind, each.form is not Form.CSV))
    found.sort(key=lambda each: each.day, reverse=True)
    return DataDocument(files=tuple(found[:MAX_LISTED]))
