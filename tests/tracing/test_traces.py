"""Traces of the real processes, as a collector that they send to gets them."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from contextlib import closing

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.http.request_spans import RequestSpans
from deploy.embedded_redis import free_port
from reachability_worker.job import read_check
from shared import tracing
from shared.reachability import CHECK_FUNCTION
from shared.tracing import NO_SPAN, sane, span
from tests.fakes import peer_id
from tests.reliability.parts import ROOT, get, until
from tests.tracing.collector import Collector

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
IS_REACHABLE = "/api/v1/is_reachable/{peer_id:path}"
HOSTILE = (
    "", "00", TRACEPARENT.upper(), TRACEPARENT + "-00", TRACEPARENT + "\n", " " + TRACEPARENT, "ff" + TRACEPARENT[2:],
    f"00-{'0' * 32}-{CALLER}-01", f"00-{TRACE}-{'0' * 16}-01", "00-" + "g" * 32 + f"-{CALLER}-01", "é" * 55, "x" * 9999,
)  # fmt: skip

pytestmark = pytest.mark.timeout(120)


def until_a_worker_looks(url, peer):
    return until(lambda: get(f"{url}/api/v1/is_reachable/{peer}")[0] == 200, 30, "a verdict")


def span_of(collector, name, **attributes):
    """The one span of this name that has these attributes (`__` for a dot)."""
    wanted = {key.replace("__", "."): value for key, value in attributes.items()}
    (found,) = collector.wait_for(
        lambda span: span.name == name and wanted.items() <= span.attributes.items(), f"{name} {wanted}"
    )
    return found


def children(collector, parent, names):
    """The spans below another, once all the named ones have come."""
    for name in names:
        collector.wait_for(lambda span, name=name: (span.parent_id, span.name) == (parent.span_id, name), name)
    found = [span for span in collector.spans if span.parent_id == parent.span_id]
    return {span.name: span for span in found}


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.real_parts
def test_nothing_of_opentelemetry_is_loaded_unless_it_is_asked_for(installed):
    """Traces cost nothing where they are off: no exporter, no SDK for traces, no span.

    redis-py looks for OpenTelemetry's metrics by itself, so where the extra is installed parts of it are loaded.
    """
    code = (
        "import sys\n"
        f"if not {installed}: sys.modules['opentelemetry'] = None\n"
        "import api.app, api.__main__, crawler.__main__, reachability_worker.__main__\n"
        "from api.settings import ApiSettings\n"
        "from shared import tracing\n"
        "tracing.start(ApiSettings().otel_exporter_otlp_endpoint, 'api')\n"
        "api.app.create_app(ApiSettings())\n"
        "for name in ('shared.otel', 'opentelemetry.exporter', 'opentelemetry.sdk.trace', 'requests'):\n"
        "    assert name not in sys.modules, name\n"
        "loaded = [name for name in sys.modules if name.startswith('opentelemetry.')]\n"
        f"assert {installed} or not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env={"PATH": os.environ["PATH"]})
    with span("work") as none:
        assert none is NO_SPAN
        assert none.traceparent == none.trace_id == ""


@pytest.mark.real_parts
def test_without_the_extra_it_says_so_and_goes_on():
    """An endpoint that nothing can send to is the operator's mistake, and no reason to be down."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from shared import tracing\n"
        "tracing.start('http://127.0.0.1:1', 'api')\n"
        "assert tracing.current() is tracing.NO_SPAN\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "[tracing] is not installed" in done.stdout + done.stderr


