"""Which advice is given for a server or a bootstrap peer as the last crawl found it, whole."""

from dataclasses import replace

import msgspec
import pytest

from shared.advice.advice import Advice, Tone
from shared.advice.servers import Server, server_advice, what_failed
from shared.incidents import Fate, LostServer
from shared.inference import Agreement, AgreementOutcome, InferenceOutcome, ServerInference
from shared.snapshot import BootstrapPeer, PeerState, Verdict
from shared.store.server_history import ServerRecord
from tests.fakes import model, peer_id, server
from tests.shared.advice.demo_model import AT, HOUR, ITS, JOIN, NOW, OWN, PEER, UNREACHED, swarm


def of_server(*reports, stale=False, record=None, **more):
    made = [model(f"demo-model{'-2' * place}", servers=(report,)) for place, report in enumerate(reports)]
    return server_advice(Server.of(peer_id(1), swarm(*(made or [model()]), **more)), NOW, stale=stale, record=record)


def online(**more):
    return server(1, 2, 6, **{"verdict": Verdict.REACHABLE, "relayed": False} | more)


IS_ONLINE = "It announces that it is online, and the monitor connected to it"
FAILS = ServerInference(InferenceOutcome.FAILED, (2, 6), NOW)
ODD = ServerInference(InferenceOutcome.COMPUTED, (2, 6), NOW,
                      agreement=Agreement(AgreementOutcome.DISAGREES, against_majority=True))  # fmt: skip


@pytest.mark.parametrize(
    ("report", "advice"),
    [
        (online(), Advice(Tone.GOOD, "is online", f"{IS_ONLINE} directly.")),
        (online(relayed=True), Advice(Tone.GOOD, "is online", f"{IS_ONLINE} through a relay.")),
        (online(relayed=None), Advice(Tone.GOOD, "is online", f"{IS_ONLINE}.")),
        (online(conflict="It says 2.", inference=FAILS), Advice(
            Tone.WARN, "is online, but differs from its record",
            "It says 2. Records carry no signature: anyone can write one in this server's name.",
            "Where the server has just been started anew, the old record expires within minutes.")),
        (online(verdict=Verdict.UNKNOWN), Advice(
            Tone.IDLE, "announces that it is online",
            "The monitor has not been able to dial it, which says nothing about the server.",
            "Check it now, or look again in a minute.", ours=True)),
        (online(inference=FAILS), Advice(
            Tone.WARN, "is online, but does not compute",
            f"{IS_ONLINE} directly. The latest inference check got no right numbers from it.",
            "Its own log says more; restart it. What the check found is below.")),
        (online(inference=ODD), Advice(
            Tone.WARN, "is online, but its numbers differ",
            f"{IS_ONLINE} directly. Most servers that were given the same input for the same blocks computed "
            "something else.", "Check that it serves the right weights, revision and quantisation.")),
        (server(1, 2, 6, PeerState.JOINING), Advice(
            Tone.WARN, "is loading its blocks",
            "It announces that it will serve blocks 2–5 of demo-model; nobody can use them yet.",
            "Wait some minutes. If it stays so for half an hour, read in its log what it waits for.")),
        (server(1, 2, 6, PeerState.OFFLINE, multiaddrs=UNREACHED.multiaddrs), Advice(
            Tone.IDLE, "is offline",
            "It has announced that it goes offline; its announcement expires within minutes.",
            "Start it again, if that was not meant.", f"{OWN}{AT}{JOIN}")),
        (UNREACHED, Advice(
            Tone.BAD, "cannot be reached from here",
            "It announces that it is online, but the monitor could not connect to it. No answer to the connection "
            "attempt in time: a firewall may be dropping it.",
            "Open the server's TCP port in the firewall and forward it in the router, then start the server with "
            "--public_ip 45.1.1.9 --port 31330. Behind NAT, wait a few minutes until it finds a relay.",
            OWN + AT + ITS)),
        (msgspec.structs.replace(UNREACHED, cause="of another version", multiaddrs=()), Advice(
            Tone.BAD, "cannot be reached from here",
            "It announces that it is online, but the monitor could not connect to it. No answer.",
            "See the error's text.", OWN + ITS)),
        (msgspec.structs.replace(UNREACHED, cause=None, error=None, multiaddrs=()), Advice(
            Tone.BAD, "cannot be reached from here",
            "It announces that it is online, but the monitor could not connect to it.",
            "See the error's text.", OWN + ITS)),
        (msgspec.structs.replace(UNREACHED, cause="other"), Advice(
            Tone.BAD, "cannot be reached from here",
            "It announces that it is online, but the monitor could not connect to it. The connection failed.",
            "See the error's text.")),
    ],
    ids=map(str, range(13)),
)  # fmt: skip
def test_the_advice_for_each_state_of_a_server(report, advice):
    assert of_server(report) == advice


