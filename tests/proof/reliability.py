"""`make prove-reliability`: break every part of the monitor on this machine, and print what clients noticed.

Hostile records go through the whole path for some seconds. Then the tests of docs/reliability.md run on real
processes, and print what they measured. Wrong answers and lost data must be 0. It takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from tests.support.fuzz_records import fuzz

TESTS = (
    "tests/reliability", "tests/shared/test_lying_nodes.py", "tests/crawler/test_hostile_swarm.py",
    "tests/crawler/test_records.py", "tests/crawler/test_clocks.py", "tests/reachability_worker",
)  # fmt: skip
COLUMNS = ("faults", "requests", "wrong", "lost", "recovery_seconds")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.proof.reliability", description=__doc__)
    parser.add_argument(
        "--fuzz-seconds", type=float, default=20.0, help="seconds of hostile records before the tests (default 20)"
    )
    parser.add_argument("tests", nargs="*", default=TESTS, help="pytest's arguments; default: all of them")
    arguments = parser.parse_args()
    examples = fuzz(arguments.fuzz_seconds, first_seed=1)
    with tempfile.TemporaryDirectory() as folder:
        figures, report = Path(folder) / "figures.jsonl", Path(folder) / "report.xml"
        figures.touch()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *arguments.tests],
            env={**os.environ, "RELIABILITY_FIGURES": str(figures)},
            check=False,
        )
        notes = [json.loads(line) for line in figures.read_text().splitlines()]
        counted = ET.parse(report).getroot()[0].attrib if report.exists() else {}  # noqa: S314 - pytest's own
    print(table(notes))
    print(f"{examples:,} hostile swarms through the whole path: nothing got out of its place, nothing failed")
    print(", ".join(f"{kind} {counted.get(kind, '?')}" for kind in ("tests", "failures", "errors", "skipped")))
    print(
        ", ".join(
            f"{name.replace('_', ' ')} {total(notes, name):,}" for name in ("faults", "requests", "wrong", "lost")
        )
    )
    return done.returncode


def total(notes: list[dict[str, Any]], name: str) -> int:
    return sum(note.get(name, 0) for note in notes)


def table(notes: list[dict[str, Any]]) -> str:
    """A line for each note; what it says beyond the columns stands at its end."""
    width = max((len(note["what"]) for note in notes), default=0)
    lines = [f"{'':<{width}}  " + "  ".join(f"{name.replace('_', ' '):>8}" for name in COLUMNS)]
    for note in notes:
        cells = "  ".join(f"{note.get(name, ''):>{max(8, len(name))}}" for name in COLUMNS)
        more = ", ".join(f"{name} {value}" for name, value in note.items() if name not in ("what", *COLUMNS))
        lines.append(f"{note['what']:<{width}}  {cells}  {more}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
