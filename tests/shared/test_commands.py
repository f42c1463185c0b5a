"""Every verdict is a sentence, a reason, since when, and a next step that is filled in for this server or model."""

import ast
import shlex

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.advice.advice import Tone
from shared.advice.commands import (
    REPOSITORY,
    PublicAddress,
    client,
    initial_peers,
    public_address,
    run_server,
    usable_adapters,
)
from shared.advice.help import Need, gpu_blocks, model_parameters, wanted
from shared.advice.models import Past, model_advice, nearest_usable
from shared.advice.servers import Server, check_advice, server_advice
from shared.given import GivenDial
from shared.incidents import Fate, Incident, LostBlocks, LostServer
from shared.judgement.coverage import coverage
from shared.judgement.usability import ModelUsability
from shared.reachability import NOBODY_COULD_LOOK, Cause, DialOutcome, Stage
from shared.snapshot import BootstrapPeer, PeerState, Verdict
from shared.spans import common, merged, without
from shared.store.server_history import ServerRecord
from tests.fakes import model, peer_id, server, snapshot

NOW = 1_800_000_000.0
HUB = "https://huggingface.co/"
LLAMA = {"name": "meta-llama/Llama-2-70b-chat-hf", "short_name": "Llama-2-70b-chat-hf",
         "repository": HUB + "meta-llama/Llama-2-70b-chat-hf", "official": True}  # fmt: skip
ADDRESS = "/ip4/45.1.1.9/tcp/31330"
PEER = f"/ip4/127.0.0.1/tcp/4001/p2p/{peer_id(0)}"


def llama(*servers):
    return model("Llama-2-70b-chat-hf", 80, servers, **LLAMA)


def swarm(*models, **more):
    return snapshot(*models, taken_at=NOW, **more)


UNREACHED = server(1, 37, 41, PeerState.UNREACHABLE, verdict=Verdict.UNREACHABLE, cause="timeout",
                   error="No answer to the connection attempt in time.", multiaddrs=(ADDRESS,),
                   quant_type="nf4", torch_dtype="float16", adapters=("a/b",))  # fmt: skip


# Commands


def test_the_command_of_a_server_has_its_address_port_model_and_span():
    """Blocks as --block_indices takes them: the end is not served. The public swarm needs no --initial_peers."""
    found = server_advice(Server.of(peer_id(1), swarm(llama(UNREACHED))), NOW)
    assert shlex.split(found.command) == [
        "python", "-m", "petals.cli.run_server", "meta-llama/Llama-2-70b-chat-hf", "--block_indices", "37:41",
        "--public_ip", "45.1.1.9", "--port", "31330", "--torch_dtype", "float16", "--quant_type", "nf4",
        "--adapters", "a/b",
    ]  # fmt: skip
    assert "--public_ip 45.1.1.9 --port 31330" in found.next_step
    private = swarm(model("mine", 80, (UNREACHED,)), private_swarm=True)
    words = shlex.split(server_advice(Server.of(peer_id(1), private), NOW).command)
    assert words[3:6] == [REPOSITORY, "--dht_prefix", "mine"]
    assert words[-2:] == ["--initial_peers", PEER]
    assert words[words.index("--public_ip") + 1] == "45.1.1.9"


@pytest.mark.parametrize(
    ("repository", "prefix", "told"),
    [
        ("meta-llama/Llama-2-70b-hf", "Llama-2-70b-hf", False),
        ("petals-team/StableBeluga2", "StableBeluga2-hf", False),
        ("tiiuae/falcon-180B-chat", "falcon-180B-chat", False),
        ("bigscience/bloom", "bigscience/bloom-petals", False),
        ("huggyllama/llama-65b", "my-own", True),
    ],
)
def test_the_dht_prefix_is_given_where_petals_would_make_another(repository, prefix, told):
    found = model(prefix, 8, (), repository=HUB + repository)
    assert ("--dht_prefix" in run_server(found)) == told
    assert ("dht_prefix=" in client(found, swarm(found))) == told


HOSTILE = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        ["$(reboot)", "`id`", "'; rm -rf ~ #", '"\\', "--port=1", "-rf", "a\nb", "\u202egnp", "{}", "%s", "\x1b[2J"]
    ),
)


