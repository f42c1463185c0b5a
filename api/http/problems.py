"""Errors as RFC 9457 problem documents: JSON for programs, a page for people."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from api.http.headers import CORS, SECURITY_HEADERS, is_api
from shared.public.problem import ProblemDocument

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request

CLIENT_LEFT = 499
"""nginx's number for a client that hung up: nobody reads the answer, but metrics count it, and not as our failure."""
PROBLEM_JSON = "application/problem+json"

_DETAILS = {
    404: "There is nothing at this address. The API is described at /openapi.json.",
    405: "This address can only be read: GET or HEAD.",
}


class Problem(HTTPException):
    """An error with words for the client. `near` are names that may have been meant: (text, href)."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        near: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.near = near


def problem_response(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, near_matches: Sequence[str] = ()
) -> Response:
    document = ProblemDocument(
        type="about:blank", title=_title(status), status=status, detail=detail, near_matches=tuple(near_matches)
    )
    return Response(msgspec.json.encode(document), status, headers=headers, media_type=PROBLEM_JSON)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for all HTTP errors, also those of its own router."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    own = isinstance(error, Problem)
    detail = error.detail if own else _DETAILS.get(error.status_code, error.detail)
    near = error.near if isinstance(error, Problem) else ()
    if wants_html(request) and not request.url.path.startswith("/api/"):
        page = request.app.state.pages.problem(error.status_code, _title(error.status_code), detail, near=near)
        return HTMLResponse(page, error.status_code, headers={**SECURITY_HEADERS, **(error.headers or {})})
    return problem_response(error.status_code, detail, headers=error.headers, near_matches=[words for words, _ in near])


async def on_failure(request: Request, error: Exception) -> Response:
    """Our own mistake: said so, without its innards. The log has them."""
    headers = CORS if is_api(request.url.path) else None  # this is outside of all layers, `api.http.cors` too
    return problem_response(500, "The monitor failed to answer this. It has been logged.", headers=headers)


def _title(status: int) -> str:
    return "Client Closed Request" if status == CLIENT_LEFT else HTTPStatus(status).phrase


def wants_html(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")
