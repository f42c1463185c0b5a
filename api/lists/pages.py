"""This module makes the pages of lists, and keeps each table's index until there is a newer snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from api.http.headers import CORS
from api.lists import forms
from api.lists.forms import MEDIA_TYPES, Form
from api.lists.index import Index
from api.lists.query import bad_cursor
from api.responses.kinds import BY_ACCEPT
from api.responses.prepared import PreparedResponse
from api.responses.read_through import FRESH_SECONDS
from shared.public.document import as_of

if TYPE_CHECKING:
    from api.lists.index import Table
    from api.lists.query import ListQuery
    from shared.judgement.freshness import Freshness
    from shared.snapshot import Snapshot


class ListPages:
    """Makes pages of lists. For one thread at a time: the one that renders (`api.responses.on_demand`)."""

    def __init__(self) -> None:
        self._indexes: dict[str, Index[Any]] = {}

    def page(
        self,
        table: Table[Any],
        snapshot: Snapshot,
        query: ListQuery,
        *,
        freshness: Freshness,
        form: Form,
        path: str,
        coding: str,
    ) -> PreparedResponse:
        """Return a page of the table, compressed in one content coding. Raises a 400 `Problem` for a bad cursor."""
        try:
            page = self._index(table, snapshot).page(query.selection)
        except TypeError as error:
            raise bad_cursor() from error
        following = None if page.next is None else f"{path}?{query.text(page.next)}"
        headers = {
            **CORS,
            "cache-control": f"public, max-age={FRESH_SECONDS:.0f}",
            **({} if following is None else {"link": f'<{following}>; rel="next"'}),
        }
        if form is Form.CSV:
            headers["content-disposition"] = f'inline; filename="{table.name}.csv"'
        entries = tuple(map(table.entry, page.rows))
        if form is Form.CSV:
            content = forms.as_csv(entries, table.kind, query.fields or table.fields)
        else:
            rows: tuple[Any, ...] = forms.chosen(entries, query.fields) if query.fields else entries
            if form is Form.NDJSON:
                content = forms.ndjson(rows)
            else:
                document = table.part if query.fields else table.document
                content = msgspec.json.encode(
                    document(**as_of(snapshot, freshness), total=page.total, next=following, **{table.name: rows})
                )
        return PreparedResponse.make(content, MEDIA_TYPES[form], headers=headers, vary=BY_ACCEPT, coding=coding)

    def _index(self, table: Table[Any], snapshot: Snapshot) -> Index[Any]:
        known = self._indexes.get(table.name)
        if known is None or known.snapshot is not snapshot:
            known = Index(table, snapshot)
            self._indexes[table.name] = known
        return known
