"""p2pd's error texts become verdicts; a peer that nobody could probe is never unreachable."""

import asyncio
from types import SimpleNamespace

import pytest

from shared.advice.causes import advice, message
from shared.p2p.addresses import AddressRules
from shared.p2p.connect import PeerDials
from shared.p2p.daemon import Daemon
from shared.p2p.dial_errors import Failure, classify, classify_circuit, clean, outcome_of
from shared.p2p.hivemind import ControlFailure, P2PDaemonError, p2pd_pb2
from shared.p2p.multiaddr import from_text, varint
from shared.reachability import NOBODY_COULD_LOOK, Cause, Stage
from shared.snapshot import Verdict
from tests.fakes import peer_id

HOST = "/ip4/192.0.2.1/tcp/1"
RELAYED = HOST + "/p2p/Q/p2p-circuit"
NEGOTIATE = "failed to negotiate security protocol: "


def dial_failed(why, address=HOST):
    """The daemon's words where one address was dialled."""
    return f"Connect failed. msg=failed to dial: failed to dial 12D3KooWX: all dials failed\n  * [{address}] {why}"


@pytest.mark.parametrize(
    ("words", "stage", "cause"),
    [
        (dial_failed("dial tcp4 192.0.2.1:1: connect: connection refused"), Stage.DIAL, Cause.REFUSED),
        (dial_failed("dial backoff"), Stage.DIAL, Cause.BACKOFF),
        (dial_failed("concurrent active dial succeeded"), Stage.DIAL, Cause.NODE_UNFIT),
        (dial_failed("dial tcp4 192.0.2.1:1: i/o timeout"), Stage.DIAL, Cause.TIMEOUT),
        (dial_failed(NEGOTIATE + "context deadline exceeded"), Stage.SECURITY, Cause.FROZEN),
        (
            dial_failed(NEGOTIATE + "peer id mismatch: expected A, but remote key matches B"),
            Stage.SECURITY,
            Cause.WRONG_PEER,
        ),
        (dial_failed(NEGOTIATE + "message did not have trailing newline"), Stage.SECURITY, Cause.NOT_LIBP2P),
        (dial_failed(NEGOTIATE + "protocols not supported: [/noise /tls/1.0.0]"), Stage.SECURITY, Cause.NOT_LIBP2P),
        (dial_failed("(remote): its last words: protocol not supported"), Stage.DIAL, Cause.OTHER),
        (dial_failed("dial tcp4 192.0.2.1:1: connect: no route to host"), Stage.DIAL, Cause.NO_HOST_ROUTE),
        (dial_failed("dial tcp6: connect: network is unreachable"), Stage.DIAL, Cause.NO_LOCAL_ROUTE),
        ("Connect failed. msg=routing: not found", Stage.LOOKUP, Cause.NO_ADDRESS),
        ("Connect failed. msg=failed to find any peer in table", Stage.LOOKUP, Cause.NODE_UNFIT),
        ("Connect failed. msg=failed to dial: no good addresses", Stage.DIAL, Cause.NOT_DIALABLE),
        ("something that no version of p2pd says yet", Stage.DIAL, Cause.OTHER),
    ],
)
def test_words_become_a_stage_and_a_cause(words, stage, cause):
    """And a verdict by the cause alone."""
    outcome = classify(words)
    assert (outcome.stage, outcome.cause, outcome.protocol_ok) == (stage, cause, None)
    assert outcome.verdict is (Verdict.UNKNOWN if cause in NOBODY_COULD_LOOK else Verdict.UNREACHABLE)


def test_a_peer_that_lacks_the_protocol_is_reachable():
    """It answered: a server that is still joining."""
    outcome = classify("failed to negotiate protocol: protocols not supported: [TransformerConnectionHandler.rpc_info]")
    assert (outcome.verdict, outcome.protocol_ok) == (Verdict.REACHABLE, False)


def test_an_address_that_works_for_nobody_here_does_not_hide_a_refusal():
    """One IPv6 address that we have no route to, and one IPv4 address that refuses: refused."""
    words = dial_failed("dial tcp6: connect: network is unreachable", "/ip6/2001:db8::1/tcp/1")
    words += f"\n  * [{HOST}] dial tcp4 192.0.2.1:1: connect: connection refused"
    outcome = classify(words)
    assert outcome.cause is Cause.REFUSED
    assert outcome.addresses == ("/ip6/2001:db8::1/tcp/1", "/ip4/192.0.2.1/tcp/1")


