"""Cells of values that strangers chose."""

import pytest

from shared.spreadsheet import cell


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1", "＝1", "\u200b=1"])
def test_hostile_cells(text):
    """However a name hides its first character, an apostrophe stands before it, at the start and after a separator."""
    assert cell(text).lstrip()[0] == "'"
    assert cell(f"a;{text}").startswith("a;'")


def test_what_is_no_formula_stays():
    assert cell("plain text; and more") == "plain text; and more"
    assert cell(-1) == -1
    assert [cell(None), cell(float("nan")), cell(True), cell(("a", "b"))] == ["", "", "true", "a b"]
