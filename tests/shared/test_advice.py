"""Which advice is given for which verdict, whole: tone, sentences, next step, command, since when, whose fault."""

from dataclasses import replace
from itertools import starmap

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.advice.advice import Advice, Tone
from shared.advice.help import GpuEstimate, Need, Wanted, gpu_blocks, model_parameters, wanted
from shared.advice.models import MAX_LOST, ModelAdvice, Past, model_advice, nearest_usable
from shared.advice.servers import Server, check_advice, server_advice, what_failed
from shared.given import GivenDial
from shared.incidents import Fate, Incident, LostBlocks, LostServer
from shared.inference import Agreement, AgreementOutcome, InferenceOutcome, ServerInference, Usability, UsabilityState
from shared.judgement.coverage import coverage
from shared.judgement.usability import ModelUsability
from shared.reachability import NOBODY_COULD_LOOK, Cause, DialOutcome, Stage
from shared.snapshot import BootstrapPeer, PeerState, Verdict
from shared.spans import blocks_of
from shared.store.server_history import ServerRecord
from tests.fakes import model, peer_id, server, snapshot

pytestmark = pytest.mark.fast

NOW = 1_800_000_000.0
HOUR = 3600.0
PEER = f"/ip4/127.0.0.1/tcp/4001/p2p/{peer_id(0)}"
RUN = "python -m petals.cli.run_server REPOSITORY --dht_prefix demo-model"
JOIN = f" --initial_peers {PEER}"


def swarm(*models, **more):
    return snapshot(*models, taken_at=NOW - 60, **{"private_swarm": True} | more)


def name(number):
    return f"…{peer_id(number)[-6:]}"


def of_model(*servers, past=None, stale=False, blocks=8, unanswered_keys=0, **more):
    made = model(blocks=blocks, servers=servers, **more)
    return model_advice(made, swarm(made, unanswered_keys=unanswered_keys), NOW, past=past, stale=stale)


# Models

FRAGILE = "can be used, but is fragile"
SAFE = "A second server for these blocks makes the model safe."
PART = " The command serves the longest stretch of them."
BREAKS = "The model breaks when one of them stops."


def fragile(reason, command, more=""):
    return Advice(Tone.WARN, FRAGILE, reason, f"{SAFE}{more}", f"{RUN} --block_indices {command}{JOIN}")


@pytest.mark.parametrize(
    ("spans", "single", "advice"),
    [
        ([(0, 8)], [(0, 8)], fragile(f"Each of its blocks has one server. {BREAKS}", "0:8")),
        ([(0, 8), (0, 6)], [(6, 8)], fragile(f"Blocks 6–7 have one server each. {BREAKS}", "6:8")),
        ([(0, 8), (0, 7)], [(7, 8)], fragile("Block 7 has one server. The model breaks when it stops.", "7:8")),
        ([(0, 8), (1, 6)], [(0, 1), (6, 8)], fragile(f"Blocks 0 and 6–7 have one server each. {BREAKS}", "6:8", PART)),
    ],
)
def test_a_fragile_model_needs_a_second_server(spans, single, advice):
    servers = [server(number, *span) for number, span in enumerate(spans)]
    assert of_model(*servers) == ModelAdvice(ModelUsability.DEGRADED, advice, (), (), tuple(single))


def test_a_model_of_one_block_with_one_server():
    found = of_model(server(1, 0, 1), blocks=1).advice
    assert found.reason == "Each of its blocks has one server. The model breaks when it stops."


