"""The pages that are made on request: a model's, a server's, a check's. The overview is ready in the table."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from starlette.responses import HTMLResponse, RedirectResponse, Response

from api import reachability, state
from api.headers import SECURITY_HEADERS
from api.history_cache import HistoryAwayError
from api.on_demand import page
from api.pages import CheckView, near_models, near_servers
from api.pages.history import ModelPast, model_history_html
from api.problems import Problem
from api.queries import resource
from api.state import no_snapshot
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.store.rings import Resolution

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from api.bodies import Body
    from api.history_cache import HistoryCache
    from api.on_demand import OnDemand
    from api.pages import Pages
    from api.pages.view import View
    from api.swarm import Swarm

T = TypeVar("T")

HISTORY_SECONDS = 0.5
"""How long a page waits for its history."""


async def overview(request: Request) -> Body:
    """The overview as text, until the table has it: the page itself stands there from the beginning."""
    return await state.text(request)


async def model(request: Request) -> Body:
    """A model and all its servers."""
    demand: OnDemand = request.app.state.on_demand
    return await demand.get(resource(request.scope), partial(_make_model, request))


async def _make_model(request: Request) -> Body:
    pages: Pages = request.app.state.pages
    prefix: str = request.path_params["dht_prefix"]
    view: View = request.app.state.swarm.view()
    if view.snapshot is None or all(report.dht_prefix != prefix for report in view.snapshot.models):
        raise await _unknown(request, "model", prefix)
    past = await _history(_model_past(request, prefix))

    def draw() -> Body:
        history = None if past is None else model_history_html(past)
        return page(pages.model(view, prefix, history=history) or "", "/models/{dht_prefix}")

    return await _draw(request, draw)


async def server(request: Request) -> Response | Body:
    """A server, in whatever form its peer id is written."""
    swarm: Swarm = request.app.state.swarm
    given: str = request.path_params["peer_id"]
    try:
        peer_id = parse_peer_id(given)
    except BadPeerIdError as error:
        raise await _unknown(request, "server", given, why=f"{error}") from error
    if peer_id != given:
        return RedirectResponse(f"/servers/{peer_id}")
    if swarm.snapshot is None:
        raise no_snapshot(swarm)
    demand: OnDemand = request.app.state.on_demand
    return await demand.get(resource(request.scope), partial(_make_server, request, peer_id))


async def _make_server(request: Request, peer_id: str) -> Body:
    pages: Pages = request.app.state.pages
    view: View = request.app.state.swarm.view()
    history = await _history(request.app.state.history.server(peer_id))

    def draw() -> Body | None:
        html = pages.server(view, peer_id, history=history)
        return None if html is None else page(html, "/servers/{peer_id}")

    body = await _draw(request, draw)
    if body is None:
        raise await _unknown(request, "server", peer_id)
    return body


async def _draw(request: Request, make: Callable[[], T]) -> T:
    demand: OnDemand = request.app.state.on_demand
    return await demand.draw(make)


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


async def _model_past(request: Request, prefix: str) -> ModelPast:
    cache: HistoryCache = request.app.state.history
    hours, minutes, incidents = await asyncio.gather(
        cache.model(prefix), cache.model(prefix, Resolution.MINUTE), cache.incidents()
    )
    return ModelPast(hours, minutes, tuple(incident for incident in incidents if incident.dht_prefix == prefix))


async def _history(past: Awaitable[T]) -> T | None:
    """The past for a page, or none of it: the page does not wait for it long, and does without."""
    try:
        async with asyncio.timeout(HISTORY_SECONDS):
            return await past
    except (HistoryAwayError, TimeoutError):
        return None


def _page(html: str, status: int = 200, headers: dict[str, str] | None = None) -> HTMLResponse:
    return HTMLResponse(html, status, headers={**SECURITY_HEADERS, "cache-control": "no-cache", **(headers or {})})


async def _unknown(request: Request, kind: str, name: str, *, why: str | None = None) -> Problem:
    swarm: Swarm = request.app.state.swarm
    if swarm.snapshot is None:
        return no_snapshot(swarm)
    find = near_models if kind == "model" else near_servers
    near = await _draw(request, partial(find, swarm.snapshot, name))
    detail = f"The latest snapshot has no {kind} {name[:100]!r}." + (f" {why[0].upper()}{why[1:]}." if why else "")
    return Problem(404, detail, near=near)
