"""What an unreached server is told about itself: from what it announces and where it asks from."""

import pytest

from shared.advice.causes import explanation, hints, message
from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import Verdict

ASKS_FROM = "45.1.1.9"


def unreached(*addresses):
    return DialOutcome(Verdict.UNREACHABLE, Stage.DIAL, Cause.TIMEOUT, addresses=addresses)


START = f"start the server with --public_ip {ASKS_FROM} --port PORT, and forward that port to it."
ONLY_PRIVATE = f"All addresses that the server announces are private ones: {START}"


def test_a_server_that_announces_only_private_addresses_is_told_the_flags():
    """It may leave relays on instead, unless it uses one already."""
    private = unreached("/ip4/192.168.1.5/tcp/31337", "/ip4/10.0.0.1/udp/1/quic-v1")
    relays = " Without a port, leave automatic relays on (do not pass --no_auto_relay)."
    assert hints(private, ASKS_FROM) == [ONLY_PRIVATE + relays]
    relayed = unreached("/ip4/10.0.0.1/tcp/1", "/ip4/45.1.1.1/tcp/1/p2p/Q/p2p-circuit")
    assert hints(relayed, ASKS_FROM) == [ONLY_PRIVATE]


def test_a_server_that_announces_another_address_than_it_asks_from_is_told_both():
    announced = unreached("/ip4/45.1.1.8/tcp/31337", "/ip4/45.1.1.7/tcp/1", "/ip4/10.0.0.1/tcp/1")
    assert hints(announced, ASKS_FROM) == [
        f"The server announces 45.1.1.7, 45.1.1.8, but asks from {ASKS_FROM}: {START}"
    ]


def test_a_failure_in_words():
    """Its cause, with the daemon's own words behind it."""
    assert explanation(unreached()) == message(Cause.TIMEOUT)
    daemon_said = DialOutcome(Verdict.UNREACHABLE, Stage.DIAL, Cause.REFUSED, "dial tcp4: refused")
    assert explanation(daemon_said) == f"{message(Cause.REFUSED)} (dial tcp4: refused)"
    assert explanation(DialOutcome(Verdict.REACHABLE, Stage.ANSWERED, Cause.HANDLER_FAILED, "x")) is None
    assert explanation(DialOutcome(Verdict.UNREACHABLE, Stage.DIAL)) is None


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
