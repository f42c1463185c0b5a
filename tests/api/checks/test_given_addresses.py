"""A multiaddr that a client gives is dialled as it is, and what is found there is never a verdict on the peer."""

import asyncio

import httpx
import pytest

from deploy.demo.simulated_server import Announcement, Model
from reachability_worker.given_addresses import AddressProber
from reachability_worker.metrics import WorkerMetrics
from shared.p2p.addresses import DialPrivate
from shared.reachability import Cause, DialOutcome
from tests.api.serving import serve
from tests.fakes import REACHED, REFUSED, FakeProber, peer_id
from tests.reachability_worker.simulated_worker import worker_on
from tests.reachability_worker.test_prober import prober_in

PEER = peer_id(1)
DIRECT = "/ip4/45.1.1.1/tcp/31330"


async def ask(url, *addresses, peer=PEER, path="/api/v1/is_reachable/", **query):
    async with httpx.AsyncClient(base_url=url, timeout=12) as http:
        return await http.get(path + peer, params={"address": addresses, **query})


def with_addresses(nodes, prober):
    return nodes, prober, AddressProber(nodes, check_timeout=5.0), None


@pytest.mark.swarm
async def test_a_server_is_found_at_its_address_before_the_swarm_knows_it(swarm, redis_url):
    """Wrong port, wrong peer, a relay without it and a private address are told apart; the swarm's verdict stays."""
    alone = swarm.start(Announcement(Model("demo", 4), 0, 4), announce=False, joins=False)
    known = swarm.start(Announcement(Model("demo", 4), 0, 4))
    its, others = (swarm.call(one.addresses())[0].rpartition("/p2p/")[0] for one in (alone, known))
    relay = swarm.initial_peers[0]
    async with serve(redis_url) as url:
        async with prober_in(swarm) as own, worker_on(redis_url, probers=with_addresses(*own)):
            both = (await ask(url, its, f"{others}", f"{relay}/p2p-circuit", "/ip4/127.0.0.1/tcp/9",
                              peer=alone.peer_id)).json()  # fmt: skip
            differs = (await ask(url, "/ip4/127.0.0.1/tcp/9", others, peer=known.peer_id)).json()
            after = (await ask(url, peer=alone.peer_id)).json()
            page = await ask(url, its, peer=alone.peer_id, path="/check/")
        async with prober_in(swarm, DialPrivate.NO) as own, worker_on(redis_url, probers=with_addresses(*own)):
            private = (await ask(url, "/ip4/10.0.0.1/tcp/1", peer=alone.peer_id)).json()["given"][0]
    found = {one["address"]: (one["verdict"], one["cause"]) for one in both["given"]}
    assert found.pop(its) == ("reachable", None)
    assert found.pop(others) == ("unreachable", "wrong_peer")
    assert found.pop("/ip4/127.0.0.1/tcp/9") == ("unreachable", "refused")
    assert found == {f"{relay}/p2p-circuit": ("unreachable", "relay_refused")}, "a bootstrap peer relays for nobody"
    assert (both["success"], both["cause"]) == (after["success"], after["cause"]) == (False, "no_address")
    assert "answers; the swarm knows no address of the peer" in both["difference"]
    assert differs["success"]
    assert differs["difference"] == (
        f"/ip4/127.0.0.1/tcp/9 does not answer; the swarm knows another, and reaches the peer there: {others}."
    )
    assert f"{its} answers: the peer proved its id there." in page.text
    assert "is not known to the swarm yet" in page.text
    assert (private["dialled"], private["verdict"], private["cause"]) == (False, "unknown", "not_dialable")
    assert "no public address" in private["message"]


async def test_what_is_found_at_a_given_address_is_no_verdict_on_the_peer(redis_url, redis):
    """However the two come together, in whichever process; each has a verdict to be used again, and a metric."""
    prober, metrics = FakeProber(REFUSED, delay=0.2), WorkerMetrics()
    prober.outcomes[f"{DIRECT}/p2p/{PEER}"] = (REACHED, 0.05)
    async with serve(redis_url) as one, serve(redis_url) as two, worker_on(redis_url, prober, metrics=metrics):
        first, *rest = await asyncio.gather(
            ask(one, DIRECT), ask(two, f"{DIRECT}/p2p/{PEER}"), ask(one), ask(two), ask(one, DIRECT, DIRECT)
        )
        later = [await ask(two), await ask(one, DIRECT)]
        stored = {key async for key in redis.scan_iter("reachability:verdict:*")}
    answers = [answer.json() for answer in (first, *rest, *later)]
    assert {(one["success"], one["cause"]) for one in answers} == {(False, "refused")}
    assert [[given["verdict"] for given in one["given"]] for one in answers] == [
        ["reachable"], ["reachable"], [], [], ["reachable"], [], ["reachable"],
    ]  # fmt: skip
    assert sorted(prober.looks) == sorted([PEER, f"{DIRECT}/p2p/{PEER}"]), "identical ones share one dial"
    assert len(stored) == 2
    counted = {one.name: one.value for family in metrics.registry.collect() for one in family.samples}
    assert (counted["petals_worker_checks_total"], counted["petals_worker_given_addresses_total"]) == (1, 1)


async def test_hostile_addresses_are_a_400_and_dial_nothing(redis_url):
    """On the page, whose text is pasted, they are told instead; so is who may give how many."""
    prober = FakeProber()
    other = f"{DIRECT}/p2p/{peer_id(2)}"
    async with worker_on(redis_url, prober):
        async with serve(redis_url) as url:
            bad = [await ask(url, text) for text in ("", "nonsense", other, "/ip4/1.2.3.4/tcp/80/ws", "x" * 3000)]
            many = await ask(url, *(f"/ip4/45.1.1.1/tcp/{port}" for port in range(1, 10)))
            assert prober.looks == []
            page = await ask(url, other, "<script>", path="/check/")
            pasted = await ask(url, path="/check", peer="", q=f"log: {DIRECT}/p2p/{PEER}, done")
        async with serve(redis_url, trusted_networks=[], rate_limit=4) as url:
            codes = [(await ask(url, DIRECT)).status_code for _ in range(3)]
    assert [(answer.status_code, answer.json()["detail"][:13]) for answer in (*bad, many)] == [
        (400, "Bad address: ")
    ] * 6
    assert f"names another peer than the one to be checked: {peer_id(2)}" in page.text
    assert "<script>" not in page.text.replace("<script src", "").replace("<script type", "")
    assert pasted.headers["location"].startswith(f"/check/{PEER}?address=%2Fip4")
    assert codes == [200, 200, 429], "an address counts as a check"


async def test_where_nobody_could_probe_the_503_has_what_was_found_at_the_given_address(redis_url):
    """A 503 stays one; and an address that nobody could dial does not "not answer"."""
    prober = FakeProber(DialOutcome.unknown(Cause.LOOKUP_UNFINISHED))
    prober.outcomes[f"{DIRECT}/p2p/{PEER}"] = (REACHED, 0.0)
    async with serve(redis_url) as url, worker_on(redis_url, prober, verdict_reuse=0.001):
        answer = await ask(url, DIRECT)
        prober.outcome, prober.outcomes[f"{DIRECT}/p2p/{PEER}"] = REACHED, (DialOutcome.unknown(Cause.NO_SLOT), 0.0)
        nobody = (await ask(url, DIRECT)).json()["given"][0]
    assert answer.status_code == 503
    assert f"{DIRECT} answers" in answer.json()["detail"]
    assert (nobody["dialled"], nobody["verdict"]) == (False, "unknown")
    assert "says nothing about it" in nobody["message"]
