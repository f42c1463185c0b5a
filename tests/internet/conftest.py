"""The option that writes the table into a document."""

from __future__ import annotations

from pathlib import Path


def pytest_addoption(parser):
    parser.addoption(
        "--internet-table",
        type=Path,
        metavar="FILE",
        help="write the table of situations into a Markdown file, between its two marks, with the date",
    )
