"""A dial that hangs does not hide what other dials to the same peer came to."""

import math
from types import SimpleNamespace

import pytest

from shared.p2p.dial_errors import Failure
from shared.p2p.multiaddr import from_text
from shared.p2p.probe import _hung
from shared.reachability import Cause
from shared.snapshot import Verdict
from tests.fakes import peer_id

ALIVE = SimpleNamespace(is_alive=True)
SILENT = SimpleNamespace(over=True, addresses=[from_text("/ip4/192.0.2.1/udp/1/quic-v1")], withheld={})
FULL = Failure("error opening relay circuit: RESOURCE_LIMIT_EXCEEDED (201)", peer_id(1))
NO_PLACE = Failure("error opening relay circuit: NO_RESERVATION (204)", peer_id(1))
UNRESOLVED = Failure("no address for the name x", cause=Cause.NAME_NOT_RESOLVED)
LONG_AGO, JUST_NOW = -math.inf, math.inf


def dials(*failures, waited_for=(), resolving=(), last_begun_at=LONG_AGO):
    asked = [failure.relay for failure in failures if failure.relay]
    return SimpleNamespace(
        failures=list(failures), relays_asked=asked, relays_dialling=set(), relays_waited_for=set(waited_for),
        names_resolving=set(resolving), last_begun_at=last_begun_at,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tried", "verdict", "cause"),
    [
        (dials(), Verdict.UNREACHABLE, Cause.TIMEOUT),
        (dials(FULL), Verdict.UNKNOWN, Cause.RELAY_FULL),
        (dials(UNRESOLVED), Verdict.UNKNOWN, Cause.NAME_NOT_RESOLVED),
        (dials(NO_PLACE), Verdict.UNREACHABLE, Cause.NO_RELAY_RESERVATION),
        (dials(NO_PLACE, waited_for=[peer_id(2)]), Verdict.UNKNOWN, Cause.NO_SLOT),
        (dials(resolving=[b"x"]), Verdict.UNKNOWN, Cause.NAME_NOT_RESOLVED),
        (dials(last_begun_at=JUST_NOW), Verdict.UNKNOWN, Cause.NO_SLOT),
        (dials(NO_PLACE, last_begun_at=JUST_NOW), Verdict.UNKNOWN, Cause.NO_SLOT),
    ],
)
async def test_what_could_not_be_tried_decides_beside_a_dial_that_hung(tried, verdict, cause):
    """A firewall that drops the direct dial and a full relay: nobody could probe it; it may be reachable.

    So it may be where a name still resolves, or the last dial had no time.
    """
    outcome = await _hung(ALIVE, ALIVE, SILENT, tried)
    assert (outcome.verdict, outcome.cause) == (verdict, cause)
