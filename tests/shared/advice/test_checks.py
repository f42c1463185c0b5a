"""Which advice is given for what a check found just now, whole: tone, sentences, next step, command, whose fault."""

import msgspec
import pytest

from shared.advice.advice import Advice, Tone
from shared.advice.checks import check_advice
from shared.advice.servers import Server, server_advice
from shared.given import GivenDial
from shared.reachability import NOBODY_COULD_LOOK, Cause, DialOutcome, Stage
from shared.snapshot import BootstrapPeer, Verdict
from tests.fakes import model, peer_id
from tests.shared.advice.demo_model import AT, ITS, MORE_ADDRESSES, NOW, OWN, PEER, UNREACHED, swarm


def checked(report, *outcome, your_ip="", given=(), addresses=(), bootstrap=None, **more):
    models = () if report is None else (model(servers=(report,)),)
    known = Server(swarm(*models) if models else None, tuple((one, report) for one in models), bootstrap)
    return check_advice(known, DialOutcome(*outcome, addresses=addresses, **more), your_ip=your_ip, given=given)


TIMED_OUT = (Verdict.UNREACHABLE, Stage.DIAL, Cause.TIMEOUT)
FROZEN = (Verdict.UNREACHABLE, Stage.SECURITY, Cause.FROZEN)


@pytest.mark.parametrize(
    ("outcome", "more", "command"),
    [
        (TIMED_OUT, {}, OWN + AT + ITS),
        (TIMED_OUT, {"your_ip": "45.9.9.9"}, f"{OWN} --public_ip 45.9.9.9 --port 31330{ITS}"),
        (TIMED_OUT, {"your_ip": "2a00::1"}, OWN + AT + ITS),
        (TIMED_OUT, {"your_ip": "10.0.0.1"}, OWN + AT + ITS),
        (TIMED_OUT, {"addresses": MORE_ADDRESSES}, f"{OWN} --public_ip 45.1.1.77 --port 4004{ITS}"),
        (TIMED_OUT, {"your_ip": "45.9.9.9", "addresses": ("/ip4/10.0.0.1/tcp/5",)},
         f"{OWN} --public_ip 45.9.9.9 --port 31330{ITS}"),
        (FROZEN, {"your_ip": "45.9.9.9"}, OWN + AT + ITS),
    ],
    ids=map(str, range(7)),
)  # fmt: skip
def test_the_command_that_mends_an_unreachable_server(outcome, more, command):
    """With the address of whoever asks where a port has to be opened; a restart keeps the address that it has."""
    found = checked(UNREACHED, *outcome, **more)
    assert (found.tone, found.title, found.command) == (Tone.BAD, "cannot be reached from here", command)
    assert not found.ours


@pytest.mark.parametrize(
    ("addresses", "port"),
    [((), 31337), (("/ip4/10.0.0.1/tcp/5",), 5), (("/ip4/10.0.0.1/udp/5", "/ip4/10.0.0.1/tcp/6"), 6),
     ((f"/ip4/45.1.1.8/tcp/5/p2p/{peer_id(3)}/p2p-circuit",), 31337)],
)  # fmt: skip
def test_the_port_is_the_one_that_the_server_listens_on(addresses, port):
    report = msgspec.structs.replace(UNREACHED, multiaddrs=addresses)
    assert f"--public_ip 45.9.9.9 --port {port}" in checked(report, *TIMED_OUT, your_ip="45.9.9.9").command


def test_an_outcome_without_a_cause():
    found = checked(UNREACHED, Verdict.UNREACHABLE, Stage.DIAL)
    assert (found.reason, found.next_step) == ("The connection failed.", "See the error's text.")


BY_RESTART = {Cause.NO_ADDRESS, Cause.FROZEN, Cause.SILENT_BEHIND_RELAY, Cause.HANDLER_FAILED}


@pytest.mark.parametrize("cause", sorted(set(Cause) - NOBODY_COULD_LOOK))
def test_every_cause_of_an_unreachable_server_has_a_reason_a_next_step_and_a_command(cause):
    """With the address of whoever asks, or as it was where a restart helps; none where no command helps."""
    found = checked(UNREACHED, Verdict.UNREACHABLE, Stage.DIAL, cause, your_ip="45.1.1.10", addresses=MORE_ADDRESSES)
    at = f"--public_ip {'45.1.1.77' if cause in BY_RESTART else '45.1.1.10'} --port 4004"
    assert found.tone is Tone.BAD
    assert found.reason.endswith(".")
    assert found.next_step.endswith(".")
    assert ("--public_ip" in found.next_step) == (at in found.next_step)
    mended = cause not in {Cause.BACKOFF, Cause.PROTOCOL_MISSING, Cause.OTHER}
    assert found.command == (f"{OWN} {at}{ITS}" if mended else "")


@pytest.mark.parametrize("cause", sorted(NOBODY_COULD_LOOK))
@pytest.mark.parametrize("verdict", [Verdict.UNKNOWN, Verdict.UNREACHABLE])
def test_every_cause_for_which_nobody_could_look_is_no_bad_news(verdict, cause):
    """Whatever the verdict. Some are no fault of the monitor: a full relay, a name, a network that both are in."""
    found = checked(UNREACHED, verdict, Stage.DIAL, cause, your_ip="45.9.9.9")
    assert (found.tone, found.title, found.command) == (Tone.IDLE, "could not be checked", "")
    assert found.reason.endswith(". This says nothing about the server.")
    assert found.next_step.endswith(".")
    assert found.ours == (cause in {Cause.LOOKUP_UNFINISHED, Cause.NODE_UNFIT, Cause.NO_SLOT, Cause.EXPIRED})


def test_flags_are_placeholders_only_where_no_address_is_known():
    found = checked(None, *TIMED_OUT)
    assert "--public_ip IP --port PORT" in found.next_step
    assert not found.command