@given(HOSTILE, HOSTILE, st.lists(HOSTILE, max_size=3))
def test_no_name_escapes_its_quotes(prefix, repository, adapters):
    """Each stays one word of the shell and one literal of Python, and none is taken for an option."""
    found = model("x", 4, (server(1, 0, 4, adapters=tuple(adapters)),), repository=HUB + repository)
    found = msgspec.structs.replace(found, dht_prefix=prefix)
    here = swarm(found, private_swarm=True)
    command = run_server(found, blocks=(0, 4), peers=initial_peers(here), adapters=adapters)
    words = shlex.split(command)
    assert command.isprintable()
    flags = {"--dht_prefix", "--block_indices", "--adapters", "--initial_peers"}
    assert {word for word in words[4:] if word.startswith("-")} <= flags
    assert set(words[4:]) <= flags | {prefix, "0:4", PEER, *adapters}
    tree = ast.parse(client(found, here, adapter=adapters[0] if adapters else None))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert called == {
        "AutoTokenizer.from_pretrained", "AutoDistributedModelForCausalLM.from_pretrained", "tokenizer",
        "model.generate", "print", "tokenizer.decode",
    }  # fmt: skip


def test_a_client_of_a_private_swarm_is_given_its_peers_and_an_adapter():
    here = swarm(llama(server(1, 0, 80)), private_swarm=True)
    tree = ast.parse(client(here.models[0], here, adapter="a/b"))
    literals = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert {"meta-llama/Llama-2-70b-chat-hf", PEER, "a/b"} <= set(literals)
    assert "initial_peers" not in client(here.models[0], swarm(here.models[0]))


def test_an_adapter_is_usable_where_its_servers_hold_every_block():
    one, two = server(1, 0, 4, adapters=("all", "half")), server(2, 4, 8, adapters=("all",))
    assert usable_adapters(model(servers=(one, two))) == ("all",)
    assert usable_adapters(model(servers=(one, msgspec.structs.replace(two, state=PeerState.UNREACHABLE)))) == ()


@pytest.mark.parametrize(
    ("addresses", "place"),
    [
        ((ADDRESS,), PublicAddress("45.1.1.9", 31330)),
        (("/ip4/192.168.1.2/tcp/1", ADDRESS), PublicAddress("45.1.1.9", 31330)),
        ((f"/ip4/45.1.1.9/tcp/1/p2p/{peer_id(1)}/p2p-circuit",), None),
        (("/ip4/45.1.1.9/udp/1/quic-v1", "/ip4/45.1.1.9/tcp/99999", "/ip4/45.1.1.9/tcp/²", "", "/"), None),
    ],
)
def test_the_public_address_of_a_server(addresses, place):
    assert public_address(addresses) == place


# Servers


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_a_sentence_a_reason_and_a_next_step(cause):
    """What nobody could probe is never bad news, and no fault of the server's."""
    here = Server.of(peer_id(1), swarm(llama(UNREACHED)))
    verdict = Verdict.UNKNOWN if cause in NOBODY_COULD_LOOK else Verdict.UNREACHABLE
    outcome = DialOutcome(verdict, Stage.DIAL, cause, addresses=(ADDRESS,))
    found = check_advice(here, outcome, your_ip="45.1.1.10")
    assert found.reason.endswith(".")
    assert found.next_step.endswith(".")
    assert (found.tone is Tone.IDLE) == (cause in NOBODY_COULD_LOOK)
    assert "IP --port PORT" not in found.next_step
    if "--public_ip" in found.next_step:
        assert "--public_ip 45.1.1.10 --port 31330" in found.next_step
    if cause in NOBODY_COULD_LOOK:
        assert not found.command
        assert "says nothing about the server" in found.reason


def test_the_address_that_answers_is_the_one_to_announce():
    """Where one that was given answers and those that the swarm knows do not; a server that is unknown is not lost."""
    answers = [GivenDial("/ip4/45.1.1.77/tcp/4004", DialOutcome(Verdict.REACHABLE, Stage.PROTOCOL))]
    outcome = DialOutcome(Verdict.UNREACHABLE, Stage.DIAL, Cause.TIMEOUT, addresses=(ADDRESS,))
    found = check_advice(Server.of(peer_id(1), swarm(llama(UNREACHED))), outcome, your_ip="45.1.1.10", given=answers)
    assert "--public_ip 45.1.1.77 --port 4004" in found.command
    nowhere = DialOutcome(Verdict.UNREACHABLE, Stage.LOOKUP, Cause.NO_ADDRESS)
    found = check_advice(Server(peer_id(7)), nowhere, given=answers)
    assert (found.tone, found.title) == (Tone.WARN, "is not known to the swarm yet")


