"""docs/reliability.md and docs/security.md tell the truth."""

import importlib
import re

from tests.reliability.parts import ROOT


def test_every_promise_names_a_test_that_exists():
    """And every row has one."""
    text = (ROOT / "docs" / "reliability.md").read_text()
    rows = re.findall(r"^\| .*\n(?!\|---)", text, re.MULTILINE)  # but for the heads of the tables
    attacks = (ROOT / "docs" / "security.md").read_text().partition("## Attacks tried")[2].partition("\n\nA Redis")[0]
    rows += [line for line in attacks.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 40
    tests = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    for row in rows:
        named = set(re.findall(r"`(test_\w+)`", row))
        assert named, row
        assert named <= tests, named - tests


def test_every_limit_has_the_value_that_is_written():
    """The table of docs/security.md against the constants."""
    text = (ROOT / "docs" / "security.md").read_text()
    rows = re.findall(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \| ([^|]+) \| ([a-z_0-9/]+)\.py", text, re.MULTILINE)
    assert len(rows) > 15
    units = {"KiB": 1024, "MiB": 1024**2}
    for names, values, path in rows:
        module = importlib.import_module(path.replace("/", "."))
        for name, value in zip(re.findall(r"`(\w+)`", names), re.split(r", ", values.strip()), strict=True):
            number, _, unit = value.partition(" ")
            assert getattr(module, name) == float(number.replace(",", "")) * units.get(unit, 1), name