@pytest.mark.parametrize(
    ("outcome", "advice"),
    [
        ((Verdict.UNKNOWN, Stage.DIAL, Cause.NODE_UNFIT), Advice(
            Tone.IDLE, "could not be checked", "The monitor's own node is cut off from the swarm. This says nothing "
            "about the server.", "Ask again in a minute.", ours=True)),
        ((Verdict.UNREACHABLE, Stage.DIAL, Cause.NAME_NOT_RESOLVED), Advice(
            Tone.IDLE, "could not be checked", "The host name in the peer's address does not resolve here. This says "
            "nothing about the server.", "Check the name, or announce an IP address: start the server with "
            "--public_ip 45.9.9.9 --port 31330.")),
        ((Verdict.UNKNOWN, Stage.DIAL), Advice(
            Tone.IDLE, "could not be checked", "This says nothing about the server.", "Ask again in a minute.",
            ours=True)),
    ],
    ids=("ours", "theirs", "no cause"),
)  # fmt: skip
def test_a_check_that_nobody_could_make(outcome, advice):
    assert checked(UNREACHED, *outcome, your_ip="45.9.9.9") == advice


CONNECTED = "The monitor connected to it"
WAIT = "Wait some minutes. If it stays so for half an hour, read in its log what it waits for."
BOOTSTRAP = BootstrapPeer(peer_id(1), (), Verdict.REACHABLE)


@pytest.mark.parametrize(
    ("known", "outcome", "advice"),
    [
        ({"report": UNREACHED}, {"relayed": True}, Advice(
            Tone.GOOD, "can be reached",
            f"{CONNECTED} through a relay. Other peers can connect to it, as far as can be seen from here.")),
        ({"report": None, "bootstrap": BOOTSTRAP}, {"protocol_ok": False}, Advice(
            Tone.GOOD, "can be reached",
            f"{CONNECTED}. It is a bootstrap peer: it lets others join, and serves no blocks.")),
        ({"report": UNREACHED, "bootstrap": BOOTSTRAP}, {"protocol_ok": False}, Advice(
            Tone.WARN, "can be reached, but serves no blocks yet",
            f"{CONNECTED}. It announces blocks, which it may still be loading.", WAIT)),
        ({"report": UNREACHED}, {"protocol_ok": False, "cause": Cause.HANDLER_FAILED}, Advice(
            Tone.WARN, "can be reached, but does not answer for its blocks",
            f"{CONNECTED}. The peer answers, but its Petals handler failed.", "See the server's own log.",
            OWN + AT + ITS)),
        ({"report": UNREACHED}, {"protocol_ok": False, "cause": Cause.HANDLER_FAILED, "stage": Stage.ANSWERED}, Advice(
            Tone.WARN, "can be reached, but serves no blocks yet",
            f"{CONNECTED}. It announces blocks, which it may still be loading.", WAIT)),
        ({"report": None}, {"protocol_ok": False, "relayed": False}, Advice(
            Tone.WARN, "can be reached, but serves no blocks",
            f"{CONNECTED} directly. It is no Petals server, or has not loaded its blocks yet.", WAIT)),
    ],
    ids=map(str, range(6)),
)  # fmt: skip
def test_a_check_that_reached_the_peer(known, outcome, advice):
    of, found = dict(known), {"stage": Stage.PROTOCOL} | outcome
    assert checked(of.pop("report"), Verdict.REACHABLE, found.pop("stage"), **of, **found) == advice


def test_a_peer_that_answers_and_that_the_swarm_does_not_know():
    outcome = DialOutcome(Verdict.REACHABLE, Stage.PROTOCOL, protocol_ok=False)
    assert check_advice(Server.of(peer_id(1), swarm(model())), outcome) == Advice(
        Tone.WARN,
        "can be reached, but announces no blocks",
        f"{CONNECTED}. It is no Petals server, or has not begun to load blocks.",
        "If it is a Petals server, wait until its log says that it has announced its blocks.",
    )


def test_an_address_that_was_given():
    """Who answers there is not known to the swarm yet; who is known should announce it."""
    here, nowhere = (
        Server.of(peer_id(1), swarm(model())),
        DialOutcome(Verdict.UNREACHABLE, Stage.LOOKUP, Cause.NO_ADDRESS),
    )
    dials = [GivenDial(MORE_ADDRESSES[0], DialOutcome(verdict, Stage.PROTOCOL)) for verdict in Verdict]
    answers = [dial for dial in dials if dial.outcome.verdict is Verdict.REACHABLE]
    silent = [dial for dial in dials if dial.outcome.verdict is not Verdict.REACHABLE]
    assert check_advice(here, nowhere, given=dials) == Advice(
        Tone.WARN,
        "is not known to this private swarm yet",
        "It answers at an address that you gave, but clients cannot find it there: it has not announced itself.",
        "If it is loading its blocks, wait: it shows up here a minute or two after it has joined. Otherwise compare "
        f"its log, and start it with --initial_peers {PEER}.",
    )
    assert check_advice(here, nowhere, given=silent) == server_advice(here, NOW)
    bootstrap = Server(bootstrap=BOOTSTRAP)
    assert check_advice(bootstrap, nowhere, given=answers).title == "cannot be reached from here"
    assert checked(UNREACHED, *TIMED_OUT, given=silent).command == OWN + AT + ITS
    assert checked(UNREACHED, *TIMED_OUT, given=answers, your_ip="45.9.9.9").command == (
        f"{OWN} --public_ip 45.1.1.77 --port 4004{ITS}"
    )
    assert checked(UNREACHED, Verdict.UNREACHABLE, Stage.LOOKUP, Cause.NO_ADDRESS, given=answers).tone is Tone.BAD
