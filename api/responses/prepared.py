"""Bodies that are made once and sent many times: rendered and compressed ahead, then only copied.

A `Body` holds one representation of a resource in each encoding, with its response headers ready as ASGI wants
them. A `BodyTable` holds those that stand ready, by path.
"""

from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import brotli
from backports import zstd

from api.http.resources import resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import Message, Receive, Scope, Send

GZIP_LEVEL, BROTLI_QUALITY, ZSTD_LEVEL = 6, 5, 6
MIN_COMPRESSED = 500
"""Bytes; below that, headers weigh more than what compression saves."""

_NOTHING = {"type": "http.response.body", "body": b""}
_ENCODINGS = ("zstd", "br", "gzip")
"""In the order of preference: the client's choice among equals is ours."""


Answer: TypeAlias = "tuple[Message, Message]"
"""The two ASGI messages of a response: its start, and its whole body."""


class _Variant(NamedTuple):
    """Each answer that one encoding can be."""

    etag: bytes
    whole: Answer
    head: Answer
    not_modified: Answer


@dataclass(frozen=True, slots=True)
class Body:
    """One representation, ready to send. `etag` names the content, whatever its encoding."""

    etag: str
    content: bytes
    content_type: str
    encoded: dict[str, bytes] = field(repr=False)
    """The content by its content coding."""
    _variants: dict[str, _Variant] = field(repr=False)
    route: str = ""
    """What it is counted as, where that is not its path."""

    @classmethod
    def make(
        cls,
        content: bytes,
        content_type: str,
        *,
        headers: dict[str, str] | None = None,
        vary: str = "Accept-Encoding",
        old: Body | None = None,
        route: str = "",
    ) -> Body:
        """Compress `content`, unless `old` is of the same, and prepare its headers."""
        etag = hashlib.blake2b(content, digest_size=12).hexdigest()
        encoded = old.encoded if old is not None and old.etag == etag else _encode(content)
        variants = _prepare(encoded, etag, content_type, {"vary": vary, **(headers or {})})
        return cls(etag, content, content_type, encoded, variants, route)

    def with_headers(self, headers: dict[str, str], *, vary: str = "Accept-Encoding") -> Body:
        """Return the same content under other headers."""
        variants = _prepare(self.encoded, self.etag, self.content_type, {"vary": vary, **headers})
        return Body(self.etag, self.content, self.content_type, self.encoded, variants, self.route)

    @property
    def size(self) -> int:
        """Bytes, in all encodings."""
        return sum(map(len, self.encoded.values()))

    def answer(self, scope: Scope) -> Answer:
        """Answer a GET or HEAD, in the best encoding that the client takes, with 304 where it has it already."""
        headers = dict(scope["headers"])
        if len(headers) < len(scope["headers"]):
            headers = _joined(scope["headers"])
        accepted = headers.get(b"accept-encoding", b"")
        variant = self._variants[_choose(accepted) if len(self._variants) > 1 else "identity"]
        if_none_match = headers.get(b"if-none-match")
        if if_none_match and (variant.etag in if_none_match or if_none_match == b"*"):
            return variant.not_modified
        return variant.head if scope["method"] == "HEAD" else variant.whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A body is an ASGI app, and so can stand as a Starlette response."""
        start, body = self.answer(scope)
        await send(start)
        await send(body)


def _encode(content: bytes) -> dict[str, bytes]:
    encoded = {"identity": content}
    if len(content) >= MIN_COMPRESSED:
        encoded["zstd"] = zstd.compress(content, level=ZSTD_LEVEL)
        encoded["br"] = brotli.compress(content, quality=BROTLI_QUALITY)
        encoded["gzip"] = gzip.compress(content, GZIP_LEVEL, mtime=0)
    return encoded


def _prepare(encoded: dict[str, bytes], etag: str, content_type: str, headers: dict[str, str]) -> dict[str, _Variant]:
    variants = {}
    for encoding, data in encoded.items():
        # A strong validator is of the bytes: each encoding has its own.
        tag = f'"{etag}"' if encoding == "identity" else f'"{etag}-{encoding}"'
        cacheable = [(name.encode(), value.encode()) for name, value in {**headers, "etag": tag}.items()]
        entity = [(b"content-type", content_type.encode()), (b"content-length", str(len(data)).encode())]
        if encoding != "identity":
            entity.append((b"content-encoding", encoding.encode()))
        start = {"type": "http.response.start", "status": 200, "headers": [*entity, *cacheable]}
        not_modified = {"type": "http.response.start", "status": 304, "headers": cacheable}
        variants[encoding] = _Variant(
            etag=tag.encode(),
            whole=(start, {"type": "http.response.body", "body": data}),
            head=(start, _NOTHING),
            not_modified=(not_modified, _NOTHING),
        )
    return variants


def _joined(lines: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the headers with several lines of one name as the one list that they mean."""
    headers: dict[bytes, bytes] = {}
    for name, value in lines:
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