@pytest.mark.swarm
def test_one_trace_goes_from_the_caller_through_api_queue_and_worker_to_the_dials_stages(
    collector, start, start_api, swarm, live
):
    """Real processes, real Redis, a real peer: each span's parent is the one that asked for it.

    A request that shares the look keeps its own trace, and points to the look that answered it.
    """
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    start("reachability_worker", INITIAL_PEERS=",".join(swarm.initial_peers), VERDICT_REUSE="30", **traced)
    _, url = start_api(**traced)
    until_a_worker_looks(url, live.peer_id)
    time.sleep(0.3)
    collector.spans.clear()
    headers = {"traceparent": TRACEPARENT, "tracestate": "a=b", "X-Request-ID": "caller-0001"}
    answer = httpx.get(f"{url}/api/v1/is_reachable/{live.peer_id}?fresh=1", headers=headers, timeout=10)
    assert answer.json()["success"] is True

    request = span_of(collector, f"GET {IS_REACHABLE}", petals__request_id="caller-0001")
    assert (request.service, request.kind, request.failed) == ("petals-monitor-api", "server", False)
    assert (request.trace_id, request.parent_id) == (TRACE, CALLER)
    assert request.attributes["http.request.method"] == "GET"
    assert request.attributes["http.route"] == IS_REACHABLE
    assert request.attributes["http.response.status_code"] == 200
    admit = children(collector, request, ["admit reachability-default"])["admit reachability-default"]
    assert (admit.kind, admit.trace_id) == ("producer", TRACE)
    assert admit.attributes["petals.admission"] == "began"
    process = children(collector, admit, ["process reachability-default"])["process reachability-default"]
    assert (process.service, process.kind) == ("petals-monitor-reachability-worker", "consumer")
    assert process.trace_id == TRACE
    assert process.attributes["messaging.message.id"] == admit.attributes["messaging.message.id"]
    assert process.attributes["petals.verdict"] == "reachable"
    assert process.attributes["petals.request_id"] == "caller-0001"
    dial = children(collector, process, ["dial"])["dial"]
    stages = children(collector, dial, ["lookup", "dial", "protocol"])
    assert dial.start <= stages["lookup"].start + 0.01
    assert stages["lookup"].end <= stages["dial"].start + 1e-6
    assert stages["dial"].end <= stages["protocol"].start + 1e-6
    assert stages["protocol"].end <= dial.end + 0.01

    _, another = start_api(**traced)
    answer = httpx.get(f"{another}/api/v1/is_reachable/{live.peer_id}", headers={"X-Request-ID": "second"}, timeout=10)
    assert answer.json()["success"] is True
    second = span_of(collector, f"GET {IS_REACHABLE}", petals__request_id="second")
    assert second.trace_id != TRACE
    assert second.links == [(TRACE, process.span_id)]
    assert request.links == []


def test_a_strangers_trace_is_linked_to_and_not_joined(collector, start_api):
    """Nobody outside puts spans into a trace of his choice, or switches recording on or off."""
    _, url = start_api(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, TRUSTED_NETWORKS="10.0.0.0/8")
    for number, given_trace in enumerate((TRACEPARENT, TRACEPARENT[:-2] + "00")):
        httpx.get(f"{url}/check", headers={"traceparent": given_trace, "X-Request-ID": f"stranger-{number}"})
        page = span_of(collector, "GET /check", petals__request_id=f"stranger-{number}")
        assert page.trace_id != TRACE
        assert page.parent_id == ""
        assert page.links == [(TRACE, CALLER)]