def test_a_usable_an_unusable_and_an_unserved_model():
    twice = server(1, 0, 8), server(2, 0, 8)
    good = Advice(Tone.GOOD, "can be used", "Each of its 8 blocks has at least 2 online servers.")
    assert of_model(*twice) == ModelAdvice(ModelUsability.USABLE, good)
    assert of_model(*twice).usable
    made = model(servers=twice)
    assert model_advice(made, swarm(made), NOW).advice == good
    no_token = Usability(UsabilityState.UNUSABLE, NOW)
    assert of_model(*twice, usability=no_token) == ModelAdvice(
        ModelUsability.UNUSABLE,
        Advice(
            Tone.BAD,
            "cannot be used now: no token comes out",
            "Each of its blocks has an online server, but a computation through them failed.",
            "The server that is named has to be restarted, or another one started for its blocks.",
        ),
    )
    assert not of_model(*twice, usability=no_token).usable
    unserved = Advice(
        Tone.IDLE,
        "has no servers",
        "No server announces any of its 8 blocks.",
        "Servers for all of its blocks bring it up; each chooses its blocks by itself.",
        RUN + JOIN,
    )
    assert of_model() == ModelAdvice(ModelUsability.UNSERVED, unserved, missing=((0, 8),))


def lost(*held, start=0, end=8, more=0):
    return LostBlocks(start, end, tuple(starmap(LostServer, held)), more)


def test_a_broken_model_says_who_held_its_blocks_who_cannot_be_reached_and_who_joins():
    """At most three servers at a time, and two losses, are named; a loss whose holders nobody knows says nothing."""
    joining = [server(number, 6, 8, PeerState.JOINING) for number in (11, 12, 13, 14)]
    unreachable = [server(21, 0, 1, PeerState.UNREACHABLE), server(22, 5, 8, PeerState.UNREACHABLE)]
    elsewhere = server(23, 1, 4, PeerState.UNREACHABLE), server(24, 2, 4, PeerState.JOINING)
    losses = (
        lost((peer_id(31), 4, 6, Fate.OFFLINE), start=4, end=6, more=2), lost(start=6, end=7),
        lost((peer_id(32), 0, 1, Fate.GONE), start=0, end=1),
    )  # fmt: skip
    past = Past(NOW - HOUR, NOW - 2 * HOUR, NOW - 9 * HOUR, losses)
    found = of_model(server(1, 1, 4), *joining, *unreachable, *elsewhere, past=past, unanswered_keys=1)
    assert MAX_LOST == 2
    assert found == ModelAdvice(
        ModelUsability.BROKEN,
        Advice(
            Tone.BAD,
            "cannot be used now",
            "Blocks 0 and 4–7 have no online server. "
            f"Blocks 4–5 lost all servers: {name(31)} (blocks 4–5) went offline, 2 more. "
            f"{name(21)} and {name(22)} announce some of them, but cannot be reached. "
            "Some DHT keys did not answer the monitor: there may be servers that it has not seen. "
            f"{name(11)}, {name(12)}, {name(13)} and 1 more server are loading blocks 6–7.",
            f"It needs a server for blocks 0 and 4–5.{PART}",
            f"{RUN} --block_indices 4:6{JOIN}",
            "It was last usable 2 hours ago.",
        ),
        ((0, 1), (4, 8)),
        ((6, 8),),
        ((1, 4),),
    )
    many = [lost(*[(peer_id(n), 0, 8, Fate.MOVED) for n in range(5)]), *[lost((peer_id(9), 0, 8, Fate.JOINING))] * 2]
    found = of_model(server(1, 0, 7, PeerState.UNREACHABLE), server(2, 0, 7), past=Past(lost=tuple(many))).advice
    moved = ", ".join(f"{name(n)} (blocks 0–7) moved to other blocks" for n in range(3))
    assert found.reason == (
        f"Block 7 has no online server. Blocks 0–7 lost all servers: {moved}, 2 more. "
        f"Blocks 0–7 lost all servers: {name(9)} (blocks 0–7) began to load blocks again."
    )
    assert (found.since, found.next_step) == ("", "It needs a server for block 7.")


