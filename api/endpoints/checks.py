"""Checks: can the monitor reach a peer, and if not, why. `/api/v1/is_reachable`, the page `/check`, and `/probe`.

Petals servers check themselves before they announce blocks. They read `success`, and at the end `message` and
`your_ip`; on any error status they start unchecked. So a negative verdict is a 200 that a probe stands behind, and
"nobody could look" is a 503.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from redis.exceptions import RedisError
from starlette.responses import HTMLResponse, RedirectResponse, Response

from api.checks.admission import NoVerdictError
from api.checks.given import dial_given
from api.checks.inference import plan_inference, run_inference
from api.hidden import answer_without_addresses, inference_without_addresses
from api.http.client_address import client_address, is_trusted, rate_key
from api.http.headers import JSON, SECURITY_HEADERS
from api.http.problems import CLIENT_LEFT, Problem
from api.metrics.check import check_metrics
from api.metrics.exposition import exposition
from api.pages import CheckView
from api.pages.search import is_peer, make_search
from api.pages.text import check_href
from api.responses import kinds
from api.services import services_of
from shared.advice.causes import message
from shared.advice.given import how_it_ended
from shared.advice.servers import Server
from shared.given import MAX_GIVEN, BadAddressError, GivenAddress, GivenDial
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.public.check import reachability_document
from shared.snapshot import Verdict
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from api.http.request_rate import RequestRate
    from api.responses.prepared import PreparedResponse
    from shared.inference import InferenceRequest, ServerInference
    from shared.reachability import Answer

RETRY_AFTER = 5
"""Seconds in `Retry-After` where nobody could probe the peer."""
SCRAPE_TIMEOUT_HEADER = "x-prometheus-scrape-timeout-seconds"
SCRAPE_RESERVE = 0.5
"""Seconds of the scrape's timeout that are reserved for the answer's way back."""


async def is_reachable(request: Request) -> Response:
    """JSON. 200 with a verdict; 400, 403, 429, 503 problem documents without one."""
    found = await _check(request, request.path_params["peer_id"], request.query_params.getlist("address"))
    your_ip = client_address(request.scope)
    document = reachability_document(found.answers, your_ip=your_ip, inference=found.inference, given=found.given)
    headers = {"cache-control": "no-store"}
    return Response(msgspec.json.encode(document), media_type=JSON, headers=headers)


async def without_peer_id(request: Request) -> Response:
    """A 400: no id at all is a bad id, not an unknown page."""
    raise Problem(400, "Bad peer id: the peer id is empty.")


async def page(request: Request) -> Response:
    """The form; with a peer id, what a check of that peer found; with another text, which peers it names."""
    services = services_of(request)
    given = request.path_params.get("peer_id")
    if given is None:
        asked = request.query_params.get("q") or request.query_params.get("peer_id", "")
        if asked.strip():
            return await _resolved(request, asked)
        return _html(services.pages.check())
    if not _is_peer_id(given):
        return await _resolved(request, given, 400)
    try:
        found = await _check(request, given, request.query_params.getlist("address")[:MAX_GIVEN], refuse=False)
    except Problem as problem:
        ours = problem.status_code == HTTPStatus.SERVICE_UNAVAILABLE
        html = services.pages.check(peer_id=given, problem=problem.detail, ours=ours)
        return _html(html, problem.status_code, dict(problem.headers or {}))
    peer_id, your_ip = found.answers[0].peer_id, client_address(request.scope)

    def render() -> str:
        snapshot = services.swarm.snapshot
        on_demand = services.settings.on_demand_inference == "on"
        view = CheckView(
            tuple(found.answers),
            Server.of(peer_id, snapshot),
            your_ip,
            tuple(found.given),
            inference=found.inference,
            may_compute=on_demand and plan_inference(snapshot, peer_id, services.clock.now()) is not None,
        )
        return services.pages.check(peer_id=peer_id, answer=view)

    return _html(await services.on_demand.render(render))


async def _resolved(request: Request, asked: str, status: int = 200) -> Response:
    """Redirect to the check of the one peer that a text names; otherwise show what it names, and keep it in the box."""
    services = services_of(request)
    resolution = await services.resolve(asked)
    peers = [match for match in resolution.found if is_peer(match)]
    if len(peers) == 1:
        return RedirectResponse(check_href(peers[0].key, peers[0].addresses), 303)
    view = services.swarm.view()
    search = partial(make_search, resolution, view.snapshot, to_check=True, stale=view.stale)
    found = await services.on_demand.render(search)
    return _html(services.pages.check(search=found), status)


def _is_peer_id(given: str) -> bool:
    try:
        parse_peer_id(given)
    except BadPeerIdError:
        return False
    return True


async def probe(request: Request) -> PreparedResponse:
    """`/probe?target=PEER_ID` in blackbox_exporter's form, where PROBE_ENDPOINT=on.

    A verdict is `probe_success` 1 or 0. Where nobody could look, the answer is a 503 and so `up` is 0: an alert on
    `probe_success == 0` never fires because the monitor itself was away. `vantage` asks one vantage point only.
    """
    target = request.query_params.get("target")
    if not target:
        raise Problem(400, "Give a peer id: /probe?target=PEER_ID.")
    started = time.monotonic()
    try:
        async with asyncio.timeout(_scrape_timeout(request)):
            answers = (await _check(request, target)).answers
    except TimeoutError:
        raise Problem(
            503, "Nobody could look within the scrape's time-out. This says nothing about the peer."
        ) from None
    openmetrics = "application/openmetrics-text" in request.headers.get("accept", "")
    measured = check_metrics(answers, time.monotonic() - started)
    return kinds.metrics(exposition(measured, openmetrics=openmetrics), openmetrics=openmetrics)


class _Checked(NamedTuple):
    """Every vantage point's answer about a peer; what it computed, and how given addresses answered, if asked for."""

    answers: list[Answer]
    inference: ServerInference | None
    given: list[GivenDial]