def test_flags_are_placeholders_only_where_no_address_is_known():
    outcome = DialOutcome(Verdict.UNREACHABLE, Stage.DIAL, Cause.TIMEOUT)
    found = check_advice(Server.of(peer_id(7), swarm(llama())), outcome)
    assert "--public_ip IP --port PORT" in found.next_step
    assert not found.command


def test_each_kind_of_peer_has_words_of_its_own():
    """Unknown, bootstrap, vanished, joining, offline, not dialled, differing, online: none is told as another."""
    servers = (
        server(1, 0, 8), server(2, 0, 8, PeerState.JOINING), server(3, 0, 8, PeerState.OFFLINE),
        server(4, 0, 8, verdict=Verdict.REACHABLE, relayed=True),
        server(5, 0, 8, verdict=Verdict.REACHABLE, conflict="It says 2."),
    )  # fmt: skip
    unknown = BootstrapPeer(peer_id(20), ("/ip4/1.2.3.4/tcp/1",), Verdict.UNREACHABLE, "Refused.")
    here = swarm(model(servers=servers), bootstrap_peers=(*swarm().bootstrap_peers, unknown), private_swarm=True)
    titles = {n: server_advice(Server.of(peer_id(n), here), NOW).title for n in (0, 1, 2, 3, 4, 5, 9, 20)}
    assert len(set(titles.values())) == len(titles)
    assert PEER in server_advice(Server.of(peer_id(9), here), NOW).next_step
    assert server_advice(Server.of(peer_id(1), here), NOW).ours
    assert "through a relay" in server_advice(Server.of(peer_id(4), here), NOW).reason
    record = ServerRecord(first_seen=int(NOW) - 90000, last_seen=int(NOW) - 7200, last_online=int(NOW) - 10800)
    lost = LostServer(peer_id(9), 37, 41, Fate.UNREACHABLE)
    left = server_advice(Server.of(peer_id(9), here), NOW, record=record, lost=lost)
    assert left.title == "has left the swarm"
    assert left.since == "It was last announced 2 hours ago, and last online 3 hours ago."
    assert "It held blocks 37–40, and could not be reached." in left.reason


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5, 6])
def test_nothing_is_present_tense_on_stale_data(number):
    """Nor good or bad news: the monitor says that it has seen nothing newer."""
    servers = (
        server(1, 0, 8), server(2, 0, 8, PeerState.JOINING), server(3, 0, 8, PeerState.OFFLINE),
        server(4, 0, 8, verdict=Verdict.REACHABLE), server(5, 0, 8, verdict=Verdict.REACHABLE, conflict="It says 2."),
        server(6, 0, 8, PeerState.UNREACHABLE, verdict=Verdict.UNREACHABLE),
    )  # fmt: skip
    found = server_advice(Server.of(peer_id(number), swarm(model(servers=servers))), NOW + 420, stale=True)
    assert found.title.split()[0] in {"was", "could", "announced"}
    assert found.title.endswith("when it was last seen, 7 minutes ago")
    assert (found.tone, found.ours, found.command) == (Tone.IDLE, True, "")


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (DialOutcome(Verdict.REACHABLE, Stage.ANSWERED, protocol_ok=True, relayed=False), "directly"),
        (DialOutcome(Verdict.REACHABLE, Stage.PROTOCOL, Cause.PROTOCOL_MISSING, protocol_ok=False), "no Petals server"),
        (DialOutcome(Verdict.UNREACHABLE, Stage.LOOKUP, Cause.NO_ADDRESS), "never started"),
    ],
)
def test_a_check_of_a_stranger_says_what_it_is(outcome, words):
    assert words in check_advice(Server.of(STRANGER, swarm()), outcome).reason


STRANGER = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"


def test_a_check_of_a_bootstrap_peer_does_not_wait_for_blocks():
    outcome = DialOutcome(Verdict.REACHABLE, Stage.PROTOCOL, Cause.PROTOCOL_MISSING, protocol_ok=False)
    found = check_advice(Server.of(peer_id(0), swarm()), outcome)
    assert (found.tone, found.next_step) == (Tone.GOOD, "")
    assert "bootstrap peer" in found.reason


# Models


