"""A multiaddr that somebody gives is read in one spelling, or refused with a reason, and its dial is told in words."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.advice.causes import message
from shared.advice.given import difference, how_it_ended
from shared.given import MAX_GIVEN_CHARS, BadAddressError, GivenAddress, GivenDial
from shared.p2p.multiaddr import from_text, to_text
from shared.reachability import Cause, DialOutcome, Stage, address_subject, job_subject
from shared.snapshot import Verdict
from tests.fakes import REACHED, REFUSED, peer_id

PEER, RELAY = peer_id(1), peer_id(2)
DIRECT = "/ip4/45.1.1.1/tcp/31330"
KNOWN = REACHED.addresses[0]
NOWHERE = DialOutcome(Verdict.UNREACHABLE, Stage.LOOKUP, Cause.NO_ADDRESS)


@pytest.mark.parametrize(
    ("text", "way"),
    [
        (DIRECT, DIRECT),
        (f"{DIRECT}/p2p/{PEER}", DIRECT),
        (f"{DIRECT}/ipfs/{PEER}", DIRECT),
        (f"/ip6/2001:0DB8::0:1/udp/01/quic-v1/p2p/{PEER}", "/ip6/2001:db8::1/udp/1/quic-v1"),
        ("/dns4/GPU.example.org/tcp/1", "/dns4/gpu.example.org/tcp/1"),
        (f"{DIRECT}/p2p/{RELAY}/p2p-circuit", f"{DIRECT}/p2p/{RELAY}/p2p-circuit"),
        (f"{DIRECT}/p2p/{RELAY}/p2p-circuit/p2p/{PEER}", f"{DIRECT}/p2p/{RELAY}/p2p-circuit"),
    ],
)
def test_forms_that_are_dialled(text, way):
    """Written as the swarm's addresses are, so that the two can be compared."""
    read = GivenAddress.read(text, PEER)
    assert (read.peer_id, read.address) == (PEER, way)
    assert to_text(from_text(read.address)) == way
    assert GivenAddress.read(str(read)) == read


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no address"),
        ("/ip4/45.1.1.1", "no address"),
        ("/ip4/45.1.1.1/tcp/80/ws", "no address"),
        ("/ip4/45.1.1.1/tcp/80/http", "no address"),
        ("/unix/tmp/redis.sock", "no address"),
        (f"{DIRECT}/p2p/{RELAY}/p2p-circuit/p2p/{RELAY}/p2p-circuit", "no address"),
        (f"{DIRECT}/p2p-circuit", "no address"),
        (f"{DIRECT}\n", "no address"),
        ("/ip4/45.1.1.256/tcp/1", "45.1.1.256"),
        ("/ip4/2130706433/tcp/1", "2130706433"),
        ("/ip4/127.1/tcp/1", "127.1"),
        ("/ip6/fe80::1%eth0/tcp/1", "zone"),
        ("/ip4/45.1.1.1/tcp/0", "no port"),
        ("/ip4/45.1.1.1/tcp/65536", "no port"),
        ("/ip4/٤٥.1.1.1/tcp/1", "IPv4|Only|permitted"),
        ("/dns4/a..b/tcp/1", "no host name"),
        (f"/dns4/{'a.' * 120}/tcp/1" + "x" * 400, "too long"),
        (f"{DIRECT}/p2p/{RELAY}", "another peer"),
        (f"{DIRECT}/p2p/Qmnonsense", "in the address"),
    ],
)
def test_what_is_not_dialled_is_refused_with_the_reason(text, why):
    with pytest.raises(BadAddressError, match=why):
        GivenAddress.read(text, PEER)


_pieces = st.sampled_from(
    ["/", "ip4", "ip6", "dns", "tcp", "udp", "quic-v1", "p2p", "p2p-circuit", "1.2.3.4", "::1", "1", PEER, RELAY, "é"]
)


@given(st.one_of(st.text(max_size=60), st.lists(_pieces, max_size=14).map("".join)), st.sampled_from([PEER, None]))
@example("/dns/" + "a" * 390, PEER)
def test_any_text_is_an_address_or_a_reason(text, peer):
    """What is read can be dialled by those bytes, and is read again as itself; a reason is one short line."""
    try:
        read = GivenAddress.read(text, peer)
    except BadAddressError as error:
        reason = str(error)
    else:
        reason = "none"
        assert to_text(from_text(read.address)) == read.address
        assert GivenAddress.read(str(read)) == read
        assert len(str(read)) <= MAX_GIVEN_CHARS + 100
    assert 0 < len(reason) < 500
    assert reason.isprintable()


def test_a_given_address_shares_no_name_with_its_peer():
    """Its verdict stands under a key of its own, and another for each address."""
    subjects = {address_subject(f"{way}/p2p/{PEER}") for way in (DIRECT, KNOWN)}
    assert len(subjects) == 2
    assert not any(PEER in subject for subject in subjects)
    assert not subjects & {job_subject(PEER, inference=False), job_subject(PEER, inference=True)}