def test_the_worst_of_a_servers_states_counts():
    """Of the first model in which it is so: there its operator has to do something."""
    joining, offline = server(1, 0, 4, PeerState.JOINING), server(1, 0, 4, PeerState.OFFLINE)
    other = msgspec.structs.replace(UNREACHED, cause="refused")
    for reports, title in (
        ((online(), UNREACHED, other), "cannot be reached from here"),
        ((joining, online()), "is online"),
        ((offline, joining), "is loading its blocks"),
    ):
        assert of_server(*reports).title == title
    assert "in time" in of_server(online(), UNREACHED, other).reason
    assert "blocks 0–3 of demo-model-2;" in of_server(server(1, 4, 8, PeerState.OFFLINE), joining).reason
    unknown = online(verdict=Verdict.UNKNOWN, relayed=None)
    assert of_server(unknown, online(relayed=True)).reason == f"{IS_ONLINE} through a relay."


def test_text_of_others_is_cut_and_cleaned():
    long, shown = "x\x00" * 600, "x" * 399 + "…"
    assert of_server(online(conflict=long)).reason.startswith(f"{shown} Records carry no signature")
    assert what_failed(None, long) == f"X{shown[1:]}"
    joining = server(1, 0, 8, PeerState.JOINING)
    named = model(servers=(joining,), name=long)
    assert f"of {'x' * 59}…;" in server_advice(Server.of(peer_id(1), swarm(named)), NOW).reason


@pytest.mark.parametrize(
    ("verdict", "error", "advice"),
    [
        (Verdict.REACHABLE, None, Advice(Tone.GOOD, "is a bootstrap peer", "{} The monitor connected to it.")),
        (Verdict.UNKNOWN, None, Advice(
            Tone.IDLE, "is a bootstrap peer", "{} The monitor has not been able to dial it.",
            "Ask again in a minute.", ours=True)),
        (Verdict.UNREACHABLE, "refused", Advice(
            Tone.BAD, "is a bootstrap peer that cannot be reached from here",
            "{} The monitor could not connect to it. Refused.",
            "Its operator starts it again, or opens its port. Others join through other bootstrap peers.")),
        (Verdict.UNREACHABLE, None, Advice(
            Tone.BAD, "is a bootstrap peer that cannot be reached from here",
            "{} The monitor could not connect to it.",
            "Its operator starts it again, or opens its port. Others join through other bootstrap peers.")),
    ],
)  # fmt: skip
def test_the_advice_for_a_bootstrap_peer(verdict, error, advice):
    what = "It lets clients and servers join the swarm, and announces no blocks itself."
    found = of_server(bootstrap_peers=(BootstrapPeer(peer_id(1), (), verdict, error),))
    assert found == replace(advice, reason=advice.reason.format(what))