def test_one_server_that_loads_all_that_is_missing():
    found = of_model(server(1, 0, 7), server(2, 7, 8, PeerState.JOINING), server(3, 6, 8, PeerState.UNREACHABLE))
    assert found.advice == Advice(
        Tone.BAD,
        "cannot be used now, but servers are joining",
        f"Block 7 has no online server. {name(3)} announces some of them, but cannot be reached. "
        f"{name(2)} is loading block 7.",
        "Wait: once they have loaded their blocks, the model can be used.",
    )


@pytest.mark.parametrize(
    ("servers", "past", "since"),
    [
        (2, None, "It has been found so for 5 minutes."),
        (2, Past(), ""),
        (2, Past(since=NOW - HOUR), "It has been usable for 1 hour."),
        (2, Past(since=NOW - HOUR, watched_since=NOW - 2 * HOUR), "It has been usable for 1 hour."),
        (2, Past(since=NOW - HOUR, watched_since=NOW - HOUR),
         "It has been usable as long as it has been watched: 1 hour."),
        (2, Past(since=NOW - 2 * HOUR, watched_since=NOW - HOUR),
         "It has been usable as long as it has been watched: 1 hour."),
        (1, Past(since=NOW - HOUR), "It has been usable for 1 hour."),
        (0, None, "It has been found so for 5 minutes."),
        (0, Past(), ""),
        (0, Past(since=NOW - HOUR), "It has been so since it was first seen, 1 hour ago."),
        (0, Past(since=NOW - HOUR, last_healthy=NOW - 2 * HOUR), "It was last usable 2 hours ago."),
    ],
)  # fmt: skip
def test_since_when_a_model_is_as_it_is(servers, past, since):
    made = [server(number, 0, 8) for number in range(servers)]
    assert of_model(*made, past=past, since=NOW - 300).advice.since == since


def test_history_counts_blocks_and_not_tokens():
    """So what it knows of a usable model says nothing about one that gives none."""
    no_token = Usability(UsabilityState.UNUSABLE, NOW)
    servers = server(1, 0, 8), server(2, 0, 8)
    since = [
        of_model(*servers, usability=no_token, past=Past(since=NOW - HOUR), since=first).advice.since
        for first in (None, NOW - 300)
    ]
    assert since == ["", "It has been found so for 5 minutes."]


def test_the_past_of_an_open_incident():
    incident = Incident("1-a", "m", "m", True, NOW - 5, 8, 4, last_healthy=NOW - 9, cause=(lost(),))
    assert Past.of(incident, watched_since=NOW - 99) == Past(NOW - 5, NOW - 9, NOW - 99, (lost(),))


@pytest.mark.parametrize(
    ("servers", "tone", "title"),
    [
        ([server(1, 0, 8), server(2, 0, 8)], Tone.WARN, "could be used"),
        ([server(1, 0, 8)], Tone.WARN, "could be used"),
        ([server(1, 0, 7)], Tone.WARN, "could not be used"),
        ([server(1, 0, 7), server(2, 7, 8, PeerState.JOINING)], Tone.WARN, "could not be used"),
        ([], Tone.IDLE, "had no servers"),
    ],
)
def test_a_stale_verdict_is_past_and_ours(servers, tone, title):
    assert of_model(*servers, stale=True, since=NOW - 300).advice == Advice(
        tone,
        f"{title} when it was last seen, 1 minute ago",
        "The monitor has seen nothing newer: the model may be in another state now.",
        "Look again in a minute.",
        ours=True,
    )