def test_an_address_that_was_not_dialled_is_not_judged_by_others():
    """The daemon remembers a failure of the true address, and a liar's closed port refuses: nobody dialled again."""
    lie = dial_failed("dial tcp4 192.0.2.9:1: connect: connection refused", "/ip4/192.0.2.9/tcp/1")
    assert classify(lie, dial_failed("dial backoff")).cause is Cause.BACKOFF
    # Tried, failed, and named again by another node: it was dialled in this probe, whichever text comes first.
    tried = dial_failed("dial tcp4 192.0.2.1:1: connect: connection refused")
    assert classify(tried, dial_failed("dial backoff")).cause is Cause.REFUSED
    assert classify(dial_failed("dial backoff"), lie, tried).cause is Cause.REFUSED


def test_a_peers_words_cannot_carry_control_codes():
    """Errors are shown on pages and terminals: printable, and cut."""
    outcome = classify("evil \x1b[31m\u202e" + "x" * 5000)
    assert outcome.error.isprintable()
    assert len(outcome.error) <= 300


@pytest.mark.parametrize("part", ["Qm", "12D3KooW", "\n ", "\n  * [", "all dials failed ", " * [a] ", "\x1b"])
def test_no_words_of_a_peer_hold_up_all_others(part):
    """A server answers a call with an error of its own words, of any length: they are read once, from end to end."""
    words = part * (1_000_000 // len(part))
    assert len(clean(words)) <= 300
    assert classify(words).verdict is Verdict.UNREACHABLE


@pytest.mark.real_parts
async def test_words_that_are_no_text_are_read_as_far_as_they_are(tmp_path, monkeypatch):
    """A stranger closes a connection with bytes of its own: the lines beside it still tell what was not dialled."""
    place = str(tmp_path / "p2pd.sock")
    words = dial_failed("(remote): connection refused XYZ", "/ip4/192.0.2.9/tcp/1") + f"\n  * [{HOST}] dial backoff"
    failed = p2pd_pb2.Response(type=p2pd_pb2.Response.ERROR, error=p2pd_pb2.ErrorResponse(msg=words))
    answer = failed.SerializeToString().replace(b"XYZ", b"\xff\xfe\xfd")

    async def answers(_, writer):
        writer.write(varint(len(answer)) + answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(answers, place):
        monkeypatch.setattr("shared.p2p.daemon._socket", lambda _: place)
        with pytest.raises(ControlFailure) as raised:
            await Daemon(SimpleNamespace(_daemon_listen_maddr=None)).connect(peer_id(1))
    assert classify(str(raised.value)).cause is Cause.BACKOFF


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_words_and_advice(cause):
    """Sentences, for people."""
    assert message(cause).endswith(".")
    assert advice(cause).endswith(".")


def circuit_failed(why):
    return dial_failed(why, f"/p2p/{peer_id(1)}/p2p-circuit")


@pytest.mark.parametrize(
    ("why", "relay_away", "cause"),
    [
        ("error opening relay circuit: NO_RESERVATION (204)", False, Cause.NO_RELAY_RESERVATION),
        ("error opening relay circuit: RESOURCE_LIMIT_EXCEEDED (201)", False, Cause.RELAY_FULL),
        ("error opening relay circuit: PERMISSION_DENIED (202)", False, Cause.RELAY_REFUSED),
        ("error opening relay circuit: CONNECTION_FAILED (203)", False, Cause.SILENT_BEHIND_RELAY),
        ("error opening hop stream to relay: failed to dial: connection refused", False, Cause.RELAY_AWAY),
        ("error opening hop stream to relay: protocols not supported: [/libp2p/circuit]", False, Cause.RELAY_REFUSED),
        ("error opening hop stream to relay: session shutdown", False, Cause.NODE_UNFIT),
        ("dial backoff", False, Cause.BACKOFF),
        ("dial tcp4 192.0.2.1:1: connect: connection refused", True, Cause.RELAY_AWAY),
        ("dial tcp6: connect: network is unreachable", True, Cause.NO_LOCAL_ROUTE),
        ("dial backoff", True, Cause.BACKOFF),
    ],
)
def test_a_circuit_fails_for_causes_of_its_own(why, relay_away, cause):
    """The relay's absence, its refusal, and the silence of the peer behind it are told apart."""
    outcome = outcome_of([Failure(circuit_failed(why), peer_id(1), relay_away=relay_away)])
    assert (outcome.cause, outcome.relay) == (cause, peer_id(1))
    assert outcome.verdict is (Verdict.UNKNOWN if cause in NOBODY_COULD_LOOK else Verdict.UNREACHABLE)


DIRECT_REFUSED = Failure(dial_failed("dial tcp4 192.0.2.1:1: connect: connection refused"))
DIRECT_BACKOFF = Failure(dial_failed("dial backoff"))
DIRECT_NO_ROUTE = Failure(dial_failed("dial tcp6: connect: network is unreachable"))
UNRESOLVED = Failure("no address for the name x", cause=Cause.NAME_NOT_RESOLVED)
NO_ROUTE_TO_RELAY = DIRECT_NO_ROUTE._replace(relay=peer_id(1), relay_away=True)
NO_RESERVATION = Failure(circuit_failed("error opening relay circuit: NO_RESERVATION (204)"), peer_id(1))
FULL = Failure(circuit_failed("error opening relay circuit: RESOURCE_LIMIT_EXCEEDED (201)"), peer_id(1))


@pytest.mark.parametrize(
    ("failures", "cause"),
    [
        ([DIRECT_REFUSED, NO_RESERVATION], Cause.NO_RELAY_RESERVATION),
        (
            [DIRECT_REFUSED, NO_RESERVATION, Failure(dial_failed("concurrent active dial succeeded"), "Q")],
            Cause.NODE_UNFIT,
        ),
        ([DIRECT_NO_ROUTE, NO_RESERVATION], Cause.NO_RELAY_RESERVATION),
        ([DIRECT_REFUSED, FULL], Cause.RELAY_FULL),
        ([NO_RESERVATION, DIRECT_BACKOFF], Cause.BACKOFF),
        ([DIRECT_REFUSED, UNRESOLVED], Cause.NAME_NOT_RESOLVED),
        ([DIRECT_NO_ROUTE], Cause.NO_LOCAL_ROUTE),
        ([DIRECT_REFUSED, NO_ROUTE_TO_RELAY], Cause.REFUSED),
    ],
)
def test_what_was_not_really_tried_decides_then_the_relay(failures, cause):
    """A way that nobody could try may be the one that works; but for a route that is missing here."""
    outcome = outcome_of(failures)
    assert outcome.cause is cause
    assert outcome_of(failures[::-1]).cause is cause


def test_the_preamble_is_left_out_and_the_rest_stays():
    """What p2pd says first says nothing about the peer."""
    assert clean("Connect failed. msg=failed to dial: connection refused") == "connection refused"
    assert clean("failed to dial 12D3KooWX: all dials failed\n  * [/ip4/192.0.2.1/tcp/1] refused").startswith(
        "* [/ip4/"
    )
    assert clean("a\x00\u202e\nb") == "a b"
    assert clean("  x  ") == "x"
    assert clean("é" + "x" * 400) == "x" * 299


def test_ways_that_fail_are_told_together():
    """Each cause's words once, in their order; the decisive one gives the verdict."""
    unresolved = Failure("no such name", cause=Cause.NAME_NOT_RESOLVED)
    outcome = outcome_of([DIRECT_REFUSED, unresolved, unresolved])
    assert (outcome.cause, outcome.stage, outcome.verdict) == (Cause.NAME_NOT_RESOLVED, Stage.LOOKUP, Verdict.UNKNOWN)
    assert outcome.error == f"no such name; {clean(DIRECT_REFUSED.words)}"
    assert classify("reset", "silent", "reset").error == "reset silent"
    assert len(outcome_of([Failure("x" * 300), Failure("y" * 300, peer_id(1))]).error) == 300


def test_a_missing_route_does_not_hide_what_others_found():
    """Half of the places have no IPv6."""
    no_route = Failure(dial_failed("dial tcp6: connect: network is unreachable", "/ip6/2001:db8::1/tcp/1"))
    away = Failure("refused", peer_id(1), relay_away=True)
    for failures in ([no_route, away], [away, no_route]):
        outcome = outcome_of(failures)
        assert (outcome.cause, outcome.verdict, outcome.relay) == (Cause.RELAY_AWAY, Verdict.UNREACHABLE, peer_id(1))
        assert outcome.stage is Stage.DIAL


def test_a_circuit_that_fails_for_a_reason_that_nobody_knows_is_a_failure():
    outcome = classify_circuit("something new", peer_id(1), relay_away=False)
    assert (outcome.cause, outcome.stage, outcome.relay) == (Cause.OTHER, Stage.DIAL, peer_id(1))
    assert (outcome.verdict, outcome.error) == (Verdict.UNREACHABLE, "something new")


def test_addresses_that_failed_are_told_up_to_a_limit():
    lines = "".join(f"\n  * [/ip4/192.0.2.{number}/tcp/1] refused" for number in range(30))
    assert len(classify("all dials failed" + lines).addresses) == 16


@pytest.mark.parametrize("why", ["concurrent active dial succeeded", NEGOTIATE + "error sending: session shutdown"])
async def test_a_dial_that_another_one_ended_is_made_again(why):
    """Two relays: the one's circuit stands when the other's ends, or its relay was dialled anew meanwhile."""

    class Node:
        dialled = 0

        async def connect(self, _peer_id, _addresses):
            self.dialled += 1
            if self.dialled == 1:
                raise P2PDaemonError(dial_failed(why))

    node = Node()
    async with PeerDials(node, peer_id(1), AddressRules(dial_private=True)) as dials:
        dials.add([from_text(HOST)])
        await dials.ended()
    assert (dials.connected.is_set(), dials.failures, node.dialled) == (True, [], 2)
