"""This module has workers dial the addresses that a client gave, beside the check of their peer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from api.checks.admission import NoVerdictError
from shared.given import GivenDial
from shared.reachability import Cause, DialOutcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.checks.client import CheckClient
    from shared.given import GivenAddress


async def dial_given(
    checks: CheckClient, given: Sequence[GivenAddress], *, deadline: float, vantage: str | None
) -> list[GivenDial]:
    """Return how each dial ended, by one vantage point, before `deadline` (monotonic seconds).

    The verdict on an address is unknown where no vantage point could dial it.
    """

    async def one(address: GivenAddress) -> GivenDial:
        try:
            answer = await checks.dial(address, deadline=deadline, vantage=vantage)
        except NoVerdictError as error:
            return GivenDial(address.address, DialOutcome.unknown(Cause.EXPIRED, error=str(error)))
        return GivenDial.of(address, answer)

    return list(await asyncio.gather(*map(one, given)))
