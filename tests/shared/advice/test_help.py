"""Where one more server counts most, and how many blocks of a model a GPU is estimated to hold."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.advice.help import GpuEstimate, Need, Wanted, gpu_blocks, model_parameters, wanted
from shared.snapshot import PeerState
from tests.fakes import model, server
from tests.shared.advice.demo_model import JOIN, RUN, swarm


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