def test_a_broken_model_says_which_blocks_since_when_who_held_them_and_who_joins():
    servers = (server(1, 0, 37), server(2, 41, 80), server(3, 39, 41, PeerState.JOINING), UNREACHED_2)
    incident = Incident(
        "1-a", "Llama-2-70b-chat-hf", "Llama", True, NOW - 7200, 80, 76, last_healthy=NOW - 7260,
        cause=(LostBlocks(37, 41, (LostServer(peer_id(8), 37, 41, Fate.GONE),)),),
    )  # fmt: skip
    here = swarm(llama(*servers))
    found = model_advice(here.models[0], here, NOW, past=Past.of(incident))
    assert found.usability is ModelUsability.BROKEN
    assert (found.missing, found.joining) == (((37, 41),), ((39, 41),))
    assert found.advice.reason == (
        "Blocks 37–40 have no online server. "
        f"Blocks 37–40 lost all servers: …{peer_id(8)[-6:]} (blocks 37–40) was not announced any more. "
        f"…{peer_id(4)[-6:]} announces some of them, but cannot be reached. "
        f"…{peer_id(3)[-6:]} is loading blocks 39–40."
    )
    assert found.advice.since == "It was last usable 2 hours ago."
    assert found.advice.next_step == "It needs a server for blocks 37–38."
    assert "--block_indices 37:39" in found.advice.command


UNREACHED_2 = server(4, 36, 38, PeerState.UNREACHABLE)


def test_a_gap_that_servers_are_loading_needs_nobody_else():
    here = swarm(llama(server(1, 0, 37), server(2, 41, 80), server(3, 30, 50, PeerState.JOINING)))
    found = model_advice(here.models[0], here, NOW, past=Past(since=NOW - 60))
    assert found.advice.title == "cannot be used now, but servers are joining"
    assert found.advice.since == "It has been so since it was first seen, 1 minute ago."
    assert not found.advice.command
    assert wanted(here) == []


@pytest.mark.parametrize(
    ("servers", "kind", "tone"),
    [
        ((server(1, 0, 80), server(2, 0, 80)), ModelUsability.USABLE, Tone.GOOD),
        ((server(1, 0, 80), server(2, 0, 79)), ModelUsability.DEGRADED, Tone.WARN),
        ((server(1, 0, 79), server(2, 79, 80, PeerState.UNREACHABLE)), ModelUsability.BROKEN, Tone.BAD),
        ((), ModelUsability.UNSERVED, Tone.IDLE),
    ],
)
def test_a_model_is_usable_degraded_broken_or_unserved(servers, kind, tone):
    here = swarm(llama(*servers))
    found = model_advice(here.models[0], here, NOW)
    assert (found.usability, found.advice.tone) == (kind, tone)
    stale = model_advice(here.models[0], here, NOW + 600, stale=True)
    assert stale.usability is kind
    assert stale.advice.tone in {Tone.WARN, Tone.IDLE}
    assert stale.advice.title.endswith("when it was last seen, 10 minutes ago")
    assert not {"can", "cannot", "has", "now"} & set(stale.advice.title.split())


def test_keys_that_did_not_answer_are_told_beside_a_gap():
    """Half of the data is not a broken model."""
    here = swarm(llama(server(1, 0, 40)), unanswered_keys=3)
    assert "servers that it has not seen" in model_advice(here.models[0], here, NOW).advice.reason


def test_instead_of_a_broken_model_the_nearest_usable_one_is_offered():
    """An official one before others, then the nearest in size; never itself, and none where none is usable."""
    broken, small = llama(server(1, 0, 8)), model("small", 8, (server(2, 0, 8),), official=True)
    large, other = model("large", 70, (server(3, 0, 70),), official=True), model("other", 80, (server(4, 0, 80),))
    assert nearest_usable(broken, swarm(broken, small, large, other)) == large
    assert nearest_usable(broken, swarm(broken, other)) == other
    assert nearest_usable(broken, swarm(broken)) is None


# Help


