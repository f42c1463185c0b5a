"""`GET /api/v1/is_reachable/{peer_id}`: can the monitor reach this peer, and if not, why.

Petals servers ask about themselves before they announce blocks. They read `success`, and at the end `message`
and `your_ip`; on any error status they start unchecked. So a negative verdict is a 200 that somebody's look
stands behind, and "nobody could look" is a 503.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec
from redis.exceptions import RedisError
from starlette.responses import Response

from api.checks.admission import NobodyCouldLookError
from api.http.client_address import client_address, is_trusted, rate_key
from api.http.headers import CORS, JSON
from api.http.problems import CLIENT_LEFT, Problem
from shared.peer_id import BadPeerIdError, parse_peer_id
from shared.public.check import reachability_document
from shared.reachability import message
from shared.snapshot import Verdict
from shared.tasks import awaited, end

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.checks.client import ReachabilityDesk
    from api.http.request_rate import RequestRate
    from api.settings import ApiSettings
    from shared.reachability import Answer

RETRY_AFTER = 5
"""Seconds that a caller is told to wait where nobody could look."""


async def is_reachable(request: Request) -> Response:
    """The endpoint. 200 with a verdict; 400, 429, 503 problem documents without one."""
    answers = await check(request, request.path_params["peer_id"])
    document = reachability_document(answers, your_ip=client_address(request.scope))
    headers = {"cache-control": "no-store", **CORS}
    return Response(msgspec.json.encode(document), media_type=JSON, headers=headers)


async def without_peer_id(request: Request) -> Response:
    """No id at all is a bad id, not an unknown page."""
    raise Problem(400, "Bad peer id: the peer id is empty.", headers=CORS)


async def check(request: Request, text: str) -> list[Answer]:
    """Return every vantage point's answer about a peer, for a request. Raises `Problem`."""
    started = time.monotonic()
    settings: ApiSettings = request.app.state.settings
    desk: ReachabilityDesk = request.app.state.desk
    try:
        peer_id = parse_peer_id(text)
    except BadPeerIdError as error:
        raise Problem(400, f"Bad peer id: {error}.", headers=CORS) from error
    address = client_address(request.scope)
    trusted = is_trusted(address, settings.trusted)
    deadline = started + settings.reachability_deadline
    if settings.rate_limit and not trusted:
        await _spend(request.app.state.request_rate, address, settings.rate_limit)
    fresh = request.query_params.get("fresh") == "1"
    if fresh and not trusted:
        raise Problem(403, "A fresh check is for the monitor's trusted networks.", headers=CORS)
    asking = awaited(desk.ask(peer_id, deadline=deadline, vantage=request.query_params.get("vantage"), fresh=fresh))
    try:
        answers = await _unless_hung_up(request, asking)
    except NobodyCouldLookError as error:
        raise _nobody(str(error)) from error
    if all(answer.outcome.verdict is Verdict.UNKNOWN for answer in answers):
        cause = answers[0].outcome.cause
        raise _nobody(message(cause) if cause is not None else "no worker could look")
    return answers


async def _spend(rate: RequestRate, address: str, limit: int) -> None:
    try:
        budget = await rate.count(rate_key(address))
    except (RedisError, OSError) as error:
        raise _nobody("the monitor's queue is away") from error
    if budget.used > limit:
        seconds = max(1, round(budget.resets_in))
        raise Problem(
            429,
            f"More than {limit} reachability requests a minute from {rate_key(address)}. A server needs four.",
            headers={
                **CORS,
                "retry-after": str(seconds),
                "ratelimit-policy": f'"default";q={limit};w=60',
                "ratelimit": f'"default";r=0;t={seconds}',
            },
        )


def _nobody(reason: str) -> Problem:
    return Problem(
        503,
        f"Nobody could look: {reason.rstrip('.')}. This says nothing about the peer.",
        headers={"retry-after": str(RETRY_AFTER), "cache-control": "no-store", **CORS},
    )


async def _unless_hung_up(request: Request, asking: asyncio.Task[list[Answer]]) -> list[Answer]:
    """Give up with the client: what it asked for costs nothing more."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    leaving = awaited(hung_up())
    try:
        await asyncio.wait({asking, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            raise Problem(CLIENT_LEFT, "The client hung up.")
        return asking.result()
    finally:
        await end(leaving, asking)
