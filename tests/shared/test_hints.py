"""What an unreached server is told about itself: from what it announces and where it asks from."""

import pytest

from shared.advice.causes import hints
from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import Verdict

ASKS_FROM = "45.1.1.9"


def unreached(*addresses):
    return DialOutcome(Verdict.UNREACHABLE, Stage.DIAL, Cause.TIMEOUT, addresses=addresses)


def test_a_server_that_announces_only_private_addresses_is_told_the_flags():
    (hint,) = hints(unreached("/ip4/192.168.1.5/tcp/31337", "/ip4/10.0.0.1/udp/1/quic-v1"), ASKS_FROM)
    assert "private" in hint
    assert f"--public_ip {ASKS_FROM} --port PORT" in hint
    assert "--no_auto_relay" in hint


def test_a_server_that_announces_another_address_than_it_asks_from_is_told_both():
    (hint,) = hints(unreached("/ip4/45.1.1.8/tcp/31337", "/ip4/10.0.0.1/tcp/1"), ASKS_FROM)
    assert "announces 45.1.1.8, but asks from 45.1.1.9" in hint


@pytest.mark.parametrize(
    ("outcome", "asks_from"),
    [
        (unreached(f"/ip4/{ASKS_FROM}/tcp/31337"), ASKS_FROM),
        (unreached("/ip4/45.1.1.8/tcp/31337"), "192.168.1.7"),
        (unreached("/ip4/45.1.1.8/tcp/31337"), "unknown"),
        (unreached("/ip4/45.1.1.1/tcp/1/p2p/Q/p2p-circuit"), ASKS_FROM),
        (unreached(), ASKS_FROM),
        (DialOutcome(Verdict.REACHABLE, Stage.ANSWERED, addresses=("/ip4/10.0.0.1/tcp/1",)), ASKS_FROM),
        (DialOutcome.unknown(Cause.NO_LOCAL_ROUTE), ASKS_FROM),
    ],
)
def test_nothing_is_guessed(outcome, asks_from):
    """No hint where the addresses agree, where the caller's own is private, or where nobody probed."""
    assert hints(outcome, asks_from) == []