def dial(verdict, cause=None, *, address=DIRECT, error=None, relayed=None):
    return GivenDial(address, DialOutcome(verdict, Stage.DIAL, cause, error, relayed=relayed))


ANSWERS = f"{DIRECT} answers: the peer proved its id there"
SILENT = f"{DIRECT} does not answer."
NO_WORD = f"Nobody could dial {DIRECT}, which says nothing about it."


@pytest.mark.parametrize(
    ("ended", "sentence"),
    [
        (dial(Verdict.REACHABLE), f"{ANSWERS}."),
        (dial(Verdict.REACHABLE, relayed=True), f"{ANSWERS}, through the relay."),
        (
            dial(Verdict.UNREACHABLE, Cause.REFUSED),
            f"{SILENT} The connection was refused: nothing listens on that port.",
        ),
        (dial(Verdict.UNREACHABLE, Cause.FROZEN), f"{SILENT} {message(Cause.FROZEN)}"),
        (dial(Verdict.UNREACHABLE), SILENT),
        (
            dial(Verdict.UNREACHABLE, Cause.WRONG_PEER),
            f"Another peer answers at {DIRECT}: the id that it proved is not the one that you gave.",
        ),
        (
            dial(Verdict.UNKNOWN, Cause.NOT_DIALABLE),
            f"{DIRECT} was not dialled: this monitor dials no address of this kind.",
        ),
        (dial(Verdict.UNKNOWN, Cause.NOT_DIALABLE, error="it is private"), f"{DIRECT} was not dialled: it is private."),
        (dial(Verdict.UNKNOWN, Cause.NO_SLOT), f"{NO_WORD} {message(Cause.NO_SLOT)}"),
        (dial(Verdict.UNKNOWN), NO_WORD),
    ],
)
def test_how_a_dial_ended_in_words(ended, sentence):
    """What nobody could dial is never said not to answer."""
    assert how_it_ended(ended) == sentence


def test_where_given_and_known_addresses_differ_is_said():
    """Nothing is said where they are the same, or where it is not known what the swarm knows."""
    answers, silent = dial(Verdict.REACHABLE), dial(Verdict.UNREACHABLE, Cause.TIMEOUT)
    refused = DialOutcome(Verdict.UNREACHABLE, Stage.DIAL, Cause.REFUSED, addresses=(KNOWN,))
    gave, another = "The address that you gave", "the swarm knows another"
    assert difference([answers], REACHED) == f"{gave} answers; {another}: {KNOWN}."
    assert difference([answers], refused) == f"{gave} answers; {another}, which does not answer: {KNOWN}."
    assert difference([silent], REACHED) == f"{gave} does not answer; {another}, and reaches the peer there: {KNOWN}."
    assert difference([silent], refused) == f"{gave} does not answer; {another}, which does not answer either: {KNOWN}."
    nowhere = "the swarm knows no address of the peer"
    joined = "clients find the peer once it has joined the swarm"
    assert difference([answers], NOWHERE) == f"{gave} answers; {nowhere}: {joined}."
    assert difference([silent], NOWHERE) == f"{gave} does not answer; {nowhere}."
    assert difference([dial(Verdict.UNKNOWN, Cause.NO_SLOT)], NOWHERE) == f"{gave} was not dialled; {nowhere}."
    assert difference([dial(Verdict.REACHABLE, address=KNOWN)], REACHED) == ""
    assert difference([answers], REFUSED) == ""
    assert difference([], REACHED) == ""
    used_another = DialOutcome(Verdict.REACHABLE, Stage.ANSWERED, addresses=(KNOWN,), known=(KNOWN, DIRECT))
    assert difference([answers], used_another) == ""


@pytest.mark.parametrize(
    ("verdict", "one", "many"),
    [
        (Verdict.REACHABLE, "answers", "answer"),
        (Verdict.UNREACHABLE, "does not answer", "do not answer"),
        (Verdict.UNKNOWN, "was not dialled", "were not dialled"),
    ],
)
def test_several_addresses_are_named(verdict, one, many):
    """Those that did best, the first three of them, beside those that the swarm knows."""
    given_ways = [f"/ip4/45.1.1.{number}/tcp/1" for number in range(4)]
    dials = [dial(verdict, address=way) for way in given_ways]
    worse = dial(list(Verdict)[-1], address=DIRECT)
    swarm = DialOutcome(
        Verdict.UNREACHABLE, Stage.DIAL, Cause.TIMEOUT,
        addresses=tuple(f"/ip4/45.2.2.{number}/tcp/1" for number in range(4)),
    )  # fmt: skip
    either = " either" if verdict is Verdict.UNREACHABLE else ""
    known = ", ".join(swarm.addresses[:3]) + " and 1 more"
    said = f"the swarm knows others, which do not answer{either}: {known}."
    assert difference(dials, swarm) == f"{', '.join(given_ways[:3])} and 1 more {many}; {said}"
    if verdict is not worse.outcome.verdict:
        assert difference([dials[0], worse], swarm) == f"{given_ways[0]} {one}; {said}"
