"""The pages that are made on request: a model's, a server's, a check's. The overview is ready in the table."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from api import reachability
from api.headers import SECURITY_HEADERS
from api.history_cache import HistoryAwayError
from api.pages import CheckView, near_models, near_servers
from api.pages.history import ModelPast, model_history_html
from api.problems import Problem
from api.state import no_snapshot
from shared.history import Resolution
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.text_picture import text_picture

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from markupsafe import Markup
    from starlette.requests import Request

    from api.history_cache import HistoryCache
    from api.pages import Pages
    from api.swarm import Swarm

T = TypeVar("T")

HISTORY_SECONDS = 0.5
"""How long a page waits for its history."""


async def overview(request: Request) -> Response:
    """The overview where the table does not answer: with a query, or as text before the first snapshot."""
    swarm: Swarm = request.app.state.swarm
    accept = request.headers.get("accept", "")
    if "text/plain" in accept and "text/html" not in accept:
        if swarm.snapshot is None:
            raise no_snapshot(swarm)
        return PlainTextResponse(text_picture(swarm.snapshot))
    return _page(request.app.state.pages.overview(swarm.view()))


async def model(request: Request) -> Response:
    """A model and all its servers."""
    swarm: Swarm = request.app.state.swarm
    pages: Pages = request.app.state.pages
    prefix: str = request.path_params["dht_prefix"]
    if swarm.snapshot is None or all(report.dht_prefix != prefix for report in swarm.snapshot.models):
        raise _unknown(swarm, "model", prefix)
    page = pages.model(swarm.view(), prefix, history=await _history(_model_history(request, prefix)))
    if page is None:
        raise _unknown(swarm, "model", prefix)
    return _page(page)


async def server(request: Request) -> Response:
    """A server, in whatever form its peer id is written."""
    swarm: Swarm = request.app.state.swarm
    given: str = request.path_params["peer_id"]
    try:
        peer_id = parse_peer_id(given)
    except BadPeerIdError as error:
        raise _unknown(swarm, "server", given, why=f"{error}") from error
    if peer_id != given:
        return RedirectResponse(f"/servers/{peer_id}")
    if swarm.snapshot is None:
        raise no_snapshot(swarm)
    history = await _history(request.app.state.history.server(peer_id))
    page = request.app.state.pages.server(swarm.view(), peer_id, history=history)
    if page is None:
        raise _unknown(swarm, "server", peer_id)
    return _page(page)


async def check(request: Request) -> Response:
    """The form; with a peer id, what looking at that peer found."""
    pages: Pages = request.app.state.pages
    given = request.path_params.get("peer_id")
    if given is None and (asked := request.query_params.get("peer_id", "").strip()):
        return RedirectResponse(f"/check/{quote(asked[:200], safe='')}", 303)
    if given is None:
        return _page(pages.check(peer_id=None, answer=None, problem=None))
    try:
        answers = await reachability.check(request, given)
    except Problem as problem:
        page = pages.check(peer_id=given, answer=None, problem=problem.detail)
        return _page(page, problem.status_code, dict(problem.headers or {}))
    show = request.app.state.settings.peer_addresses == "public"
    view = CheckView(tuple(answers), show_addresses=show)
    return _page(pages.check(peer_id=answers[0].peer_id, answer=view, problem=None))


async def _model_history(request: Request, prefix: str) -> Markup:
    cache: HistoryCache = request.app.state.history
    hours, minutes, incidents = await asyncio.gather(
        cache.model(prefix), cache.model(prefix, Resolution.MINUTE), cache.incidents()
    )
    own = tuple(incident for incident in incidents if incident.dht_prefix == prefix)
    return model_history_html(ModelPast(hours, minutes, own))


async def _history(past: Awaitable[T]) -> T | None:
    """The past for a page, or none of it: the page does not wait for it long, and does without."""
    try:
        async with asyncio.timeout(HISTORY_SECONDS):
            return await past
    except (HistoryAwayError, TimeoutError):
        return None


def _page(html: str, status: int = 200, headers: dict[str, str] | None = None) -> HTMLResponse:
    return HTMLResponse(html, status, headers={**SECURITY_HEADERS, "cache-control": "no-cache", **(headers or {})})


def _unknown(swarm: Swarm, kind: str, name: str, *, why: str | None = None) -> Problem:
    if swarm.snapshot is None:
        return no_snapshot(swarm)
    near = (near_models if kind == "model" else near_servers)(swarm.snapshot, name)
    detail = f"The latest snapshot has no {kind} {name[:100]!r}." + (f" {why[0].upper()}{why[1:]}." if why else "")
    return Problem(404, detail, near=near)
