"""This module names the files of the daily export, and holds the setting of their folder.

A file's name is made of a kind, a day and a form alone: nothing that a server announces can name a file.
"""

from __future__ import annotations

import re
from datetime import date
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - pydantic reads the annotation
from typing import NamedTuple

from pydantic import field_validator

from shared.settings import Field, Settings

_NAME = re.compile(r"(crawls|servers|incidents|inference)-(\d{4}-\d{2}-\d{2})\.(csv|ndjson)\.gz", re.ASCII)


class Kind(StrEnum):
    """What the rows of a file are."""

    CRAWLS = "crawls"
    SERVERS = "servers"
    INCIDENTS = "incidents"
    INFERENCE = "inference"


class Form(StrEnum):
    """How the rows are written; both are compressed with gzip, which every spreadsheet, shell and library reads."""

    CSV = "csv"
    NDJSON = "ndjson"


class ExportFile(NamedTuple):
    """One file: a kind's rows of one day of UTC."""

    kind: Kind
    day: date
    form: Form

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.day.isoformat()}.{self.form}.gz"


class ExportSettings(Settings):
    """Settings shared by the crawler, which writes the export, and the api, which serves it."""

    export_folder: Path | None = Field(
        None,
        description="Folder of the daily export: the crawler writes it, the api lists it at /data; default: no export.",
        examples=["/var/lib/petals-monitor/export"],
    )

    @field_validator("export_folder")
    @classmethod
    def _is_a_folder(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError("expected a folder that exists")
        return value


def parse_name(name: str) -> ExportFile | None:
    """Return the file that a name is of; None for any other name."""
    found = _NAME.fullmatch(name)
    try:
        return ExportFile(Kind(found[1]), date.fromisoformat(found[2]), Form(found[3])) if found else None
    except ValueError:  # the 31st of February
        return None


def files_of(day: date) -> list[ExportFile]:
    """Return the files of one day."""
    return [ExportFile(kind, day, form) for kind in Kind for form in Form]