def test_a_model_to_use_instead():
    """One that gives tokens; with full records before one that is cut, then an official one, the nearest, the first."""
    broken, whole = model("broken", 8), server(1, 0, 8)
    far = model("far", 80, (server(1, 0, 80),), official=True)
    near, twin = model("near", 8, (whole,), official=True), model("twin", 8, (whole,), official=True)
    assert nearest_usable(broken, swarm(far, twin, near)) == near
    assert nearest_usable(near, swarm(near, far)) == far
    assert nearest_usable(model("large", 70), swarm(near, far)) == far
    assert nearest_usable(broken, swarm(broken)) is None
    for worse in (
        msgspec.structs.replace(near, usability=Usability(UsabilityState.UNUSABLE, NOW)),
        msgspec.structs.replace(near, limited=True),
        msgspec.structs.replace(near, official=False),
        msgspec.structs.replace(near, servers=()),
    ):
        assert nearest_usable(broken, swarm(worse, far)) == far
    proved = msgspec.structs.replace(near, usability=Usability(UsabilityState.USABLE, NOW))
    assert nearest_usable(broken, swarm(proved, far)) == proved


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(1, 16), st.sampled_from(PeerState)), max_size=8))
def test_verdicts_of_any_model_agree_with_its_coverage(made):
    """What is missing, joining or single is so in a plain count of each block."""
    servers = tuple(server(n, a, min(16, a + length), state) for n, (a, length, state) in enumerate(made))
    here = swarm(model("m", 16, servers))
    found = model_advice(here.models[0], here, NOW)
    redundancy = coverage(here.models[0]).redundancy

    loading = {b for s in servers if s.state is PeerState.JOINING for b in range(s.span.start, s.span.end)}
    assert blocks_of(found.missing) == {b for b in range(16) if not redundancy[b]}
    assert blocks_of(found.joining) == blocks_of(found.missing) & loading
    assert blocks_of(found.single) == {b for b in range(16) if redundancy[b] == 1}
    assert (found.usability in {ModelUsability.USABLE, ModelUsability.DEGRADED}) == all(redundancy)
    lines = wanted(here)
    if servers and blocks_of(found.missing) - loading:
        assert blocks_of(lines[0].spans) == blocks_of(found.missing) - loading


# Servers

UNREACHED = server(1, 2, 6, PeerState.UNREACHABLE, verdict=Verdict.UNREACHABLE, cause="timeout", error="No answer.",
                   multiaddrs=("/ip4/192.168.1.2/tcp/7", "/ip4/45.1.1.9/tcp/31330"), quant_type="nf4",
                   torch_dtype="float16", adapters=("a/b",))  # fmt: skip
OWN = f"{RUN} --block_indices 2:6"
ITS = f" --torch_dtype float16 --quant_type nf4 --adapters a/b{JOIN}"
AT = " --public_ip 45.1.1.9 --port 31330"
MORE_ADDRESSES = ("/ip4/45.1.1.77/tcp/4004",)


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


# Checks


def checked(report, *outcome, your_ip="", given=(), addresses=(), bootstrap=None, **more):
    models = () if report is None else (model(servers=(report,)),)
    known = Server(peer_id(1), swarm(*models) if models else None, tuple((one, report) for one in models), bootstrap)
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
    assert check_advice(here, nowhere, given=silent).title == "is not known here"
    bootstrap = Server(peer_id(1), None, (), BOOTSTRAP)
    assert check_advice(bootstrap, nowhere, given=answers).title == "cannot be reached from here"
    assert checked(UNREACHED, *TIMED_OUT, given=silent).command == OWN + AT + ITS
    assert checked(UNREACHED, *TIMED_OUT, given=answers, your_ip="45.9.9.9").command == (
        f"{OWN} --public_ip 45.1.1.77 --port 4004{ITS}"
    )
    assert checked(UNREACHED, Verdict.UNREACHABLE, Stage.LOOKUP, Cause.NO_ADDRESS, given=answers).tone is Tone.BAD


@pytest.mark.parametrize(
    ("cause", "error", "words"),
    [("timeout", "x", "No answer to the connection attempt in time: a firewall may be dropping it."),
     ("of another version", "it broke", "It broke."), (None, None, "")],
)  # fmt: skip
def test_what_failed_is_the_causes_sentence_or_the_error(cause, error, words):
    assert what_failed(cause, error) == words


# Help