async def _check(request: Request, peer: str, addresses: Sequence[str] = (), *, refuse: bool = True) -> _Checked:
    """Check a peer (its id in any form), have it compute where `?inference=1` asks for it, and dial given addresses.

    Raises `Problem` where there is no verdict, and, with `refuse`, for a malformed address.
    """
    started = time.monotonic()
    services = services_of(request)
    settings = services.settings
    peer_id = await services.peer_id(peer)
    given, refused = _read_given(addresses, peer_id)
    if refuse and (refused or len(addresses) > MAX_GIVEN):
        why = refused[0].outcome.error if refused else f"more than {MAX_GIVEN}"
        raise Problem(400, f"Bad address: {why}.")
    address = client_address(request.scope)
    trusted = is_trusted(address, settings.trusted)
    if settings.rate_limit and not trusted:
        told = "reachability requests a minute from {}. A server needs four."
        key = rate_key(address)
        await _spend(services.request_rate, key, settings.rate_limit, told.format(key), cost=1 + len(given))
    plan = None
    if request.query_params.get("inference") == "1":
        plan = await _plan_inference(request, peer_id, "" if trusted else rate_key(address))
    fresh = request.query_params.get("fresh") == "1"
    if fresh and not trusted:
        raise Problem(403, "A fresh check is for the monitor's trusted networks.")
    deadline = started + settings.reachability_deadline
    vantage = request.query_params.get("vantage")
    checking = awaited(services.checks.check(peer_id, deadline=deadline, vantage=vantage, fresh=fresh))
    dialling = awaited(dial_given(services.checks, given, deadline=deadline, vantage=vantage))
    computing = awaited(run_inference(services.checks, peer_id, plan, deadline=deadline, now=services.clock.now()))
    try:
        answers = await _unless_hung_up(request, checking)
        inference = await computing
        if not settings.show_addresses:
            answers = list(map(answer_without_addresses, answers))
            inference = inference_without_addresses(inference)
        dials = [*await dialling, *refused]
    except NoVerdictError as error:
        raise _no_verdict(str(error), await dialling) from error
    finally:
        await end(computing, dialling)
    if all(answer.outcome.verdict is Verdict.UNKNOWN for answer in answers):
        cause = answers[0].outcome.cause
        raise _no_verdict(message(cause) if cause is not None else "no worker could look", dials)
    return _Checked(answers, inference, dials)


