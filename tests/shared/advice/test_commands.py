"""Commands and code to copy: right for this model and server, and safe whatever name the swarm announces."""

import ast
import shlex

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.advice.commands import (
    REPOSITORY,
    PublicAddress,
    client,
    initial_peers,
    public_address,
    run_server,
    usable_adapters,
)
from shared.advice.servers import Server, server_advice
from shared.snapshot import BootstrapPeer, PeerState, Verdict
from tests.fakes import model, peer_id, server, snapshot
from tests.shared.advice.demo_model import NOW, PEER

HUB = "https://huggingface.co/"
LLAMA = {"name": "meta-llama/Llama-2-70b-chat-hf", "short_name": "Llama-2-70b-chat-hf",
         "repository": HUB + "meta-llama/Llama-2-70b-chat-hf", "official": True}  # fmt: skip
ADDRESS = "/ip4/45.1.1.9/tcp/31330"


def llama(*servers):
    return model("Llama-2-70b-chat-hf", 80, servers, **LLAMA)


def swarm(*models, **more):
    return snapshot(*models, taken_at=NOW, **more)


UNREACHED = server(1, 37, 41, PeerState.UNREACHABLE, verdict=Verdict.UNREACHABLE, cause="timeout",
                   error="No answer to the connection attempt in time.", multiaddrs=(ADDRESS,),
                   quant_type="nf4", torch_dtype="float16", adapters=("a/b",))  # fmt: skip


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
        ("tiiuae/Falcon-1.5B", "Falcon-1-5B", False),
        ("bigscience/bloom", "bigscience/bloom-petals", False),
        ("bigscience/Bloom-7b1.x", "bigscience/Bloom-7b1-x-petals", False),
        ("huggyllama/llama-1.5b", "llama-1-5b-hf", False),
        ("huggyllama/llama-65b-hf", "llama-65b-hf-hf", True),
        ("huggyllama/llama-65b", "my-own", True),
        ("more/huggyllama/llama-65b", "llama-65b-hf", False),
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


def test_a_client_of_a_private_swarm_is_given_its_prefix_its_peers_and_an_adapter():
    here = swarm(model("mine", 8, (), repository=HUB + "me/Mine"), private_swarm=True)
    assert client(here.models[0], here, adapter="a/b") == (
        "from petals import AutoDistributedModelForCausalLM\n"
        "from transformers import AutoTokenizer\n"
        "\n"
        "name = 'me/Mine'\n"
        "tokenizer = AutoTokenizer.from_pretrained(name)\n"
        "model = AutoDistributedModelForCausalLM.from_pretrained("
        f"name, dht_prefix='mine', initial_peers=['{PEER}'], active_adapter='a/b')\n"
        "\n"
        'prompt = tokenizer("The three laws of robotics are", return_tensors="pt")\n'
        'tokens = model.generate(prompt["input_ids"], max_new_tokens=20)\n'
        "print(tokenizer.decode(tokens[0]))\n"
    )
    public = client(llama(), swarm(llama()))
    assert "from_pretrained(name)\n\n" in public


def test_through_which_peers_a_server_or_client_joins():
    """Those of a private swarm, six at most; a word stands for them where none may be shown or copied."""
    peers = [BootstrapPeer(peer_id(n), (f"/ip4/10.0.0.{n}/tcp/1", "-rf\n"), Verdict.UNKNOWN) for n in range(8)]
    first = tuple(f"/ip4/10.0.0.{n}/tcp/1/p2p/{peer_id(n)}" for n in range(6))
    assert initial_peers(swarm(bootstrap_peers=tuple(peers), private_swarm=True)) == first
    assert initial_peers(swarm(bootstrap_peers=(), private_swarm=True)) == ("INITIAL_PEERS",)
    assert initial_peers(swarm()) == initial_peers(None) == ()


@pytest.mark.parametrize(
    ("repository", "path"),
    [(HUB + "me/MineX", "me/MineX"), (HUB + "/me/Mine/", "me/Mine"), (HUB, "REPOSITORY"), (None, "REPOSITORY"),
     (HUB + "-rf", "REPOSITORY"), (HUB + "a\x00b", "REPOSITORY")],
)  # fmt: skip
def test_a_model_that_is_nowhere_has_a_placeholder(repository, path):
    assert run_server(model("mine", repository=repository)).split()[3] == path


def test_what_would_be_read_as_an_option_is_left_out():
    plain = model("mine")
    hostile = run_server(plain, torch_dtype="-rf", quant_type="a\nb", adapters=("--x", ""), peers=("-p",))
    assert hostile == run_server(plain)
    assert client(plain, swarm(plain), adapter="-rf") == client(plain, swarm(plain))


def test_an_adapter_is_usable_where_its_servers_hold_every_block():
    one, two = server(1, 0, 4, adapters=("all", "half")), server(2, 4, 8, adapters=("all",))
    assert usable_adapters(model(servers=(one, two))) == ("all",)
    assert usable_adapters(model(servers=(one, msgspec.structs.replace(two, state=PeerState.UNREACHABLE)))) == ()
    assert usable_adapters(model(servers=(server(1, 0, 8, adapters=("b", "-rf", "a")),))) == ("a", "b")


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