def line(need, spans, sentence, blocks, command, **more):
    return Wanted(**{"need": need, "dht_prefix": "demo-model", "name": "demo-model", "official": False,
                     "spans": tuple(spans), "sentence": sentence, "blocks": blocks,
                     "command": f"{RUN} --block_indices {command}{JOIN}"} | more)  # fmt: skip


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ([server(1, 0, 7)], line(
            Need.MISSING, [(7, 8)], "Block 7 needs a server: without it nobody can use the model.", (7, 8), "7:8")),
        ([server(1, 1, 5), server(2, 5, 6, PeerState.JOINING)], line(
            Need.MISSING, [(0, 1), (6, 8)], "Blocks 0 and 6–7 need a server: without it nobody can use the model.",
            (6, 8), "6:8")),
        ([server(1, 0, 8), server(2, 0, 7)], line(
            Need.SINGLE, [(7, 8)], "Block 7 has one server: when it stops, nobody can use the model.", (7, 8), "7:8")),
        ([server(1, 0, 8), server(2, 1, 7)], line(
            Need.SINGLE, [(0, 1), (7, 8)],
            "Blocks 0 and 7 have one server each: when one of them stops, nobody can use the model.", (0, 1), "0:1")),
        ([server(1, 0, 8), server(2, 0, 8), server(3, 2, 8)], line(
            Need.SLOWEST, [(0, 2)], "Blocks 0–1 are the slowest stage: its servers claim 200 tokens/s together.",
            (0, 2), "0:2")),
        ([server(1, 0, 8), server(2, 0, 8), server(3, 1, 8)], line(
            Need.SLOWEST, [(0, 1)], "Block 0 is the slowest stage: its servers claim 200 tokens/s together.",
            (0, 1), "0:1")),
    ],
    ids=map(str, range(6)),
)  # fmt: skip
def test_what_a_model_wants_most(servers, expected):
    assert wanted(swarm(model(servers=tuple(servers)))) == [expected]
    assert expected.completes == (len(expected.spans) == 1)


def test_what_nobody_can_help_with_is_left_out():
    """Servers load all that is missing; servers that claim nothing have no slowest stage; nobody's models."""
    loading = model(servers=(server(1, 0, 7), server(2, 7, 8, PeerState.JOINING)))
    silent = model(servers=(server(1, 0, 8, throughput=None), server(2, 0, 8, throughput=None)))
    assert wanted(swarm(loading, silent, model())) == []
    (unserved,) = wanted(swarm(model(), model(official=True)))
    assert (unserved.spans, unserved.sentence) == (((0, 8),), "None of its 8 blocks has a server.")


def test_the_order_of_what_is_wanted():
    """By need; official ones first; the fewest missing blocks, the most blocks of others; by name."""
    missing = [model(f"m{n}", 8, (server(1, 0, n),)) for n in (6, 7)]
    single = [model(f"s{n}", 8, (server(1, 0, 8), server(2, 0, n))) for n in (6, 7)]
    official = model("z", 8, (server(1, 0, 5),), official=True)
    slow = model("a", 8, (server(1, 0, 8), server(2, 0, 8)), official=True)
    twin = model("m7b", 8, (server(1, 0, 7),))
    found = [one.dht_prefix for one in wanted(swarm(slow, *single[::-1], twin, *missing, official))]
    assert found == ["z", "m7", "m7b", "m6", "s6", "s7", "a"]


def test_a_gpu_bounds_the_blocks_of_a_command():
    """Where the model's size is known; a model of which not one block fits is left out."""
    llama = model("Llama-70b", 80, (server(1, 0, 40, quant_type="nf4", torch_dtype="float16"),))
    (one,) = wanted(swarm(llama), gpu_gb=24)
    assert one.blocks == (40, 78)
    assert not one.completes
    (small,) = wanted(swarm(model("Llama-70b", 80, (server(1, 0, 60),))), gpu_gb=24)
    assert small.blocks == (60, 80)
    assert wanted(swarm(llama), gpu_gb=1) == []
    unknown = model("mine", 80, (server(1, 0, 40),))
    assert wanted(swarm(llama, unknown), gpu_gb=1) == wanted(swarm(unknown))