def test_missing_blocks_come_before_single_servers_before_the_slowest_stage():
    """The fewest missing blocks first; official models before others of the same need."""
    nearly = model("nearly", 8, (server(1, 0, 7),))
    half = model("half", 8, (server(1, 0, 4),))
    fragile = model("fragile", 8, (server(1, 0, 8), server(2, 0, 6)), official=True)
    slow = model("slow", 8, (server(1, 0, 8), server(2, 0, 8), server(3, 2, 8)))
    unserved = model("unserved", 8, (), official=True)
    nobodys = model("nobodys", 8, ())
    lines = wanted(swarm(slow, fragile, half, nearly, unserved, nobodys))
    assert [(line.dht_prefix, line.need, line.blocks) for line in lines] == [
        ("unserved", Need.MISSING, (0, 8)),
        ("nearly", Need.MISSING, (7, 8)),
        ("half", Need.MISSING, (4, 8)),
        ("fragile", Need.SINGLE, (6, 8)),
        ("slow", Need.SLOWEST, (0, 2)),
    ]
    assert lines[1].sentence == "Block 7 needs a server: without it nobody can use the model."
    assert all(f"--block_indices {line.blocks[0]}:{line.blocks[1]}" in line.command for line in lines)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("Llama-2-70b-chat-hf", 70e9), ("falcon-180B-chat", 180e9), ("TinyLlama-1.1B", 1.1e9), ("bloomz", 176e9),
     ("Mixtral-8x7B-Instruct", 44.8e9), ("my-model", None), ("0b", None), ("4bit-model", None)],
)  # fmt: skip
def test_the_size_of_a_model_is_read_from_its_name(name, parameters):
    assert model_parameters(model(name)) == (None if parameters is None else pytest.approx(parameters))


def test_what_a_gpu_holds_is_an_estimate_by_precision():
    """More memory and fewer bits hold more; Petals' own reckoning for 70b in 4 bits on 24 GB is about 40."""
    found = llama(server(1, 0, 40, quant_type="nf4", torch_dtype="float16"))
    by_quant = [gpu_blocks(found, 24, quant_type=quant).blocks for quant in ("none", "int8", "nf4")]
    assert by_quant == sorted(by_quant)
    assert by_quant[0] >= 1
    assert 30 <= by_quant[2] <= 45
    assert gpu_blocks(found, 24).quant_type == "nf4"
    assert gpu_blocks(found, 24).sentence.startswith("Estimate: ")
    assert gpu_blocks(found, 80).blocks == 80
    assert gpu_blocks(found, 1).blocks == 0
    assert gpu_blocks(model("my-model"), 24) is None
    lines = wanted(swarm(llama(server(1, 0, 1))), gpu_gb=24)
    assert lines[0].blocks == (1, 1 + gpu_blocks(llama(server(1, 0, 1)), 24).blocks)
    assert not lines[0].completes


@given(st.text(max_size=80), st.floats(allow_nan=True, allow_infinity=True))
def test_no_name_or_amount_breaks_an_estimate(name, gb):
    found = gpu_blocks(msgspec.structs.replace(model(), short_name=name, dht_prefix=name), gb)
    assert found is None or 0 <= found.blocks <= 8


SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=8)
STATES = st.sampled_from(PeerState)


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(1, 16), STATES), max_size=8))
def test_verdicts_of_any_model_agree_with_its_coverage(made):
    """What is missing, joining or single is so in a plain count of each block."""
    servers = tuple(server(n, a, min(16, a + length), state) for n, (a, length, state) in enumerate(made))
    here = swarm(model("m", 16, servers))
    found = model_advice(here.models[0], here, NOW)
    redundancy = coverage(here.models[0]).redundancy

    def blocks(spans):
        return {block for start, end in spans for block in range(start, end)}

    loading = {b for s in servers if s.state is PeerState.JOINING for b in range(s.span.start, s.span.end)}
    assert blocks(found.missing) == {b for b in range(16) if not redundancy[b]}
    assert blocks(found.joining) == blocks(found.missing) & loading
    assert blocks(found.single) == {b for b in range(16) if redundancy[b] == 1}
    assert (found.usability in {ModelUsability.USABLE, ModelUsability.DEGRADED}) == all(redundancy)
    lines = wanted(here)
    if servers and blocks(found.missing) - loading:
        assert blocks(lines[0].spans) == blocks(found.missing) - loading


@given(SPANS, SPANS)
def test_common_blocks_and_the_others(some, others):
    one = merged((start, start + length) for start, length in some)
    two = merged((start, start + length) for start, length in others)

    def blocks(spans):
        return [block for start, end in spans for block in range(start, end)]

    assert blocks(common(one, two)) == sorted(set(blocks(one)) & set(blocks(two)))
    assert blocks(without(one, two)) == sorted(set(blocks(one)) - set(blocks(two)))
