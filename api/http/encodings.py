"""This module compresses content in each content coding, and chooses the coding that a client gets."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import brotli
from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from starlette.requests import Request

GZIP_LEVEL, BROTLI_QUALITY, ZSTD_LEVEL = 6, 5, 6
MIN_COMPRESSED = 500
"""Bytes; below this, compression saves less than its headers cost."""
IDENTITY = "identity"

_PREFERRED = ("zstd", "br", "gzip")
"""Between codings of equal weight, the client gets the first of these."""
_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda content: zstd.compress(content, level=ZSTD_LEVEL),
    "br": lambda content: brotli.compress(content, quality=BROTLI_QUALITY),
    "gzip": lambda content: gzip.compress(content, GZIP_LEVEL, mtime=0),
}
_MAX_ACCEPTED = 256
"""Bytes of an Accept-Encoding that are parsed, twice what any browser sends; a longer one gets `identity`."""
_MAX_CHOSEN = 256
"""Headers whose choice is cached. Browsers send a handful of different ones; a hostile client could send any number."""
_chosen: dict[bytes, str] = {}


def encode(content: bytes, codings: Collection[str] = _PREFERRED) -> dict[str, bytes]:
    """Return `{coding: content}` for `identity` and these codings; short content is not compressed."""
    encoded = {IDENTITY: content}
    if len(content) >= MIN_COMPRESSED:
        encoded.update((coding, _COMPRESS[coding](content)) for coding in codings if coding != IDENTITY)
    return encoded


def choose(accepted: bytes) -> str:
    """Return the best content coding for an Accept-Encoding header."""
    known = _chosen.get(accepted)
    if known is not None:
        return known
    if len(accepted) > _MAX_ACCEPTED:
        return IDENTITY
    weights = {}
    for item in accepted.decode("latin-1").lower().split(","):
        name, _, parameters = item.strip().partition(";")
        key, _, value = parameters.strip().partition("=")
        try:
            weights[name.strip()] = float(value) if key.strip() == "q" else 1.0
        except ValueError:
            weights[name.strip()] = 0.0
    best = max(_PREFERRED, key=lambda name: (weights.get(name, weights.get("*", 0.0)), -_PREFERRED.index(name)))
    choice = best if weights.get(best, weights.get("*", 0.0)) > 0 else IDENTITY
    if len(_chosen) >= _MAX_CHOSEN:
        _chosen.clear()
    _chosen[accepted] = choice
    return choice


def accepted_coding(request: Request) -> str:
    """Return the best content coding for a request."""
    return choose(request.headers.get("accept-encoding", "").encode("latin-1"))
