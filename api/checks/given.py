"""This module has the addresses dialled that a client gives, beside the check of their peer."""

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


async def dialled(
    checks: CheckClient, given: Sequence[GivenAddress], *, deadline: float, vantage: str | None = None
) -> list[GivenDial]:
    """Have each dialled by one vantage point before `deadline` (monotonic seconds); it is unknown where none could."""

    async def one(address: GivenAddress) -> GivenDial:
        try:
            answer = await checks.dial(address, deadline=deadline, vantage=vantage)
        except NoVerdictError as error:
            return GivenDial(address.way, DialOutcome.unknown(Cause.EXPIRED, error=str(error)))
        return GivenDial.of(address, answer)

    return list(await asyncio.gather(*map(one, given)))