def test_hostile_headers_and_paths_make_ordinary_spans(collector, start_api):
    """Whatever is sent: bounded attributes, route names and not paths, and nothing taken over that is no trace."""
    _, url = start_api(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    for number, given_trace in enumerate(HOSTILE):
        headers = {"traceparent": given_trace.encode(), "X-Request-ID": f"hostile-{number}"}
        try:
            httpx.get(f"{url}/check", headers=headers)
        except httpx.LocalProtocolError:
            continue  # the client itself refuses to send a line break
        page = span_of(collector, "GET /check", petals__request_id=f"hostile-{number}")
        assert (page.parent_id, page.links) == ("", [])
        assert page.trace_id != TRACE
    twice = [("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT), ("X-Request-ID", "twice")]
    httpx.get(f"{url}/check", headers=twice)
    assert span_of(collector, "GET /check", petals__request_id="twice").trace_id != TRACE
    httpx.request("PROPFIND", f"{url}/{'a' * 5000}", headers={"X-Request-ID": "brewed"})
    brewed = span_of(collector, "_OTHER", petals__request_id="brewed")
    assert len(brewed.attributes["url.path"]) == 256
    assert "http.route" not in brewed.attributes
    get(url + "/livez")
    assert not [span for span in collector.spans if span.attributes.get("url.path") == "/livez"]


@pytest.mark.real_parts
async def test_a_failure_of_ours_is_a_500(collector, monkeypatch):
    """With what was raised, for whoever has to mend it."""

    async def broken(scope, receive, send):
        raise RuntimeError("a mistake")

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    tracing.start(collector.url, "api")
    scope = {"type": "http", "method": "GET", "path": "/x", "scheme": "http", "headers": [], "client": None}
    with pytest.raises(RuntimeError):
        await RequestSpans(broken, ())(scope, None, None)
    await asyncio.to_thread(tracing.stop)
    failed = span_of(collector, "GET", url__path="/x")
    assert failed.failed
    assert failed.attributes["http.response.status_code"] == 500


@pytest.mark.swarm
def test_each_crawl_is_one_trace_with_its_phases(collector, start, swarm, live):
    """And the log line of a crawl names its trace."""
    crawler = start(
        "crawler", INITIAL_PEERS=",".join(swarm.initial_peers), CRAWL_PERIOD="2",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
    )  # fmt: skip
    collector.wait_for(lambda span: len({s.trace_id for s in collector.spans if s.name == "crawl"}) > 1, "two crawls")
    crawl = next(span for span in collector.spans if span.name == "crawl")
    phases = children(collector, crawl, ["join", "look_up", "dial", "publish", "record"])
    assert {span.trace_id for span in phases.values()} == {crawl.trace_id}
    assert crawl.parent_id == ""
    assert crawl.attributes["petals.servers"] == 1
    lines = [json.loads(line) for line in crawler.log.read_text().splitlines()]
    assert crawl.trace_id in {line["trace_id"] for line in lines if line["event"] == "crawled"}


@pytest.fixture(params=["refusing", "silent"])
def dead_collector(request):
    """The port of a collector that is not there, or that takes connections and never answers."""
    if request.param == "refusing":
        yield free_port()
        return
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        yield silent.getsockname()[1]


def test_a_collector_that_is_away_costs_spans_and_nothing_else(dead_collector, start_api):
    """Requests are answered as ever, it is said once, and the process ends when it is told to."""
    api, url = start_api(
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{dead_collector}", OTEL_EXPORTER_OTLP_TIMEOUT="1",
        OTEL_BSP_MAX_QUEUE_SIZE="100", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="50",
    )  # fmt: skip
    with httpx.Client(base_url=url) as client:
        assert {client.get("/check").status_code for _ in range(400)} == {200}
    until(lambda: api.said("the trace collector does not take spans"), 20, "it says so")
    os.kill(api.pid, signal.SIGTERM)
    until(lambda: api.process.poll() is not None, 12, "the api ends")
    assert api.log.read_text().count("trace collector") == 1
    assert "Traceback" not in api.log.read_text()


def test_a_collector_that_comes_back_gets_spans_again(start_api):
    """Nothing has to be restarted."""
    port = free_port()
    api, url = start_api(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", OTEL_EXPORTER_OTLP_TIMEOUT="1")
    get(url + "/check")
    until(lambda: api.said("the trace collector does not take spans"), 20, "it says so")
    collector = Collector(port)
    try:
        httpx.get(f"{url}/check", headers={"X-Request-ID": "afterwards"})
        span_of(collector, "GET /check", petals__request_id="afterwards")
        until(lambda: api.said("the trace collector takes spans again"), 10, "it says so")
    finally:
        collector.close()


def test_what_a_process_still_holds_is_sent_when_it_ends(collector, start_api):
    """SIGTERM loses no span, however long the batches are. A 503 stands out; a bad id does not."""
    api, url = start_api(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="60000")
    assert get(f"{url}/api/v1/is_reachable/{peer_id(1)}")[0] == 503
    assert get(f"{url}/api/v1/is_reachable/nonsense")[0] == 400
    assert collector.spans == []
    os.kill(api.pid, signal.SIGTERM)
    assert span_of(collector, f"GET {IS_REACHABLE}", http__response__status_code=503).failed
    assert not span_of(collector, f"GET {IS_REACHABLE}", http__response__status_code=400).failed


@given(st.text())
def test_what_is_sane_is_a_traceparent(text):
    """Nothing else reaches Redis, a log or the collector."""
    assert sane(text) in ("", text)
    assert len(sane(text)) in (0, 55)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_trace_in_redis_is_not_trusted_either(hostile):
    """The check is made all the same, without it."""
    packed = zlib.compress(json.dumps([CHECK_FUNCTION, None, [peer_id(1)], {}]).encode())
    check = read_check((f"{peer_id(1)}-ab".encode(), packed, 5000, b"id-1", hostile.encode()))
    assert (check.peer_id, check.traceparent) == (peer_id(1), "")
