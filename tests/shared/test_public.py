"""The public JSON: its names, order, nulls and descriptions, written out where a change would break clients."""

from __future__ import annotations

import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.advice.causes import advice, message
from shared.public.check import reachability_document
from shared.public.models import model_document, model_summary, server_document
from shared.public.schema import schemas
from shared.public.state import StateDocument, state_document
from shared.reachability import Answer
from shared.snapshot import Announcement, BootstrapPeer, Location, PeerState, ReachabilityIssue, Refusals, Verdict
from tests.fakes import REACHED, REFUSED, model, peer_id, server, snapshot

FULL = server(
    1, 0, 8, verdict=Verdict.REACHABLE, relayed=True, relay=peer_id(7), rtt=0.25, conflict="other", public_name="Ada",
    version="2.2.0", network_rps=1.0, forward_rps=2.0, inference_rps=3.0, adapters=("lab/lora",), torch_dtype="float16",
    quant_type="nf4", using_relay=False, cache_tokens_left=160, next_pings={peer_id(2): 0.1, peer_id(3): math.inf},
    multiaddrs=("/ip4/8.8.8.8/tcp/1",), location=Location("FI", None, "Helsinki"), show_public_name=True,
)  # fmt: skip
BARE = server(2, 0, 8, PeerState.UNREACHABLE, verdict=Verdict.UNREACHABLE, error="refused", throughput=math.inf)
SWARM = snapshot(
    model("lab-demo", servers=(FULL, BARE), official=True, repository="https://huggingface.co/lab/demo"),
    taken_at=1_763_900_000.0,
    bootstrap_peers=tuple(BootstrapPeer(peer_id(10 + n), (), verdict, "x") for n, verdict in enumerate(Verdict)),
    reachability_issues=(ReachabilityIssue(peer_id(2), "refused", "Open the port."),),
    top_contributors={"Ada": 8},
    refused=Refusals({"bad_span": 2}),
    unanswered_keys=3,
    undialled_servers=4,
)
FULL_ROW = {
    "short_peer_id": "..." + peer_id(1)[-6:],
    "peer_id": peer_id(1),
    "peer_ip_info": {
        "location": {
            "status": "success",
            "country": "FI",
            "region": None,
            "city": "Helsinki",
            "countryCode": "FI",
        },
        "multiaddrs": ["/ip4/8.8.8.8/tcp/1"],
    },
    "show_public_name": True,
    "state": "online",
    "span": {
        "peer_id": peer_id(1),
        "start": 0,
        "end": 8,
        "server_info": {
            "state": "online",
            "throughput": 100.0,
            "start_block": 0,
            "end_block": 8,
            "public_name": "Ada",
            "version": "2.2.0",
            "network_rps": 1.0,
            "forward_rps": 2.0,
            "inference_rps": 3.0,
            "adapters": ["lab/lora"],
            "torch_dtype": "float16",
            "quant_type": "nf4",
            "using_relay": False,
            "cache_tokens_left": 160,
            "next_pings": {peer_id(2): 0.1, peer_id(3): None},
        },
    },
    "adapters": [{"name": "lab/lora", "short_name": "lora"}],
    "pings_to_me": {},
    "reachability": {
        "verdict": "reachable",
        "error": None,
        "dialled_at": None,
        "relayed": True,
        "relay": peer_id(7),
        "rtt": 0.25,
    },
    "conflict": "other",
    "inference": None,
    "adapter_inference": None,
    "cache_tokens_left_per_block": 10,
}
BARE_ROW = {
    "short_peer_id": "..." + peer_id(2)[-6:],
    "peer_id": peer_id(2),
    "peer_ip_info": "unknown",
    "show_public_name": False,
    "state": "unreachable",
    "span": {
        "peer_id": peer_id(2),
        "start": 0,
        "end": 8,
        "server_info": {
            "state": "online",
            "throughput": None,
            "start_block": 0,
            "end_block": 8,
            "public_name": None,
            "version": None,
            "network_rps": None,
            "forward_rps": None,
            "inference_rps": None,
            "adapters": [],
            "torch_dtype": None,
            "quant_type": None,
            "using_relay": None,
            "cache_tokens_left": None,
            "next_pings": None,
        },
    },
    "adapters": [],
    "pings_to_me": {peer_id(1): 0.1},
    "reachability": {
        "verdict": "unreachable",
        "error": "refused",
        "dialled_at": None,
        "relayed": None,
        "relay": None,
        "rtt": None,
    },
    "conflict": None,
    "inference": None,
    "adapter_inference": None,
}
STATE = {
    "bootstrap_states": ["online", "unreachable", "online"],
    "top_contributors": {"Ada": 8},
    "model_reports": [
        {
            "name": "lab-demo",
            "short_name": "lab-demo",
            "state": "healthy",
            "num_blocks": 8,
            "repository": "https://huggingface.co/lab/demo",
            "dht_prefix": "lab-demo",
            "official": True,
            "limited": False,
            "usability": None,
            "server_rows": [FULL_ROW, BARE_ROW],
        }
    ],
    "reachability_issues": [{"peer_id": peer_id(2), "err": "refused", "advice": "Open the port."}],
    "last_updated": 1_763_900_000.0,
    "update_period": 60.0,
    "update_duration": 1.5,
    "schema": 1,
    "bootstrap_peers": [
        {"peer_id": peer_id(10), "state": "online", "error": "x"},
        {"peer_id": peer_id(11), "state": "unreachable", "error": "x"},
        {"peer_id": peer_id(12), "state": "unknown", "error": "x"},
    ],
    "refused_records": {"bad_span": 2},
    "undialled_servers": 4,
    "unanswered_keys": 3,
    "inference_peer_id": None,
    "stale": False,
    "age_seconds": 0,
}


