"""This module makes and checks request ids, which go from the HTTP header through the job into each log line."""

from __future__ import annotations

import re
import secrets

HEADER = "X-Request-ID"
_SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{3,63}")


def new() -> str:
    return secrets.token_hex(8)


def sane(text: str) -> str | None:
    """Return the id if it is safe in logs and headers; None for any other text, which is hostile."""
    return text if _SANE.fullmatch(text) else None
