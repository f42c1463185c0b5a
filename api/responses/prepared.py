"""This module holds prepared responses: rendered, compressed and headed once, then only sent.

A `PreparedResponse` is one representation of a resource in each content coding, with its headers as ASGI wants them.
`PreparedResponses` holds them by resource. `AnswerPrepared` is the step before the router that sends them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from api.http.encodings import IDENTITY, choose, encode
from api.http.resources import resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

Messages: TypeAlias = "tuple[Message, Message]"
"""The two ASGI messages of a response: its start, and its whole body."""

VARIANT_BYTES = 3_000
"""Memory that a response takes in each coding beside its content: headers, messages, and their objects."""
_NO_BODY = {"type": "http.response.body", "body": b""}
_READ_METHODS = frozenset({"GET", "HEAD"})


class _Variant(NamedTuple):
    """The responses in one content coding."""

    etag: bytes
    whole: Messages
    head: Messages
    not_modified: Messages


@dataclass(frozen=True, slots=True)
class PreparedResponse:
    """One representation of a resource, ready to send. `etag` names its content, whatever the coding."""

    etag: str
    content: bytes
    content_type: str
    encoded: dict[str, bytes] = field(repr=False)
    """The content by content coding."""
    _variants: dict[str, _Variant] = field(repr=False)
    route: str = ""
    """Label that it is counted under, where that is not its path."""

    @classmethod
    def make(
        cls,
        content: bytes,
        content_type: str,
        *,
        headers: Mapping[str, str] | None = None,
        vary: str = "Accept-Encoding",
        old: PreparedResponse | None = None,
        route: str = "",
        coding: str | None = None,
    ) -> PreparedResponse:
        """Prepare a response. The content is not compressed again where `old` has the same.

        With `coding`, it is compressed in that coding only: for responses that few other clients ask for.
        """
        etag = hashlib.blake2b(content, digest_size=12).hexdigest()
        if old is not None and old.etag == etag:
            encoded = old.encoded
        else:
            encoded = encode(content) if coding is None else encode(content, (coding,))
        variants = _variants(encoded, etag, content_type, {"vary": vary, **(headers or {})})
        return cls(etag, content, content_type, encoded, variants, route)

    def with_headers(self, headers: Mapping[str, str], *, vary: str = "Accept-Encoding") -> PreparedResponse:
        """Return the same content under other headers."""
        variants = _variants(self.encoded, self.etag, self.content_type, {"vary": vary, **headers})
        return PreparedResponse(self.etag, self.content, self.content_type, self.encoded, variants, self.route)

    @property
    def size(self) -> int:
        """Bytes of memory, in all codings together."""
        return sum(len(content) + VARIANT_BYTES for content in self.encoded.values())

    def messages(self, scope: Scope) -> Messages:
        """Return the response to a GET or HEAD: in the best coding that the client accepts, 304 where it has it."""
        headers = dict(scope["headers"])
        if len(headers) < len(scope["headers"]):
            headers = _joined(scope["headers"])
        accepted = headers.get(b"accept-encoding", b"")
        variant = self._variants.get(choose(accepted)) or self._variants[IDENTITY]
        if_none_match = headers.get(b"if-none-match")
        if if_none_match and (variant.etag in if_none_match or if_none_match == b"*"):
            return variant.not_modified
        return variant.head if scope["method"] == "HEAD" else variant.whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Be an ASGI app, as Starlette's responses are: handlers can return it."""
        start, body = self.messages(scope)
        await send(start)
        await send(body)


def _variants(
    encoded: Mapping[str, bytes], etag: str, content_type: str, headers: Mapping[str, str]
) -> dict[str, _Variant]:
    variants = {}
    for encoding, data in encoded.items():
        # A strong ETag identifies the bytes sent, so each coding has its own.
        tag = f'"{etag}"' if encoding == IDENTITY else f'"{etag}-{encoding}"'
        always = {"etag": tag, "x-content-type-options": "nosniff"}
        cacheable = [(name.encode(), value.encode()) for name, value in {**headers, **always}.items()]
        entity = [(b"content-type", content_type.encode()), (b"content-length", str(len(data)).encode())]
        if encoding != IDENTITY:
            entity.append((b"content-encoding", encoding.encode()))
        start = {"type": "http.response.start", "status": 200, "headers": [*entity, *cacheable]}
        not_modified = {"type": "http.response.start", "status": 304, "headers": cacheable}
        variants[encoding] = _Variant(
            etag=tag.encode(),
            whole=(start, {"type": "http.response.body", "body": data}),
            head=(start, _NO_BODY),
            not_modified=(not_modified, _NO_BODY),
        )
    return variants


def _joined(lines: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the headers as a dict; several lines with one name are joined with commas (RFC 9110, 5.3)."""
    headers: dict[bytes, bytes] = {}
    for name, value in lines:
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


class PreparedResponses:
    """Prepared responses by resource; some have a second form for clients that ask for its media type.

    `on_demand` returns other responses that are ready, by resource.
    """

    def __init__(self, on_demand: Callable[[str], PreparedResponse | None] = lambda _: None) -> None:
        self._on_demand = on_demand
        self._by_resource: dict[str, PreparedResponse] = {}
        self._alternatives: dict[str, tuple[bytes, PreparedResponse | None]] = {}
        self.served = Counter[str]()
        """Requests answered, by route. A plain count: this is the hot path."""

    def replace(
        self, by_resource: dict[str, PreparedResponse], alternatives: dict[str, tuple[bytes, PreparedResponse | None]]
    ) -> None:
        """Use these responses from now on. Requests for an alternative that is None go to the router."""
        self._by_resource, self._alternatives = by_resource, alternatives

    def find(self, scope: Scope) -> PreparedResponse | None:
        """Return the response that is prepared for the request's resource, whatever its method; None without one."""
        name = resource(scope)
        found = self._by_resource.get(name)
        if found is None:
            found = self._on_demand(name)
            if found is not None:
                self.served[found.route] += 1
            return found
        alternative = self._alternatives.get(name)
        if alternative is not None and _asks_for(scope, alternative[0]):
            found = alternative[1]
            if found is None:
                return None
        self.served[found.route or name] += 1
        return found


def _asks_for(scope: Scope, media_type: bytes) -> bool:
    """Whether `Accept` names this media type and not HTML, which browsers name."""
    accepted = b",".join(value for name, value in scope["headers"] if name == b"accept")
    return media_type in accepted and b"text/html" not in accepted


class AnswerPrepared:
    """ASGI middleware: sends what is prepared; every other request goes on to the router."""

    def __init__(self, app: ASGIApp, prepared: PreparedResponses) -> None:
        self.app = app
        self.prepared = prepared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_read = scope["type"] == "http" and scope["method"] in _READ_METHODS
        app = (is_read and self.prepared.find(scope)) or self.app
        await app(scope, receive, send)