def written(document):
    """The document as a client reads it."""
    return json.loads(msgspec.json.encode(document))


def test_the_state_is_what_clients_read():
    """Names, values, nulls and their order, to the letter: clients of health.petals.dev rely on them."""
    assert json.dumps(written(state_document(SWARM))) == json.dumps(STATE)


def test_the_parts_are_those_of_the_state():
    """A model's and a server's rows are the state's, pings to it included."""
    assert written(model_document(SWARM, SWARM.models[0]))["server_rows"] == [FULL_ROW, BARE_ROW]
    for row in (FULL_ROW, BARE_ROW):
        (share,) = written(server_document(SWARM, row["peer_id"]))["shares"]
        assert share == {"dht_prefix": "lab-demo", "name": "lab-demo", "num_blocks": 8, "row": row}
    assert server_document(SWARM, peer_id(99)) is None
    assert written(server_document(SWARM, peer_id(2)))["issue"] == {
        "err": "refused",
        "advice": "Open the port.",
    }


@pytest.mark.parametrize(("number", "state"), [(10, "online"), (11, "unreachable"), (12, "unknown")])
def test_a_bootstrap_peer_is_known_by_its_verdict(number, state):
    document = written(server_document(SWARM, peer_id(number)))
    assert (document["bootstrap_state"], document["shares"], document["issue"]) == (state, [], None)


def test_a_models_summary():
    assert written(model_summary(SWARM.models[0])) == {
        "dht_prefix": "lab-demo",
        "name": "lab-demo",
        "short_name": "lab-demo",
        "repository": "https://huggingface.co/lab/demo",
        "official": True,
        "limited": False,
        "state": "healthy",
        "num_blocks": 8,
        "covered_blocks": 8,
        "min_redundancy": 1,
        "slowest_block_throughput": 100.0,
        "servers": {"online": 1, "joining": 0, "unreachable": 1, "offline": 0},
    }


def test_a_check_says_first_what_was_asked():
    """What Petals servers read stands before the evidence; of several vantage points, who reached the peer decides."""
    answers = [Answer(peer_id(1), "there", 1.0, REFUSED), Answer(peer_id(1), "here", 2.0, REACHED)]
    refused = {
        "peer_id": peer_id(1),
        "vantage": "there",
        "verdict": "unreachable",
        "stage": "dial",
        "cause": "refused",
        "advice": advice(REFUSED.cause),
        "addresses": [],
        "reached_at": None,
        "relayed": None,
        "relay": None,
        "rtt_ms": None,
        "protocol_ok": None,
        "checked_at": 1.0,
    }
    reached = {
        **refused, "vantage": "here", "verdict": "reachable", "stage": "answered", "cause": None, "advice": None,
        "addresses": ["/ip4/127.0.0.1/tcp/1"], "rtt_ms": 1.0, "protocol_ok": True, "checked_at": 2.0,
    }  # fmt: skip
    asked = {"ok": True, "success": True, "message": None, "your_ip": "8.8.8.8", "hints": []}
    expected = {**asked, **reached, "disagreement": True, "vantages": [refused, reached], "inference": None}
    expected |= {"given": [], "difference": None}
    assert json.dumps(written(reachability_document(answers, your_ip="8.8.8.8"))) == json.dumps(expected)
    words = f"{message(REFUSED.cause)} (connection refused) {advice(REFUSED.cause)}"
    assert reachability_document(answers[:1], your_ip="8.8.8.8").message == words


@given(st.floats(), st.floats(), st.floats())
def test_json_has_no_infinity(throughput, rps, ping):
    """Whatever number is announced, a strict parser reads the document, and what is no number is null."""
    odd = server(1, 0, 8, throughput=throughput, network_rps=rps, next_pings={peer_id(1): ping})

    def refuse(constant):
        raise AssertionError(constant)

    encoded = msgspec.json.encode(state_document(snapshot(model(servers=(odd,)))))
    (row,) = json.loads(encoded, parse_constant=refuse)["model_reports"][0]["server_rows"]
    info = row["span"]["server_info"]
    for given_number, read in (
        (throughput, info["throughput"]),
        (rps, info["network_rps"]),
        (ping, info["next_pings"][peer_id(1)]),
        (ping, row["pings_to_me"][peer_id(1)]),
    ):
        assert read == (given_number if math.isfinite(given_number) else None)


def test_every_announced_field_is_public():
    """What the crawler takes from an announcement, the state shows under the same name."""
    assert set(Announcement.__struct_fields__) <= set(FULL_ROW["span"]["server_info"])


def test_schemas_have_the_words_of_the_types():
    """A string below a field describes it, a base's field too; a docstring describes its document."""
    found = schemas([StateDocument], "#/{name}")
    assert found["StateDocument"]["properties"]["last_updated"]["description"] == "When the crawl ended."
    assert found["ServerRow"]["properties"]["short_peer_id"]["description"] == "`...` and the last six characters."
    assert found["ServerRow"]["description"] == "One server's part in one model."
    assert all("description" in schema for schema in found.values())
