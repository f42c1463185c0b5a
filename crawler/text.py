"""This module cleans text that strangers wrote, and says which DHT prefixes are valid."""

from __future__ import annotations

import re

from shared import words

MAX_PREFIX = 128
_PREFIX = re.compile(r"[^\s.\"'`\\<>&]+")


def bad_prefix(prefix: str) -> str | None:
    """Return why this is not a valid DHT prefix, or None where it is one.

    Petals splits `{prefix}.{block}` at the dot and chains of blocks at spaces, so no client can use a prefix that
    contains either.
    """
    if not prefix:
        return "the prefix is empty"
    if len(prefix) > MAX_PREFIX:
        return f"the prefix is longer than {MAX_PREFIX} characters"
    if not _PREFIX.fullmatch(prefix) or clean_text(prefix, MAX_PREFIX) != prefix:
        return "the prefix has dots, spaces, quotes or unprintable characters"
    return None


def clean_text(text: str, limit: int) -> str:
    """Return the text without invisible characters (control, bidi, surrogates, separators), cut to `limit`."""
    return words.clean(text[: 4 * limit]).strip()[:limit]
