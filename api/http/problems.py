"""This module answers errors as RFC 9457 problem documents: JSON for programs, a page for people."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from api.http.headers import CORS, PROBLEM_JSON, SECURITY_HEADERS, is_api
from shared.public.problem import ProblemDocument

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from starlette.requests import Request

CLIENT_LEFT = 499
"""nginx's status for a client that hung up. Nobody reads the answer, but metrics do not count it as a server error."""

_DETAILS = {
    404: "There is nothing at this address. The API is described at /docs.",
    405: "This address can only be read: GET or HEAD.",
}
_BY_ACCEPT = {"vary": "Accept"}
_REDIRECTS = {"/servers": "/#models", "/models": "/#models", "/api": "/docs", "/api/v1": "/docs"}
"""Addresses that people type, and the page with what they look for."""


class Problem(HTTPException):
    """An error with words for the client.

    `near` holds (text, address of the page) of what may have been meant. A page shows `heading` instead of the status's
    phrase, and `asked` in its box, to be edited.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        near: Sequence[tuple[str, str]] = (),
        heading: str = "",
        asked: str = "",
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.near = near
        self.heading = heading
        self.asked = asked


def exception_handlers(
    page: Callable[[int, str, str, Sequence[tuple[str, str]], str], str],
) -> dict[Any, Callable[[Request, Exception], Awaitable[Response]]]:
    """Return Starlette's handlers: for HTTP errors, its own router's too, and for our own mistakes.

    `page` renders an error's status, heading, detail, suggestions, and what was asked for.
    """

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
        status = error.status_code
        near = error.near if isinstance(error, Problem) else ()
        detail = error.detail if isinstance(error, Problem) else _DETAILS.get(status, error.detail)
        path: str = request.scope["path"]
        headers = {**_BY_ACCEPT, **(error.headers or {})}
        is_browser = "text/html" in request.headers.get("accept", "")
        if is_browser and status == HTTPStatus.NOT_FOUND and (meant := _REDIRECTS.get(path.rstrip("/"))):
            return RedirectResponse(meant, headers=_BY_ACCEPT)
        if is_browser and not path.startswith("/api/"):
            heading, asked = (error.heading, error.asked) if isinstance(error, Problem) else ("", "")
            html = page(status, heading or _title(status), detail, near, asked)
            return HTMLResponse(html, status, headers={**SECURITY_HEADERS, **headers})
        return _problem(status, detail, [text for text, _ in near], headers=headers)

    async def on_failure(request: Request, error: Exception) -> Response:
        """Return a 500 without details: the log has them."""
        headers = (
            CORS if is_api(request.scope["path"]) else None
        )  # it runs outside of all middleware, so `Cors` adds none
        return _problem(500, "The monitor failed to answer this. It has been logged.", headers=headers)

    return {HTTPException: on_http_error, Exception: on_failure}


def _problem(
    status: int, detail: str, near: Sequence[str] = (), *, headers: Mapping[str, str] | None = None
) -> Response:
    document = ProblemDocument(
        type="about:blank", title=_title(status), status=status, detail=detail, near_matches=tuple(near)
    )
    return Response(msgspec.json.encode(document), status, headers=headers, media_type=PROBLEM_JSON)


def _title(status: int) -> str:
    return "Client Closed Request" if status == CLIENT_LEFT else HTTPStatus(status).phrase
