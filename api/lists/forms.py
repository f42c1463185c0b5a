"""This module writes a page of a list as JSON, NDJSON or CSV, and chooses the form that a client asks for."""

from __future__ import annotations

import csv
import io
from enum import StrEnum
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec

from api.http.headers import JSON
from shared.spreadsheet import cell

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Form(StrEnum):
    """A form of a list, by the suffix of its path."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"


MEDIA_TYPES = {Form.JSON: JSON, Form.NDJSON: "application/x-ndjson", Form.CSV: "text/csv"}
_BY_TYPE = {"application/json": Form.JSON, "application/x-ndjson": Form.NDJSON, "application/ndjson": Form.NDJSON,
            "application/jsonl": Form.NDJSON, "text/csv": Form.CSV}  # fmt: skip
MAX_ACCEPT = 1_000
"""Characters of an Accept header that are read."""


def form_of(path: str, accept: str) -> Form:
    """Return the form that the path's suffix names; else the one with the greatest weight in `Accept`, JSON first."""
    suffix = path.rpartition("/")[2].rpartition(".")[2]
    if suffix in tuple(Form):
        return Form(suffix)
    best, weight = Form.JSON, 0.0
    for item in accept[:MAX_ACCEPT].lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        form = _BY_TYPE.get(name)
        given = _weight(parameters)
        if form is not None and (given > weight or (given == weight and form is Form.JSON)):
            best, weight = form, given
    return best


def _weight(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


def chosen(entries: Iterable[msgspec.Struct], fields: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """Return the entries with these fields alone."""
    return tuple({field: getattr(entry, field) for field in fields} for entry in entries)


def ndjson(entries: Iterable[Any]) -> bytes:
    """Return a line of JSON for each entry."""
    return msgspec.json.Encoder().encode_lines(entries)


def as_csv(entries: Iterable[msgspec.Struct], kind: type[msgspec.Struct], fields: Sequence[str]) -> bytes:
    """Return a table (RFC 4180) with a row of names first, for entries of this kind.

    A struct in a field becomes a column for each of its fields, several values become one with spaces between them,
    null an empty cell. No cell begins what a spreadsheet would take for a formula.
    """
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_MINIMAL)
    inner = {
        field.name: field.type.__struct_fields__
        for field in msgspec.structs.fields(kind)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
    }
    columns = [(field, name) for field in fields for name in inner.get(field, ("",))]
    writer.writerow([f"{field}_{name}" if name else field for field, name in columns])
    values = [attrgetter(f"{field}.{name}" if name else field) for field, name in columns]
    writer.writerows([cell(value(entry)) for value in values] for entry in entries)
    return out.getvalue().encode()