_chosen: dict[bytes, str] = {}
_MAX_CHOSEN = 256
"""Browsers send a handful of different headers; a client that varies them costs this many entries."""
_MAX_ACCEPTED = 256
"""Bytes. No browser's header has half of it; one that is longer gets what all understand."""


def _choose(accepted: bytes) -> str:
    known = _chosen.get(accepted)
    if known is not None:
        return known
    if len(accepted) > _MAX_ACCEPTED:
        return "identity"
    weights = {}
    for item in accepted.decode("latin-1").lower().split(","):
        name, _, parameters = item.strip().partition(";")
        key, _, value = parameters.strip().partition("=")
        try:
            weights[name.strip()] = float(value) if key.strip() == "q" else 1.0
        except ValueError:
            weights[name.strip()] = 0.0
    best = max(_ENCODINGS, key=lambda name: (weights.get(name, weights.get("*", 0.0)), -_ENCODINGS.index(name)))
    choice = best if weights.get(best, weights.get("*", 0.0)) > 0 else "identity"
    if len(_chosen) >= _MAX_CHOSEN:
        _chosen.clear()
    _chosen[accepted] = choice
    return choice


class BodyTable:
    """Bodies by resource, and a second form of some for clients that ask for it by its media type.

    What is not in the table, `made` is asked for: bodies that were made on demand.
    """

    def __init__(self, made: Callable[[str], Body | None] = lambda _: None) -> None:
        self._made = made
        self._bodies: dict[str, Body] = {}
        self._alternatives: dict[str, tuple[bytes, Body | None]] = {}
        self.served = Counter[str]()
        """Requests answered, by route. A plain count: this is the hot path."""

    def replace(self, bodies: dict[str, Body], alternatives: dict[str, tuple[bytes, Body | None]]) -> None:
        """Answer with these from now on. An alternative that is None is somebody else's to answer."""
        self._bodies, self._alternatives = bodies, alternatives

    def answer(self, scope: Scope) -> Answer | None:
        """Answer a request for something that stands ready; None where something else has to."""
        if scope["method"] not in _SAFE:
            return None
        body = self.find(scope)
        return None if body is None else body.answer(scope)

    def find(self, scope: Scope) -> Body | None:
        """Return what stands ready for the request, whatever its method."""
        path = resource(scope)
        body = self._bodies.get(path)
        if body is None:
            body = self._made(path)
            if body is not None:
                self.served[body.route] += 1
            return body
        alternative = self._alternatives.get(path)
        if alternative is not None and _asks_for(scope, alternative[0]):
            body = alternative[1]
            if body is None:
                return None
        self.served[body.route or path] += 1
        return body


_SAFE = frozenset({"GET", "HEAD"})


def _asks_for(scope: Scope, media_type: bytes) -> bool:
    """Whether the client names this media type, and does not want a page as well, as browsers do."""
    accepted = b",".join(value for name, value in scope["headers"] if name == b"accept")
    return media_type in accepted and b"text/html" not in accepted
