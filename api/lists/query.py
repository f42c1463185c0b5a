"""This module parses the query of a list.

Other routes ignore unknown parameters; here they are errors, because a misspelt filter would list everything.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

import msgspec

from api.http.limit import parse_limit
from api.http.problems import Problem
from api.http.resources import MAX_QUERY
from api.lists.index import Cursor, Selection
from api.lists.tables import MAX_LIMIT

if TYPE_CHECKING:
    from api.lists.index import Table

MAX_GIVEN = 50
"""Parameters of one query."""
COMMON = ("sort", "fields", "limit", "cursor")
_cursors = msgspec.json.Decoder(tuple[str, float | str | None, str, str])


class ListQuery(msgspec.Struct, frozen=True):
    """A valid query."""

    selection: Selection
    fields: tuple[str, ...]
    """Fields that were chosen, in that order; empty for all."""
    plain: str
    """The query without its cursor, always written in the same way."""

    def text(self, cursor: Cursor | None) -> str:
        """Return the query for a URL, with this cursor."""
        more = "" if cursor is None else urlencode({"cursor": encode_cursor(cursor)})
        return "&".join(filter(None, (self.plain, more)))


def parse_query(table: Table[Any], query: bytes) -> ListQuery:
    """Return what is asked of a table. Raises a 400 `Problem` that says what can be asked."""
    given = _given(table, query)
    limit = parse_limit(_once(given, "limit"), MAX_LIMIT, table.default_limit)
    fields = _fields(table, _once(given, "fields"))
    sort = _once(given, "sort") or ""
    descending, name = sort.startswith("-"), sort.removeprefix("-")
    if sort and name not in table.sorts:
        raise Problem(
            400, f"Bad sort {sort[:50]!r}: expected one of {', '.join(table.sorts)}, or one with - before it."
        )
    filters = {name: frozenset(given[name]) for name in table.filters if name in given}
    for parameter, values in filters.items():
        allowed = table.filters[parameter].values
        for value in values:
            if allowed and value not in allowed:
                raise Problem(400, f"Bad {parameter} {value[:50]!r}: expected one of {', '.join(allowed)}.")
    text = _once(given, "cursor")
    cursor = None if text is None else decode_cursor(text, name)
    pairs = [(parameter, value) for parameter, values in sorted(filters.items()) for value in sorted(values)]
    shown_limit = f"{limit}" if limit != table.default_limit else ""
    others = (("sort", sort), ("fields", ",".join(fields)), ("limit", shown_limit))
    pairs += [(parameter, value) for parameter, value in others if value]
    return ListQuery(Selection(filters, name, descending, limit, cursor), fields, urlencode(pairs))


def encode_cursor(cursor: Cursor) -> str:
    """Return the cursor for a URL: base64url of JSON `[sort, value, *identity]`."""
    content = msgspec.json.encode((cursor.sort, cursor.value, *cursor.identity))
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def decode_cursor(text: str, sort: str) -> Cursor:
    """Return the cursor. Raises a 400 `Problem` for text that is not a cursor of a list sorted by `sort`."""
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        named, value, first, second = _cursors.decode(content)
    except (binascii.Error, ValueError) as error:
        raise bad_cursor() from error
    if named != sort:
        raise bad_cursor()
    return Cursor(named, value, (first, second))


def bad_cursor() -> Problem:
    """Return the problem for a cursor that is not from this list."""
    return Problem(400, "Bad cursor: take the address of the next page from `next`, and keep its `sort`.")


def _given(table: Table[Any], query: bytes) -> dict[str, list[str]]:
    if len(query) > MAX_QUERY:
        raise Problem(400, f"The query is longer than {MAX_QUERY} bytes.")
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_GIVEN)
    except ValueError as error:
        raise Problem(400, f"The query has more than {MAX_GIVEN} parameters.") from error
    given: dict[str, list[str]] = {}
    for name, value in pairs:
        if name not in table.filters and name not in COMMON:
            known = ", ".join([*table.filters, *COMMON])
            raise Problem(400, f"Unknown parameter {name[:50]!r}: this list has {known}.")
        given.setdefault(name, []).append(value)
    return given


def _once(given: dict[str, list[str]], name: str) -> str | None:
    values = given.get(name)
    if values is None:
        return None
    if len(values) > 1:
        raise Problem(400, f"The parameter {name} is given {len(values)} times.")
    return values[0]


def _fields(table: Table[Any], given: str | None) -> tuple[str, ...]:
    if given is None:
        return ()
    fields = tuple(dict.fromkeys(given.split(",")))
    for field in fields:
        if field not in table.fields:
            raise Problem(400, f"Unknown field {field[:50]!r}: a row has {', '.join(table.fields)}.")
    return fields
