"""This module finds the rows of a page. An index per snapshot serves every filter and order without scanning all rows.

For 10,000 rows, building the index takes about 11 ms (at the first request for a list), an order 7, a page a few more.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import msgspec

    from shared.snapshot import Snapshot

Row = TypeVar("Row")
Identity: TypeAlias = tuple[str, str]
"""Identifies a row in every snapshot, and orders rows with the same value."""
Value: TypeAlias = float | str | None


@dataclass(frozen=True, slots=True)
class Filter(Generic[Row]):
    """A query parameter that keeps the rows whose value is one of those given."""

    value: Callable[[Row], str | None]
    words: str
    """What it is, for the documentation."""
    values: tuple[str, ...] = ()
    """All that there are; empty where it may be any text."""


@dataclass(frozen=True, slots=True)
class Table(Generic[Row]):
    """What can be listed, and how."""

    name: str
    rows: Callable[[Snapshot], Iterable[Row]]
    identity: Callable[[Row], Identity]
    entry: Callable[[Row], msgspec.Struct]
    """What is shown of a row."""
    kind: type[msgspec.Struct]
    """Of an entry."""
    filters: Mapping[str, Filter[Row]]
    sorts: Mapping[str, Callable[[Row], Value]]
    document: type[msgspec.Struct]
    part: type[msgspec.Struct]
    """The document where `fields` were chosen."""
    rank: Callable[[int], Value] = lambda _: None
    """Given a row's place in the snapshot: what it is ordered by where no order is asked for."""
    default_limit: int = 100

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of what is shown of a row."""
        return self.kind.__struct_fields__


class Cursor(NamedTuple):
    """The position after which a page begins: the values of a row, which need not exist any more."""

    sort: str
    value: Value
    identity: Identity


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows are asked for, in which order, from which one on."""

    filters: Mapping[str, frozenset[str]]
    sort: str
    """A name of `Table.sorts`; empty for the table's own order."""
    descending: bool
    limit: int
    cursor: Cursor | None


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """The rows of one page."""

    rows: Sequence[Row]
    total: int
    """Of all pages."""
    next: Cursor | None


class _Order(NamedTuple):
    """Places in the snapshot of all rows, in one order. Those without a value to sort by always come last."""

    values: list[Any]
    """By place."""
    with_value: list[int]
    """Sorted by value, then by identity."""
    without: list[int]
    """Sorted by identity."""


class Index(Generic[Row]):
    """The rows of one snapshot by each filter's values; orders are made when they are first asked for."""

    def __init__(self, table: Table[Row], snapshot: Snapshot) -> None:
        self._table = table
        self.snapshot = snapshot
        self._rows = list(table.rows(snapshot))
        self._identities = list(map(table.identity, self._rows))
        self._by_identity = sorted(range(len(self._rows)), key=self._identities.__getitem__)
        self._by_value: dict[str, dict[str | None, set[int]]] = {}
        self._orders: dict[str, _Order] = {}

    def page(self, selection: Selection) -> Page[Row]:
        """Return a page. Raises `TypeError` where the cursor's value has another type than the order."""
        wanted = self._wanted(selection.filters)
        order = self._order(selection.sort)
        places = self._after(order, selection.cursor, descending=selection.descending)
        found = list(islice((place for place in places if wanted is None or place in wanted), selection.limit + 1))
        shown = [self._rows[place] for place in found[: selection.limit]]
        more = len(found) > selection.limit
        return Page(
            shown,
            len(self._rows) if wanted is None else len(wanted),
            self._cursor(selection.sort, found[selection.limit - 1]) if more else None,
        )

    def _wanted(self, filters: Mapping[str, frozenset[str]]) -> set[int] | None:
        wanted: set[int] | None = None
        for name, values in filters.items():
            known = self._values(name)
            found = set[int]().union(*(known.get(value, ()) for value in values))
            wanted = found if wanted is None else wanted & found
        return wanted

    def _values(self, name: str) -> dict[str | None, set[int]]:
        known = self._by_value.get(name)
        if known is None:
            known, value = {}, self._table.filters[name].value
            for place, row in enumerate(self._rows):
                known.setdefault(value(row), set()).add(place)
            self._by_value[name] = known
        return known

    def _order(self, sort: str) -> _Order:
        order = self._orders.get(sort)
        if order is None:
            if sort:
                values: list[Any] = list(map(self._table.sorts[sort], self._rows))
            else:
                values = list(map(self._table.rank, range(len(self._rows))))
            valued = [place for place in self._by_identity if values[place] is not None]
            valued.sort(key=values.__getitem__)
            without = [place for place in self._by_identity if values[place] is None]
            order = self._orders[sort] = _Order(values, valued, without)
        return order

    def _cursor(self, sort: str, place: int) -> Cursor:
        return Cursor(sort, self._order(sort).values[place], self._identities[place])

    def _after(self, order: _Order, cursor: Cursor | None, *, descending: bool) -> Iterator[int]:
        """Yield the places of the rows after the cursor, in order."""
        values, rows, without = order
        start, skipped = 0, 0
        if cursor is not None and cursor.value is None:
            start, skipped = len(rows), bisect_right(without, cursor.identity, key=self._identities.__getitem__)
        elif cursor is not None:
            mark = (cursor.value, cursor.identity)
            find = bisect_left if descending else bisect_right
            start = find(rows, mark, key=lambda place: (values[place], self._identities[place]))
            if descending:
                start = len(rows) - start
        for number in range(start, len(rows)):
            yield rows[-1 - number if descending else number]
        yield from without[skipped:]