def _read_given(addresses: Sequence[str], peer_id: str) -> tuple[list[GivenAddress], list[GivenDial]]:
    """Return the addresses that can be dialled, each once, and a result for each that cannot."""
    given: dict[GivenAddress, None] = {}
    refused = []
    for address in addresses[: MAX_GIVEN + 1]:
        try:
            given[GivenAddress.read(address, peer_id)] = None
        except BadAddressError as error:
            refused.append(GivenDial.refused(address, str(error)))
    return list(given)[:MAX_GIVEN], refused


async def _plan_inference(request: Request, peer_id: str, client: str) -> InferenceRequest | ServerInference | None:
    """Return `plan_inference` of the newest snapshot.

    Raises a 403 `Problem` where ON_DEMAND_INFERENCE is off, a 429 above the limit.
    `client` is what the rate limit counts by; it is empty for a trusted client, which has no limit.
    """
    services = services_of(request)
    settings = services.settings
    if settings.on_demand_inference == "off":
        raise Problem(403, "This monitor makes no inference checks on demand.")
    if client:
        told = f"inference checks a minute from {client}. Each costs a volunteer's server two tokens."
        await _spend(services.request_rate, f"inference:{client}", settings.inference_rate_limit, told)
    return plan_inference(services.swarm.snapshot, peer_id, services.clock.now())


async def _spend(rate: RequestRate, key: str, limit: int, told: str, cost: int = 1) -> None:
    """Count the request as `cost` against a rate limit. Raises a 429 `Problem` above it that tells what is limited."""
    try:
        budget = await rate.count(key, cost)
    except (RedisError, OSError) as error:
        raise _no_verdict("the monitor's queue is away") from error
    if budget.used > limit:
        seconds = max(1, round(budget.resets_in))
        raise Problem(
            429,
            f"More than {limit} {told}",
            headers={
                "retry-after": str(seconds),
                "ratelimit-policy": f'"default";q={limit};w=60',
                "ratelimit": f'"default";r=0;t={seconds}',
            },
        )


def _no_verdict(reason: str, given: Sequence[GivenDial] = ()) -> Problem:
    """Return a 503 that says why, and how given addresses answered all the same."""
    said = [f"Nobody could look: {reason.rstrip('.')}. This says nothing about the peer.", *map(how_it_ended, given)]
    return Problem(503, " ".join(said), headers={"retry-after": str(RETRY_AFTER), "cache-control": "no-store"})


async def _unless_hung_up(request: Request, checking: asyncio.Task[list[Answer]]) -> list[Answer]:
    """Return the answers; end the check when the client hangs up. Raises a 499 `Problem` then."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    leaving = awaited(hung_up())
    try:
        await asyncio.wait({checking, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not checking.done():
            raise Problem(CLIENT_LEFT, "The client hung up.")
        return checking.result()
    finally:
        await end(leaving, checking)


def _scrape_timeout(request: Request) -> float:
    """Return the seconds that Prometheus leaves for the check, up to our own deadline."""
    deadline = services_of(request).settings.reachability_deadline
    try:
        timeout = float(request.headers.get(SCRAPE_TIMEOUT_HEADER, ""))
    except ValueError:
        return deadline
    return min(deadline, max(0.1, timeout - SCRAPE_RESERVE))


def _html(html: str, status: int = 200, headers: dict[str, str] | None = None) -> HTMLResponse:
    return HTMLResponse(html, status, headers={**SECURITY_HEADERS, "cache-control": "no-cache", **(headers or {})})
