"""Errors as JSON: problem documents of RFC 9457."""

from __future__ import annotations

from shared.public.document import Document


class ProblemDocument(Document, omit_defaults=True):
    """What went wrong with a request (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    near_matches: tuple[str, ...] = ()
    """Names that may have been meant; absent without any."""
