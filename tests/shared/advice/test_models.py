"""Which advice is given for a model, whole: tone, sentences, next step, command, since when."""

from itertools import starmap

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.advice.advice import Advice, Tone
from shared.advice.help import wanted
from shared.advice.models import MAX_LOST, ModelAdvice, Past, model_advice, nearest_usable
from shared.incidents import Fate, Incident, LostBlocks, LostServer
from shared.inference import Usability, UsabilityState
from shared.judgement.coverage import coverage
from shared.judgement.usability import ModelUsability
from shared.snapshot import PeerState
from shared.spans import blocks_of
from tests.fakes import model, peer_id, server
from tests.shared.advice.demo_model import HOUR, JOIN, NOW, RUN, name, swarm


def of_model(*servers, past=None, stale=False, blocks=8, unanswered_keys=0, **more):
    made = model(blocks=blocks, servers=servers, **more)
    return model_advice(made, swarm(made, unanswered_keys=unanswered_keys), NOW, past=past, stale=stale)


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
            "Restart the server at which it failed, or start another one for its blocks.",
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
        model("near", 8, official=True),
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