@pytest.mark.parametrize(
    ("name", "quant_type", "torch_dtype", "gpu_gb", "estimate"),
    [
        ("Llama-70b", "nf4", "float16", 24, GpuEstimate(38, "float16", "nf4")),
        ("Llama-70b", "none", "bfloat16", 48, GpuEstimate(24, "bfloat16", "none")),
        ("Llama-70b", "none", "float32", 48, GpuEstimate(12, "float32", "none")),
        ("Mixtral-8x7B", "int8", "float32", 16, GpuEstimate(19, "float32", "int8")),
        ("Llama-70b", None, None, 24, GpuEstimate(38, "bfloat16", "nf4")),
        ("Llama-70b", "odd", "odd", 24, GpuEstimate(38, "odd", "nf4")),
        ("bloomz", None, None, 80, GpuEstimate(56, "bfloat16", "nf4")),
        ("Llama-70b", "nf4", "float16", 1000, GpuEstimate(80, "float16", "nf4")),
        ("Llama-70b", "nf4", "float16", 0.1, GpuEstimate(0, "float16", "nf4")),
    ],
)
def test_what_a_gpu_is_estimated_to_hold(name, quant_type, torch_dtype, gpu_gb, estimate):
    """By the precision that the model's servers announce, else in 4 bits. Petals itself says 40 of 70b on 24 GB."""
    announcing = server(1, 0, 30, quant_type=quant_type, torch_dtype=torch_dtype)
    assert gpu_blocks(model(name, 80, (announcing,)), gpu_gb) == estimate


def test_an_estimate_is_for_what_most_servers_announce():
    """Of those that serve or load; a quantisation that Petals does not know is no answer."""
    gone = [server(n, 0, 8, PeerState.OFFLINE, quant_type="int8", torch_dtype="float32") for n in range(4)]
    made = [server(4, 0, 8, quant_type="none"), server(5, 0, 8, PeerState.JOINING, quant_type="none"),
            server(6, 0, 8, quant_type="int8"), *[server(n, 0, 8, quant_type="odd") for n in (7, 8, 9)]]  # fmt: skip
    assert gpu_blocks(model("a-7b", servers=(*gone, *made)), 80).quant_type == "none"
    assert gpu_blocks(model("a-7b", servers=tuple(gone)), 80) == GpuEstimate(8, "bfloat16", "nf4")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("Llama-2-70b-chat-hf", 70e9), ("falcon-180B-chat", 180e9), ("TinyLlama-1.1B", 1.1e9), ("bloomz", 176e9),
     ("Mixtral-8x7B-Instruct", 44.8e9), ("2x10b", 16e9), ("1x7b", 7e9), ("my-model", None), ("0b", None),
     ("4bit-model", None)],
)  # fmt: skip
def test_the_size_of_a_model_is_read_from_its_name(name, parameters):
    """Experts share a fifth of their parameters."""
    assert model_parameters(model(name)) == parameters


def test_the_size_of_a_model_whose_name_does_not_tell_is_in_its_prefix():
    here = msgspec.structs.replace(model("a-3b"), short_name="mine")
    assert model_parameters(here) == 3e9
    assert model_parameters(msgspec.structs.replace(here, short_name="a-7b")) == 7e9


@given(st.text(max_size=80))
def test_no_name_breaks_an_estimate(name):
    found = gpu_blocks(msgspec.structs.replace(model(), short_name=name, dht_prefix=name), 24)
    assert found is None or 0 <= found.blocks <= 8


def test_a_model_without_blocks_has_no_estimate():
    assert gpu_blocks(model("a-7b", 0), 24) is None
