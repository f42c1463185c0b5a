"""The description of the API is true: every route is in it, and real answers are what it says."""

from __future__ import annotations

import re
from urllib.parse import quote

import jsonschema
import msgspec
import pytest
import pytest_asyncio
from starlette.routing import Mount

from api.app import create_app
from api.openapi import describe
from api.settings import ApiSettings
from crawler.history.writer import HistoryWriter
from crawler.leader import Leadership
from shared.snapshot import BootstrapPeer, Location, PeerState, ReachabilityIssue, Verdict
from shared.store.connection import connect
from shared.store.snapshots import SnapshotWriter
from tests.api.past import client_of
from tests.fakes import model, peer_id, server, snapshot


def full(state, taken_at):
    """A snapshot in which nothing that may be there is missing."""
    rich = server(
        1, 0, 5, public_name="Ada", version="2.2.0", network_rps=1.0, forward_rps=2.0, inference_rps=3.0,
        adapters=("lab/lora",), torch_dtype="float16", quant_type="nf4", using_relay=False, cache_tokens_left=100,
        next_pings={peer_id(2): 0.1, peer_id(3): float("inf")}, multiaddrs=("/ip4/8.8.8.8/tcp/1",),
        location=Location("FI", None, "Helsinki"), verdict=Verdict.REACHABLE,
    )  # fmt: skip
    others = (server(2, 5, 8),) if state == "healthy" else ()
    bad = server(3, 0, 8, PeerState.UNREACHABLE, verdict=Verdict.UNREACHABLE, error="refused")
    return snapshot(
        model("lab/demo", servers=(rich, *others, bad), official=True, repository="https://huggingface.co/lab/demo"),
        taken_at=taken_at,
        bootstrap_peers=(BootstrapPeer(peer_id(0), (), Verdict.UNREACHABLE, "refused"),),
        reachability_issues=(ReachabilityIssue(peer_id(3), "refused", "Open the port."),),
        top_contributors={"Ada": 5},
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(redis_url_of_module):
    """One app for all answers: nothing here changes what it serves."""
    redis = connect(redis_url_of_module, "tests")
    leader = Leadership(redis, "tests")
    for number, state in enumerate(["healthy", "broken", "broken", "healthy", "healthy", "broken", "broken"]):
        assert await leader.hold()
        each = full(state, 1_763_900_000.0 + 60 * number)
        await SnapshotWriter(redis).publish(each, leader.lease)
        await HistoryWriter(redis).append(each, leader.lease)
    async with client_of(redis_url_of_module, rate_limit=0) as http:
        yield http
    await redis.aclose()


def test_every_route_is_described():
    """A route cannot be added without its description, nor a description stay without its route."""
    app = create_app(ApiSettings())
    routes = {re.sub(r":\w+}", "}", route.path) for route in app.routes if not isinstance(route, Mount)}
    assert set(describe()["paths"]) == routes


def test_the_description_is_valid():
    """OpenAPI 3.1: parameters of a path are declared, references resolve, schemas are JSON Schema 2020-12."""
    document = describe()
    for path, item in document["paths"].items():
        declared = {each["name"] for each in item["get"].get("parameters", ()) if each["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path))
        assert all(response["description"] for response in item["get"]["responses"].values())
    schemas = document["components"]["schemas"]
    references = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert references <= set(schemas)
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_document_is_in_words():
    """What is made of a type is described by it; a field needs none where its name and type say all."""
    assert all(schema.get("description") for schema in describe()["components"]["schemas"].values())


def validator(schema):
    """Validate strictly: a property that is not described is a mistake of the description."""
    schemas = {
        name: {"additionalProperties": False, **each} if each.get("type") == "object" and "properties" in each else each
        for name, each in describe()["components"]["schemas"].items()
    }
    return jsonschema.Draft202012Validator({**schema, "components": {"schemas": schemas}})


PATHS = [
    ("/api/v1/state", "/api/v1/state"),
    ("/api/v1/models", "/api/v1/models"),
    ("/api/v1/models", "/api/v1/models?fields=name,state"),
    ("/api/v1/servers", "/api/v1/servers?limit=1"),
    ("/api/v1/servers", "/api/v1/servers?fields=peer_id&sort=-throughput"),
    ("/api/v1/servers", "/api/v1/servers?color=1"),
    ("/api/v1/models/{dht_prefix}", "/api/v1/models/lab/demo"),
    ("/api/v1/servers/{peer_id}", f"/api/v1/servers/{peer_id(1)}"),
    ("/api/v1/servers/{peer_id}", f"/api/v1/servers/{peer_id(3)}"),
    ("/api/v1/servers/{peer_id}", f"/api/v1/servers/{peer_id(0)}"),
    ("/api/v1/servers/{peer_id}", f"/api/v1/servers/{peer_id(99)}"),
    ("/api/v1/servers/{peer_id}", "/api/v1/servers/abc"),
    ("/api/v1/models/{dht_prefix}", "/api/v1/models/lab/dem"),
    *(
        ("/api/v1/history/models/{dht_prefix}", f"/api/v1/history/models/lab/demo?resolution={resolution}")
        for resolution in ("minute", "hour", "day", "year")
    ),
    ("/api/v1/history/servers/{peer_id}", f"/api/v1/history/servers/{peer_id(1)}"),
    ("/api/v1/history/servers/{peer_id}", f"/api/v1/history/servers/{peer_id(3)}"),
    ("/api/v1/incidents", "/api/v1/incidents"),
    ("/api/v1/incidents", "/api/v1/incidents?limit=x"),
    ("/api/v1/changes", "/api/v1/changes"),
    ("/api/v1/contributors", "/api/v1/contributors"),
    ("/api/v1/contributors/{name}", "/api/v1/contributors/nobody"),
    ("/api/v1/changes", "/api/v1/changes?limit=x"),
    ("/api/v1/data", "/api/v1/data"),
    ("/api/v1/reports", "/api/v1/reports"),
    ("/api/v1/reports/{week}", "/api/v1/reports/2026-W99"),
    ("/api/v1/is_reachable", "/api/v1/is_reachable"),
    ("/api/v1/is_reachable/{peer_id}", "/api/v1/is_reachable/abc"),
    ("/api/v1/is_reachable/{peer_id}", f"/api/v1/is_reachable/{peer_id(1)}"),
    ("/api/v1/search", "/api/v1/search?q=demo"),
    ("/api/v1/search", f"/api/v1/search?q={peer_id(99)}"),
    ("/openapi.json", "/openapi.json"),
    ("/livez", "/livez"),
    ("/readyz", "/readyz"),
]


@pytest.mark.parametrize(("path", "asked"), PATHS)
@pytest.mark.asyncio(loop_scope="module")
async def test_real_answers_are_as_described(client, path, asked):
    """Status, media type and every field of a real answer are in the description."""
    answer = await client.get(asked)
    described = describe()["paths"][path]["get"]["responses"][str(answer.status_code)]
    media_type = answer.headers["content-type"].partition(";")[0]
    validator(described["content"][media_type]["schema"]).validate(answer.json())


def test_every_document_is_tried():
    """No path with JSON is left out of the test above."""
    with_json = {
        path
        for path, item in describe()["paths"].items()
        if "application/json" in item["get"]["responses"].get("200", {}).get("content", {})
    }
    assert with_json <= {path for path, _ in PATHS}


async def test_a_positive_answer_about_a_peer_is_as_described():
    """The document that Petals servers read, made of an answer with all its evidence."""
    from shared.public.check import reachability_document
    from shared.reachability import Answer
    from tests.fakes import REACHED, REFUSED

    schema = {"$ref": "#/components/schemas/ReachabilityDocument"}
    for outcome in (REACHED, REFUSED):
        answers = [Answer(peer_id(1), "here", 1_763_900_000.0, outcome)]
        document = reachability_document(answers, your_ip="127.0.0.1")
        validator(schema).validate(msgspec.json.decode(msgspec.json.encode(document)))


MEDIA = [
    ("/places", "/places"),
    ("/og.png", "/og.png"),
    ("/og/models/{dht_prefix}.png", "/og/models/lab/demo.png"),
    ("/og/models/{dht_prefix}.png", "/og/models/nobody.png"),
    ("/embed/models/{dht_prefix}", "/embed/models/lab/demo"),
    ("/share/models/{dht_prefix}", "/share/models/lab/demo"),
    ("/i/{incident_id}", "/i/nothing"),
    ("/favicon.ico", "/favicon.ico"),
    ("/robots.txt", "/robots.txt"),
    *((path, path) for kind in ("servers", "models") for path in (f"/api/v1/{kind}.csv", f"/api/v1/{kind}.ndjson")),
    ("/badge/{dht_prefix}.svg", f"/badge/{quote('lab/demo', safe='')}.svg"),
    ("/badge/{dht_prefix}.svg", "/badge/nobody.svg"),
    ("/incidents.atom", "/incidents.atom"),
    ("/changes.atom", "/changes.atom"),
    ("/swarm.txt", "/swarm.txt?color=1"),
    ("/metrics", "/metrics"),
    ("/api/prometheus", "/api/prometheus"),
    ("/", "/?x=1"),
    ("/incidents", "/incidents"),
    ("/contributors", "/contributors"),
    ("/models/{dht_prefix}", "/models/lab/demo"),
    ("/data", "/data"),
    ("/reports", "/reports"),
    ("/reports/{week}", "/reports/2026-W01"),
    ("/reports.atom", "/reports.atom"),
    ("/data/{name}", "/data/..%2fetc%2fpasswd"),
    ("/data/{name}", "/data/crawls-2026-02-31.csv.gz"),
    ("/models/{dht_prefix}", "/models/nobody"),
    ("/servers/{peer_id}", f"/servers/{peer_id(1)}"),
    ("/docs", "/docs"),
    ("/check", "/check"),
    ("/check", f"/check?peer_id={peer_id(1)}"),
    ("/check/{peer_id}", "/check/abc"),
]


@pytest.mark.parametrize(("path", "asked"), MEDIA)
@pytest.mark.asyncio(loop_scope="module")
async def test_pages_and_pictures_are_as_described(client, path, asked):
    """Status and media type of everything that is not JSON."""
    answer = await client.get(asked, headers={"accept": "text/html, */*"})
    described = describe()["paths"][path]["get"]["responses"][str(answer.status_code)]
    if answer.status_code < 300 or "content" in described:
        assert answer.headers["content-type"].partition(";")[0] in described["content"]
