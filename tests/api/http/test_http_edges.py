"""The edges of HTTP: what is asked in unusual ways is answered as it should be, and costs no more than the usual."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from sys import getsizeof

import httpx
import pytest
import pytest_asyncio
import uvicorn

from api import openapi
from api.app import create_app
from api.http import connection_limits, encodings, resources
from api.http.client_address import rate_key
from api.http.connection_limits import BoundedHttp
from api.http.headers import CORS, SECURITY_HEADERS
from api.http.problems import Problem
from api.pages import Pages
from api.responses import kinds, on_demand, swarm
from api.responses.on_demand import MAX_RENDERING, OnDemandResponses
from api.responses.prepared import VARIANT_BYTES, PreparedResponse
from api.settings import ApiSettings
from crawler.leader import Leadership
from shared.public.changes import changes_document
from shared.store import keys
from shared.store.connection import connect
from shared.store.snapshots import SnapshotWriter
from tests.api.serving import serve
from tests.fakes import REACHED, REFUSED, FakeProber, model, peer_id, server, snapshot
from tests.reachability_worker.simulated_worker import worker_on
from tests.support import synthetic

PREFIX = "org/demo-model"
in_the_modules_loop = pytest.mark.asyncio(loop_scope="module")
PAGES = ["/", f"/models/{PREFIX}", f"/servers/{peer_id(1)}", "/incidents"]
DOCUMENTS = [
    "/api/v1/state", "/swarm.txt", "/swarm.txt?color=1", "/api/v1/models", f"/api/v1/models/{PREFIX}",
    f"/api/v1/servers/{peer_id(1)}", "/api/v1/incidents", f"/api/v1/history/models/{PREFIX}",
    f"/badge/{PREFIX}.svg", f"/badge/{PREFIX}.svg?metric=coverage", "/metrics",
]  # fmt: skip
READY = ("/", "/api/v1/state", "/swarm.txt", "/swarm.txt?color=1", f"/badge/{PREFIX}.svg", "/metrics")
HISTORY = f"/api/v1/history/models/{PREFIX}"
UNREAD = "x" * resources.MAX_QUERY
DRAWN = [path for path in (*PAGES, *DOCUMENTS) if path not in READY]
LISTS = ("/api/v1/models", "/api/v1/servers")
"""A list refuses what it does not know (test_lists.py)."""
LARGE = 30 * 2**20
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
API_PATHS = ["/api/v1/state", "/api/v1/is_reachable/x", "/api/v1/nothing", "/swarm.txt", "/events", "/openapi.json"]


async def publish(redis, document):
    leader = Leadership(redis, "tests")
    await leader.hold()
    await SnapshotWriter(redis).publish(document, leader.lease)
    await leader.release()


@pytest.fixture
async def client(redis_url):
    async with client_in(redis_url) as http:
        yield http


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader(redis_url_of_module):
    """One app for all that only read: (client, its services)."""
    async with client_in(redis_url_of_module, rate_limit=0) as http:
        yield http, serve.services


@asynccontextmanager
async def client_in(redis_url, **settings):
    redis = connect(redis_url, "tests")
    await publish(redis, snapshot(model(PREFIX, 12, tuple(server(n, 0, 12) for n in range(1, 40)))))
    async with serve(redis_url, **settings) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        while (await http.get("/api/v1/state")).status_code != 200:
            await asyncio.sleep(0.02)
        yield http
    await redis.aclose()


def counted(services, name, **labels):
    return services.metrics.registry.get_sample_value(name, labels) or 0


# --- rendering -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path in (*PAGES, *DOCUMENTS) if path not in LISTS])
@in_the_modules_loop
async def test_unknown_query_strings_change_nothing(reader, path):
    """The same response is prepared for them, with its ETag, compressed, and is not rendered again."""
    client, services = reader
    plain = await client.get(path)
    assert plain.status_code == 200
    router = [sample.value for sample in all_requests(services)]
    mark = "&" if "?" in path else "?"
    for query in ("utm_source=x", "x", "=", "&&", "a[]=1&a[]=2", "%ff=%fe", "x" * 5_000):
        answer = await client.get(f"{path}{mark}{query}")
        assert answer.headers["etag"] == plain.headers["etag"]
        assert answer.content == plain.content
        known = await client.get(f"{path}{mark}{query}", headers={"if-none-match": plain.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")
    assert [sample.value for sample in all_requests(services)] == router, "the router was asked"
    if len(plain.content) > encodings.MIN_COMPRESSED:
        assert plain.headers["content-encoding"] in ("zstd", "br", "gzip")


def all_requests(services):
    families = services.metrics.registry.collect()
    return [sample for family in families if family.name == "petals_api_requests" for sample in family.samples
            if sample.name.endswith("_total")]  # fmt: skip


@in_the_modules_loop
async def test_query_parameters_that_matter_are_not_ignored(reader):
    """Whatever stands beside them, and in whatever order."""
    client, _ = reader
    plain, color = await client.get("/swarm.txt"), await client.get("/swarm.txt?utm=1&color=1")
    assert "\x1b[" in color.text
    assert "\x1b[" not in plain.text
    assert (await client.get("/swarm.txt?color=0")).text == plain.text
    badge = f"/badge/{PREFIX}.svg?x=1&metric="
    state, coverage = await client.get(badge + "state"), await client.get(badge + "coverage")
    assert ("healthy" in state.text, "12/12" in coverage.text) == (True, True)
    minute = await client.get(f"/api/v1/history/models/{PREFIX}?resolution=minute&x=1")
    assert minute.json()["resolution"] == "minute"
    assert (await client.get(f"/api/v1/history/models/{PREFIX}?resolution=year")).status_code == 400
    assert (await client.get("/api/v1/incidents?limit=0")).status_code == 400


@pytest.mark.parametrize(
    ("resource", "odd"),
    [
        (HISTORY, f"{HISTORY}?{UNREAD}&resolution=day"),
        (f"{HISTORY}?resolution=hour", f"{HISTORY}?resolution=hour&resolution=day"),
        (f"/badge/{PREFIX}.svg?metric=uptime", f"/badge/{PREFIX}.svg?metric=uptime&metric=coverage"),
        ("/help?gpu=24", "/help?gpu=24&gpu=8"),
    ],
    ids=["unread", "history", "badge", "help"],
)
@in_the_modules_loop
async def test_nobody_gets_the_answer_to_another_query(reader, resource, odd):
    """A parameter given twice, or behind so many bytes that it is not read, changes no answer of others."""
    client, services = reader
    right, version = await client.get(resource), services.on_demand._responses.version
    services.on_demand.renew(odd)  # drawn anew, for whoever asks first
    await client.get(odd)
    try:
        assert (await client.get(resource)).content == right.content
    finally:
        services.on_demand.renew(version)  # else the next update of ages draws everything anew, in the next test


@in_the_modules_loop
async def test_a_question_mark_in_a_path_begins_no_query(reader):
    """It is part of a name, and finds no response that is prepared for a query."""
    client, _ = reader
    assert (await client.get(f"{HISTORY}?resolution=day")).status_code == 200
    assert (await client.get(f"{HISTORY}%3Fresolution=day")).status_code == 404
    assert (await client.get("/swarm.txt%3Fcolor=1")).status_code == 404


def test_the_parameters_that_matter_are_those_of_the_description():
    """`resources.PARAMETERS` and /openapi.json say the same.

    Checks, searches and streams are made for each request, and lists read their whole query: none is found by its
    resource.
    """
    described = {}
    own = re.compile(r"/api/v1/(servers|models)(\.\w+)?|.*/search|/check.*|.*/is_reachable.*|/events")
    for path, operation in openapi.describe()["paths"].items():
        names = {one["name"] for one in operation["get"].get("parameters", ()) if one["in"] == "query"}
        if names and not own.fullmatch(path):
            described[path.partition("{")[0]] = names
    assert described == {path: set(names) for path, names in resources.PARAMETERS.items()}


@pytest.mark.parametrize("path", [*DRAWN, f"/models/{PREFIX}x", "/servers/zz", f"/api/v1/models/{PREFIX}x"])
async def test_what_grows_with_the_swarm_is_drawn_in_a_thread(client, path, monkeypatch):
    """Once for all that ask at the same time: also the names that may have been meant by one that is not there."""
    threads, draw = [], OnDemandResponses.render

    async def watched(self, make):
        def run():
            threads.append(threading.current_thread())
            return make()

        return await draw(self, run)

    monkeypatch.setattr(OnDemandResponses, "render", watched)
    loop_thread = threading.current_thread()
    for function in ("model", "server", "incidents"):
        drawn = getattr(Pages, function)
        monkeypatch.setattr(Pages, function, _never_on(loop_thread, drawn))
    answers = await asyncio.gather(*(client.get(path) for _ in range(20)))
    assert {answer.status_code for answer in answers} <= {200, 404}
    assert threads
    assert loop_thread not in threads
    if answers[0].status_code == 200:
        assert len(threads) == 1


async def test_hiding_addresses_takes_no_time_of_the_loop(redis_url, monkeypatch):
    """To copy a snapshot without them takes up to 30 ms for 10,000 servers."""
    hiding = _never_on(threading.current_thread(), swarm.snapshot_without_addresses)
    monkeypatch.setattr(swarm, "snapshot_without_addresses", hiding)
    async with client_in(redis_url, peer_addresses="hidden") as http:
        assert (await http.get("/readyz")).json()["failing"] == []


def _never_on(thread, function):
    def checked(*arguments, **more):
        assert threading.current_thread() is not thread
        return function(*arguments, **more)

    return checked


async def test_a_new_snapshot_is_drawn_anew(client, redis):
    """A page that is prepared is of the snapshot that the overview shows."""
    path = f"/models/{PREFIX}"
    old = await client.get(path)
    assert (await client.get(path)).headers["etag"] == old.headers["etag"]
    await publish(redis, snapshot(model(PREFIX, 12, (server(77, 0, 12),))))
    while peer_id(77) not in (await client.get("/")).text:
        await asyncio.sleep(0.02)
    new = await client.get(path)
    assert peer_id(77) in new.text
    assert new.headers["etag"] != old.headers["etag"]
    assert PREFIX in (await client.get(f"/api/v1/models/{PREFIX}")).text


async def test_what_stands_ready_is_bounded():
    """By bytes, the least recently made out first; and by what waits for the thread."""
    demand = OnDemandResponses()
    large = PreparedResponse.make(bytes(30 * 2**20), "text/plain")

    async def read():
        return large

    for number in range(20):
        await demand.get(f"/{number}", "/{number}", read, lambda found: found)
    assert demand.prepared("/19") == replace(large, route="/{number}")
    assert demand.prepared("/0") is None
    assert sum(kept.size for kept in demand._responses._entries.values()) <= on_demand.MAX_BYTES
    hold = threading.Event()
    waiting = [asyncio.create_task(demand.render(hold.wait)) for _ in range(MAX_RENDERING)]
    await asyncio.sleep(0)
    with pytest.raises(Problem) as refused:
        await demand.render(lambda: None)
    assert refused.value.status_code == 503
    hold.set()
    await asyncio.gather(*waiting)
    demand.close()


async def test_small_responses_are_bounded_by_the_memory_that_they_take(monkeypatch):
    """One client can ask for any number of empty documents, of 14 bytes each: their headers and keys count too."""
    monkeypatch.setattr(on_demand, "MAX_BYTES", 100_000)
    demand, name = OnDemandResponses(), "x" * 2_000
    empty = kinds.document(changes_document([], 1))

    async def read():
        return empty

    for number in range(50):
        await demand.get(f"server={name}{number} /api/v1/changes", "/api/v1/changes", read, lambda found: found)
    assert len(demand._responses._entries) == 100_000 // (len(empty.content) + VARIANT_BYTES + getsizeof(name)) == 19
    demand.close()


def test_a_model_of_ten_thousand_servers_fits_a_page():
    """What is sent of it stays near what the overview sends: the JSON has all."""
    view_of = synthetic.snapshot(10_000)
    from api.pages.view import View

    view = View(view_of, None, time.time(), redis_connected=True, snapshot_id="1", stale_after=60)
    prefix = max(view_of.models, key=lambda report: len(report.servers)).dht_prefix
    body = PreparedResponse.make(Pages().model(view, prefix).encode(), "text/html")
    assert len(body.encoded["br"]) < 80_000


# --- checks ----------------------------------------------------------------------------------------------------------


async def test_a_client_that_hangs_up_is_no_failure(redis_url, caplog):
    """It is counted as what it is, and no traceback is written."""
    async with serve(redis_url) as url, worker_on(redis_url, FakeProber(delay=30)):
        host, port = url.removeprefix("http://").split(":")
        with caplog.at_level(logging.INFO):
            for path in ("/api/v1/is_reachable/", "/check/"):
                with socket.create_connection((host, int(port))) as hanging_up:
                    hanging_up.sendall(f"GET {path}{peer_id(1)} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
                    while not serve.services.checks.waiting:
                        await asyncio.sleep(0.02)
                while serve.services.checks.waiting:
                    await asyncio.sleep(0.02)
        services, routes = serve.services, ("/api/v1/is_reachable/{peer_id:path}", "/check/{peer_id}")
        async with asyncio.timeout(20):
            while [counted(services, "petals_api_requests_total", route=one, status="499") for one in routes] != [1, 1]:
                await asyncio.sleep(0.02)
    assert (
        counted(services, "petals_api_requests_total", route="/api/v1/is_reachable/{peer_id:path}", status="500") == 0
    )
    assert "Traceback" not in caplog.text


async def test_who_asks_for_a_fresh_check_gets_one_beside_others(redis_url):
    """A recent verdict answers the one, and not the other, though both ask at the same time."""
    async with serve(redis_url) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        prober = FakeProber(REACHED)
        async with worker_on(redis_url, prober, verdict_reuse=30.0):
            path = f"/api/v1/is_reachable/{peer_id(1)}"
            assert (await http.get(path)).json()["success"] is True
            prober.outcome = REFUSED
            usual, fresh = await asyncio.gather(http.get(path), http.get(path, params={"fresh": "1"}))
            assert (usual.json()["success"], fresh.json()["success"]) == (True, False)


async def test_a_fresh_check_that_takes_long_is_not_answered_by_an_old_verdict(redis_url):
    """Not either when the check is requested again while the probe lasts."""
    async with serve(redis_url) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        prober = FakeProber(REACHED)
        async with worker_on(redis_url, prober, verdict_reuse=30.0):
            path = f"/api/v1/is_reachable/{peer_id(1)}"
            assert (await http.get(path)).json()["success"] is True
            prober.outcome, prober.delay = REFUSED, 2.5
            assert (await http.get(path, params={"fresh": "1"})).json()["success"] is False


@pytest.mark.parametrize(
    ("address", "key"),
    [("192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), ("2001:db8:1:2::", "2001:db8:1:2::/64"),
     ("unknown", "unknown")],
)  # fmt: skip
def test_requests_are_counted_by_household(address, key):
    assert rate_key(address) == key


async def test_a_network_of_ipv6_is_one_client(redis_url, redis):
    """29 addresses of one /64 share one budget; another /64 has its own."""
    settings = {"rate_limit": 10, "trusted_networks": [], "trusted_proxies": ["127.0.0.1"]}
    async with serve(redis_url, **settings) as url, httpx.AsyncClient(base_url=url) as http:
        path = f"/api/v1/is_reachable/{peer_id(1)}"
        codes = [
            (await http.get(path, headers={"x-forwarded-for": f"2001:db8::{n:x}"})).status_code for n in range(1, 30)
        ]
        other = await http.get(path, headers={"x-forwarded-for": "2001:db8:0:1::1"})
    assert codes == [503] * 10 + [429] * 19
    assert other.status_code == 503
    assert len(await redis.keys(keys.rate("*"))) == 2


# --- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/nowhere", "/models/nothing", "/servers/nothing", "/check/nothing"])
@in_the_modules_loop
async def test_error_pages_carry_the_headers_of_all_pages(reader, path):
    """Content-Security-Policy, nosniff, Referrer-Policy: an error page shows what the client wrote."""
    client, _ = reader
    answer = await client.get(path, headers={"accept": "text/html"})
    assert answer.status_code in (400, 404)
    assert answer.headers["content-type"].startswith("text/html")
    assert SECURITY_HEADERS.items() <= answer.headers.items()


@pytest.mark.parametrize("path", ["/nowhere", "/models/nothing", "/servers", "/i/0"])
@in_the_modules_loop
async def test_a_cache_keeps_the_error_of_a_page_apart_from_that_of_a_program(reader, path):
    """An address has two: a page, or where people are led instead; and a problem document."""
    client, _ = reader
    answers = [await client.get(path, headers={"accept": accepted}) for accepted in ("text/html", "*/*")]
    assert [answer.headers["vary"] for answer in answers] == ["Accept", "Accept"]
    assert answers[0].headers.get("content-type") != answers[1].headers["content-type"]


@in_the_modules_loop
async def test_no_cache_answers_for_the_health_of_a_process(reader):
    """A proxy that keeps pages to send them while no replica is ready would go on saying that one is."""
    client, _ = reader
    for path in ("/livez", "/readyz"):
        assert (await client.get(path)).headers["cache-control"] == "no-store"


@in_the_modules_loop
async def test_no_browser_guesses_what_an_answer_is(reader):
    """What strangers announce stands in it."""
    client, _ = reader
    for path in (*DOCUMENTS, "/changes.atom", "/openapi.json", "/docs", "/badge/none.svg"):
        assert (await client.get(path)).headers.get_list("x-content-type-options") == ["nosniff"], path


@in_the_modules_loop
async def test_every_line_of_if_none_match_counts(reader):
    """Lists may stand in several lines, the known tag in any of them."""
    client, _ = reader
    encodings = ("accept-encoding", "gzip, deflate, br, zstd")
    tag = (await client.get("/api/v1/state", headers=[encodings])).headers["etag"]
    for lines in ([tag, '"other"'], ['"other"', tag], [f'"a", {tag}', '"b"'], [f"W/{tag}"], ["*"]):
        headers = [encodings, *(("if-none-match", line) for line in lines)]
        request = client.build_request("GET", "/api/v1/state")
        request.headers = httpx.Headers([("host", "x"), *headers])
        assert (await client.send(request)).status_code == 304, lines
    other = await client.get("/api/v1/state", headers=[("if-none-match", '"a"'), ("if-none-match", '"b"')])
    assert other.status_code == 200


@in_the_modules_loop
async def test_every_line_of_accept_encoding_counts(reader):
    client, _ = reader
    request = client.build_request("GET", "/api/v1/state")
    request.headers = httpx.Headers([("host", "x"), ("accept-encoding", "gzip"), ("accept-encoding", "identity")])
    assert (await client.send(request)).headers["content-encoding"] == "gzip"


def test_junk_in_accept_encoding_is_not_kept(monkeypatch):
    """Neither long ones nor many: what is remembered stays small, and goes on being used."""
    monkeypatch.setattr(encodings, "_chosen", {})
    for number in range(1_000):
        encodings.choose(b"x%d;q=0.5, " % number + b"junk, " * 10_000)
    assert encodings._chosen == {}
    for number in range(1_000):
        encodings.choose(b"x%d" % number)
    assert len(encodings._chosen) <= encodings._MAX_CHOSEN
    assert encodings.choose(b"gzip, deflate, br") == "br"
    assert b"gzip, deflate, br" in encodings._chosen


@pytest.mark.parametrize("path", API_PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@in_the_modules_loop
async def test_any_site_may_read_any_answer_of_the_api(reader, method, path):
    """Errors of the router and preflights too; the ETag can be read."""
    client, _ = reader
    if (method, path) == ("GET", "/events"):
        pytest.skip("is a stream")
    answer = await client.request(method, path, headers={"origin": "https://site.example"})
    assert CORS.items() <= answer.headers.items()
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]
    assert "ETag" in answer.headers["access-control-expose-headers"]
    if method == "OPTIONS":
        assert answer.status_code == 204
        assert "GET" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == "*"


async def test_our_own_failures_can_be_read_too(redis_url):
    """A 500 is made outside of all layers."""
    app = create_app(ApiSettings(redis_url=redis_url))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        del app.state.services.prepared
        answer = await http.get("/api/v1/state?x", headers={"origin": "https://site.example"})
        broken = await http.get(f"/api/v1/is_reachable/{peer_id(1)}")
        del app.state.services.checks
        broken = await http.get(f"/api/v1/is_reachable/{peer_id(1)}")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert broken.status_code == 500
    assert broken.headers["access-control-allow-origin"] == "*"


@in_the_modules_loop
async def test_pages_are_no_api(reader):
    """Other sites may link to a page; they may not read one."""
    client, _ = reader
    for path in ("/", "/check", "/nowhere"):
        assert "access-control-allow-origin" not in (await client.get(path)).headers
    assert (await client.options("/")).status_code == 405


# --- streams ---------------------------------------------------------------------------------------------------------


async def test_the_head_of_the_events_ends(client):
    """The headers of the stream, and no subscriber."""
    answer = await client.head("/events")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert answer.headers["cache-control"] == "no-store"
    assert serve.services.metrics.subscribers == 0


async def test_events_for_a_client_of_http_1_0(client):
    """It knows no chunks: what is new, an end, and when to come again."""
    host, port = str(client.base_url).removeprefix("http://").strip("/").split(":")
    for known, told in ((b"", True), (serve.services.swarm.snapshot_id.encode(), False)):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /events HTTP/1.0\r\nlast-event-id: " + known + b"\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"connection: close" in head.lower()
        assert b"chunked" not in head.lower()
        assert body.startswith(b"retry: ")
        assert (b"event: snapshot" in body) is told
        writer.close()


@asynccontextmanager
async def large_answers():
    """Yield the server and the port of one whose every answer is larger than any buffer: 30 MB."""
    served = PreparedResponse.make(bytes(LARGE), "application/octet-stream")

    async def app(scope, receive, send):
        await served(scope, receive, send)

    server_ = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, http=BoundedHttp, lifespan="off"))
    running = asyncio.create_task(server_.serve())
    while not server_.started:
        await asyncio.sleep(0.01)
    try:
        yield server_, server_.servers[0].sockets[0].getsockname()[1]
    finally:
        server_.should_exit = True
        await running


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.real_parts
def test_a_reader_that_does_not_read_is_cut_off(loop, monkeypatch):
    """Its answer is not kept for ever; one that reads goes on, however slowly. On both kinds of event loop."""
    monkeypatch.setattr(connection_limits, "REQUEST_WITHIN", 0.2)
    monkeypatch.setattr(connection_limits, "UNREAD_WITHIN", 1.0)

    async def main():
        async with large_answers() as (server_, port):
            with socket.create_connection(("127.0.0.1", port)) as silent:
                silent.sendall(REQUEST)
                assert await read_at(port, 2**20, 0.05) == LARGE
                async with asyncio.timeout(20):
                    while server_.server_state.connections:
                        await asyncio.sleep(0.05)

    with asyncio.Runner(loop_factory=uvicorn.Config(lambda: None, loop=loop).get_loop_factory()) as runner:
        runner.run(main())


@pytest.mark.real_parts
async def test_an_answer_may_not_be_read_for_ever(monkeypatch):
    """Nor a bit at a time."""
    monkeypatch.setattr(connection_limits, "REQUEST_WITHIN", 0.2)
    monkeypatch.setattr(connection_limits, "READ_WITHIN", 1.0)
    async with large_answers() as (_, port), asyncio.timeout(30):
        assert await read_at(port, 2**16, 0.05) < LARGE


async def read_at(port, size, every):
    """Ask, read so many bytes each time until no more come, and return how many there were."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**21)
    writer.write(REQUEST)
    received = -len((await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n\r\n")[2])
    with suppress(ConnectionError):
        while received < LARGE and (part := await reader.read(size)):
            received += len(part)
            await asyncio.sleep(every)
    writer.close()
    return received