RECORD = ServerRecord(
    first_seen=int(NOW - 90 * HOUR), last_seen=int(NOW - 2 * HOUR), last_online=int(NOW - 3 * HOUR),
    online_since=int(NOW - 9 * HOUR),
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "lost", "since", "held"),
    [
        ({}, None, "It was last announced 2 hours ago, and last online 3 hours ago.", ""),
        ({"last_online": int(NOW - 2 * HOUR)}, None, "It was last announced and online 2 hours ago.", ""),
        ({"last_online": 0}, LostServer(peer_id(1), 2, 6, Fate.OFFLINE),
         "It was last announced 2 hours ago, and never found online.", " It held blocks 2–5, and went offline."),
    ],
)  # fmt: skip
def test_a_server_that_vanished(change, lost, since, held):
    found = server_advice(
        Server.of(peer_id(1), swarm(model())),
        NOW,
        record=msgspec.structs.replace(RECORD, **change),
        lost=lost,
        stale=True,
    )
    assert found == Advice(
        Tone.IDLE,
        "has left the swarm",
        f"No record of it is left: it was stopped, or lost its connection.{held}",
        "If it still runs, its log says whether it is connected; start it again if it is not.",
        since=since,
    )


@pytest.mark.parametrize(
    ("report", "change", "since"),
    [
        (online(), {}, "It has been online for 9 hours."),
        (online(), {"online_since": 0}, ""),
        (UNREACHED, {}, "It was last online 3 hours ago."),
        (UNREACHED, {"last_online": 0}, "No crawl has found it online since it was first seen, 3 days ago."),
    ],
)
def test_since_when_a_server_is_as_it_is(report, change, since):
    assert of_server(report, record=msgspec.structs.replace(RECORD, **change)).since == since


def test_a_stale_server_is_past_and_ours():
    assert of_server(online(), stale=True, record=RECORD) == Advice(
        Tone.IDLE,
        "was online when it was last seen, 1 minute ago",
        "The monitor has seen nothing newer, which says nothing about the server.",
        "Check it now, or look again in a minute.",
        ours=True,
    )


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5, 6])
def test_nothing_is_present_tense_on_stale_data(number):
    """Nor good or bad news: the monitor says that it has seen nothing newer."""
    servers = (
        server(1, 0, 8), server(2, 0, 8, PeerState.JOINING), server(3, 0, 8, PeerState.OFFLINE),
        server(4, 0, 8, verdict=Verdict.REACHABLE), server(5, 0, 8, verdict=Verdict.REACHABLE, conflict="It says 2."),
        server(6, 0, 8, PeerState.UNREACHABLE, verdict=Verdict.UNREACHABLE),
    )  # fmt: skip
    found = server_advice(Server.of(peer_id(number), swarm(model(servers=servers))), NOW + 360, stale=True)
    assert found.title.split()[0] in {"was", "could", "announced"}
    assert found.title.endswith("when it was last seen, 7 minutes ago")
    assert (found.tone, found.ours, found.command) == (Tone.IDLE, True, "")


UNKNOWN_ID = "has announced itself under this id: it is mistyped, or the server never started."


def test_an_id_that_nobody_announced():
    for here, which, peers in (
        (swarm(model()), "this private swarm", f" with --initial_peers {PEER}"),
        (swarm(model(), private_swarm=False), "the swarm", ""),
        (None, "the swarm", ""),
    ):
        assert server_advice(Server.of(peer_id(1), here), NOW) == Advice(
            Tone.IDLE,
            "is not known here",
            f"No server of {which} {UNKNOWN_ID}",
            f"Compare the id with the one in the server's log, and start the server{peers}. "
            "It shows up here a minute or two after it has joined.",
        )


@pytest.mark.parametrize(
    ("cause", "error", "words"),
    [("timeout", "x", "No answer to the connection attempt in time: a firewall may be dropping it."),
     ("of another version", "it broke", "It broke."), (None, None, "")],
)  # fmt: skip
def test_what_failed_is_the_causes_sentence_or_the_error(cause, error, words):
    assert what_failed(cause, error) == words
