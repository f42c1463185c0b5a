"""This module writes values that strangers chose as CSV cells that no spreadsheet reads as a formula."""

from __future__ import annotations

import math
import re
from typing import Any

from shared.words import clean

_FORMULA = re.compile(r"(^|;)(?=\s*[=+\-@＝＋－＠])")
"""Where a spreadsheet would begin to calculate: at the start of a cell, with either separator of cells."""
_BEGINS_ONE = frozenset(" =+-@＝＋－＠")
"""First characters of text that `_FORMULA` may change; `clean` leaves no other white space."""


def cell(value: Any) -> Any:
    """Return what `csv` writes for a value.

    Null and numbers that are not finite are empty cells, several values one with spaces between them. Text gets an
    apostrophe before what would begin a formula, as spreadsheets mark text.
    """
    kind = type(value)
    if kind is str:  # most values are: checked first, it halves the time of a table
        return _harmless(value)
    if value is None:
        return ""
    if kind is float:
        return value if math.isfinite(value) else ""
    if kind is int:
        return value
    if kind is bool:
        return "true" if value else "false"
    return _harmless(" ".join(value) if kind is tuple else f"{value}")


def _harmless(text: str) -> str:
    text = clean(text)
    return _FORMULA.sub(r"\1'", text) if text[:1] in _BEGINS_ONE or ";" in text else text
