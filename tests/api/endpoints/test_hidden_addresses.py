"""PEER_ADDRESSES=hidden: whoever asks for whatever, no answer tells where a peer is, nor does an error text in it."""

from __future__ import annotations

import time

import pytest
from msgspec.structs import replace

from api.hidden import report_without_addresses, status_without_addresses
from shared.inference import InferenceOutcome, ServerInference, Usability, UsabilityState
from shared.public.reports import ReportDocument, ReportIncident
from shared.reachability import Cause
from shared.snapshot import BootstrapPeer, CrawlStatus, Location, PeerState, ReachabilityIssue, Verdict
from tests.api.past import client_of, crawl
from tests.fakes import REACHED, REFUSED, FakeProber, model, peer_id, server, snapshot
from tests.reachability_worker.simulated_worker import worker_on

IP, PLACE = "203.0.113.77", "Zaandam"
ADDRESS = f"/ip4/{IP}/tcp/31330"
ERROR = f"all dials failed * [{ADDRESS}] dial tcp {IP}:31330: connect: connection refused"
ONE, BOOTSTRAP = peer_id(1), peer_id(9)
CHECKS = [f"/api/v1/is_reachable/{ONE}", f"/check/{ONE}", f"/api/v1/is_reachable/{ONE}?inference=1"]
PATHS = [
    "/", "/swarm.txt", "/models/demo", f"/servers/{ONE}", f"/servers/{BOOTSTRAP}", "/help", "/incidents", "/docs",
    "/incidents.atom", "/changes.atom", "/api/v1/state", "/api/v1/servers", "/api/v1/servers.csv",
    f"/api/v1/servers/{ONE}", f"/api/v1/servers/{BOOTSTRAP}", "/api/v1/changes", "/metrics", "/places",
    "/api/v1/models/demo", "/api/v1/incidents", *CHECKS,
]  # fmt: skip


FAILED = ServerInference(InferenceOutcome.FAILED, (0, 8), 1.0, detail=ERROR)


class Prober(FakeProber):
    """Its inference fails for want of a connection."""

    async def infer(self, peer, outcome, asked, deadline):
        return FAILED


def swarms():
    """A server that was reached, and then refused in three crawls; a refused bootstrap peer; a model without tokens."""
    refused = server(
        1, 0, 8, PeerState.UNREACHABLE, multiaddrs=(ADDRESS,), location=Location("NL", None, PLACE), error=ERROR,
        cause=Cause.REFUSED, verdict=Verdict.UNREACHABLE, inference=FAILED, adapter_inference=FAILED,
    )  # fmt: skip
    unusable = Usability(UsabilityState.UNUSABLE, 1.0, f"no server answered: {ERROR}")
    mute = model("mute", servers=(server(2, 0, 8, verdict=Verdict.REACHABLE),))
    now = time.time()
    whole = model("demo", blocks=8, servers=(server(1, 0, 8, verdict=Verdict.REACHABLE),))
    yield snapshot(whole, mute, taken_at=now - 181)
    for age in (121, 61, 1):
        yield snapshot(
            replace(model("demo", blocks=8, servers=(refused,)), usability=unusable),
            replace(mute, usability=replace(unusable, checked_at=now - age)),
            bootstrap_peers=(BootstrapPeer(BOOTSTRAP, (ADDRESS,), Verdict.UNREACHABLE, ERROR),),
            reachability_issues=(ReachabilityIssue(ONE, f"It was refused. ({ERROR})", "Open the port."),
                                 ReachabilityIssue(BOOTSTRAP, ERROR, "")),
            taken_at=now - age,
        )  # fmt: skip


async def test_no_answer_tells_where_a_peer_is(redis, redis_url):
    """Pages, documents, text, lists, feeds, metrics, checks; what was found is told all the same."""
    refused = replace(REFUSED, addresses=(ADDRESS,), known=(ADDRESS,), error=ERROR)
    reached = replace(REACHED, addresses=(ADDRESS,), known=(ADDRESS,), reached_at=ADDRESS)
    await crawl(redis, *swarms())
    prober = Prober(refused)
    async with (
        worker_on(redis_url, prober, verdict_reuse=0.001),
        client_of(redis_url, peer_addresses="hidden") as http,
    ):
        answers = {path: await http.get(path, headers={"accept": "text/html"}) for path in PATHS}
        prober.outcome = reached
        answers |= {f"{path} reached": await http.get(path) for path in CHECKS}
    refusals = {path: answer.status_code for path, answer in answers.items() if answer.status_code != 200}
    assert refusals == {"/places": 404}
    assert [path for path, answer in answers.items() if IP in answer.text or PLACE in answer.text] == []
    issues = answers["/api/v1/state"].json()["reachability_issues"]
    assert [issue["err"] for issue in issues] == [
        "The connection was refused: nothing listens on the announced port.", "The monitor could not connect to it.",
    ]  # fmt: skip
    assert {"down", "outage"} <= {change["kind"] for change in answers["/api/v1/changes"].json()["changes"]}
    silent = next(one for one in answers["/api/v1/incidents"].json()["incidents"] if one["dht_prefix"] == "mute")
    assert silent["summary"] == "Its servers answer, but do not compute: no token comes out."


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("no bootstrap peer answered", "no bootstrap peer answered"),
        (f"at {ADDRESS}: None", "the crawl failed"),
        ("dial tcp [2001:db8::7]:4001: i/o timeout", "the crawl failed"),
        ("lookup host.example.org: no such host", "the crawl failed"),
        ("[/dns4/host.example.org/tcp/1]", "the crawl failed"),
        ("dial tcp 203.0.113", "the crawl failed"),
        (None, None),
    ],
)
def test_an_error_that_names_an_address_is_left_out(error, told):
    """Whole or cut, of IPv4, IPv6, or a host; all others stay."""
    assert status_without_addresses(CrawlStatus(1.0, ok=error is None, error=error)).error == told


def test_a_week_tells_its_incidents_without_addresses():
    """Reports are made by the crawler, and stay for years."""
    told = ReportIncident(id="1", dht_prefix="m", start=1.0, end=None, duration=9.0, summary="Its blocks lost servers.")
    report = ReportDocument(
        week="2026-W40", start=0.0, end=1.0, made_at=1.0, hours_looked=1, models=(), servers_online=1, server_hours=1.0,
        num_new_servers=0, new_servers=(), num_lost_servers=0, lost_servers=(), num_incidents=2,
        incidents=(told, replace(told, summary=ERROR)),
    )  # fmt: skip
    assert report_without_addresses(report).incidents == (told, replace(told, summary=""))
