"""What nginx does in front of the api: TLS, HTTP/2, encodings, events, its one-second cache, limits."""

from __future__ import annotations

import gzip
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import brotli
import httpx
from backports import zstd

from tests.proof.stack import Stack, expect, wait

if TYPE_CHECKING:
    from collections.abc import Iterator

ENCODINGS = {"zstd": zstd.decompress, "br": brotli.decompress, "gzip": gzip.decompress, "identity": bytes}
"""Each with what takes it back."""
FIRST_EVENT_WITHIN, NEXT_EVENT_WITHIN = 5.0, 45.0
"""Seconds. The demo swarm is crawled every fifteen."""
CROWD, CROWD_THREADS = 480, 8
STRANGER = "203.0.113.9"


def tls_and_http2_are_offered(stack: Stack) -> str:
    """By ALPN, with a certificate that is verified; pages and JSON are those of the plain port."""
    page, document = stack.secure.get("/", headers={"accept": "text/html"}), stack.secure.get("/api/v1/state")
    for answer in (page, document):
        expect(answer.status_code == httpx.codes.OK, f"{answer.url}: {answer.status_code}")
        expect(answer.http_version == "HTTP/2", f"{answer.url} came over {answer.http_version}")
        expect("strict-transport-security" in answer.headers, f"{answer.url}: no HSTS: {answer.headers}")
    expect(document.json()["model_reports"], "no models over TLS")
    expect("strict-transport-security" not in stack.get("/").headers, "HSTS over plain HTTP")
    stream = page.extensions["network_stream"].get_extra_info("ssl_object")
    return f"{page.http_version} over {stream.version()} for page and JSON, certificate verified"


def events_are_not_buffered(stack: Stack) -> str:
    """Over both ports: each arrives while the stream stays open."""
    told = []
    for name, client in (("HTTP/1.1", stack.client), ("HTTP/2", stack.secure)):
        started = time.monotonic()
        with client.stream("GET", "/events", timeout=NEXT_EVENT_WITHIN) as stream:
            expect(stream.http_version == name, f"events came over {stream.http_version}")
            events = (line for line in stream.iter_lines() if line == "event: snapshot")
            next(events)
            first = time.monotonic() - started
            expect(first < FIRST_EVENT_WITHIN, f"{name}: the first event took {first:.1f} s")
            next(events)
            told.append(f"{name}: first after {first * 1000:.0f} ms, next {time.monotonic() - started:.0f} s later")
    return "; ".join(told)


def encodings_are_passed_on_as_asked(stack: Stack) -> str:
    """The api compresses once; nginx keeps each encoding apart, and gives nobody another one's."""
    sizes: dict[str, int] = {}
    for _ in range(2):  # the second time from the cache
        for name, decode in ENCODINGS.items():
            with stack.secure.stream("GET", "/api/v1/state", headers={"accept-encoding": name}) as answer:
                raw = b"".join(answer.iter_raw())
            got = answer.headers.get("content-encoding", "identity")
            expect(got == name, f"asked for {name}, got {got}")
            expect("accept-encoding" in answer.headers.get("vary", "").lower(), f"{name}: no Vary")
            sizes[name] = len(raw)
            expect(json.loads(decode(raw))["model_reports"], f"{name} does not decode to the document")
    compressed = [size for name, size in sizes.items() if name != "identity"]
    expect(max(compressed) < sizes["identity"] / 2, f"compressed to nothing: {sizes}")
    return ", ".join(f"{name} {size} bytes" for name, size in sizes.items())


def one_request_a_second_reaches_an_api(stack: Stack) -> str:
    """A crowd on one page costs the apis next to nothing."""
    before, started = _answered_by_apis(stack), time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: stack.get("/swarm.txt"), range(100)))
    seconds = time.monotonic() - started
    reached = _answered_by_apis(stack) - before
    seen = {answer.headers["x-cache"] for answer in answers}
    expect({answer.status_code for answer in answers} == {httpx.codes.OK}, "not every visitor got the page")
    # One a second, and one for the second that had begun.
    expect(reached <= seconds + 2, f"{reached:.0f} of {len(answers)} requests reached an api in {seconds:.1f} s")
    return f"100 requests in {seconds:.1f} s: {reached:.0f} reached an api, the others {', '.join(sorted(seen))}"


def old_page_is_served_while_the_new_one_is_fetched(stack: Stack) -> str:
    """With every api frozen, one request waits for the new page, and the others get the old one at once."""
    apis = stack.containers("api")
    wait("the page is in the cache", lambda: stack.get("/swarm.txt").headers["x-cache"] == "HIT", 10)
    stack.docker("pause", *apis)
    try:
        time.sleep(2.2)  # fresh for a second, and nginx counts whole ones
        with ThreadPoolExecutor(1) as pool:
            fetching = pool.submit(stack.get, "/swarm.txt")
            time.sleep(0.5)
            started = time.monotonic()
            meanwhile = stack.get("/swarm.txt")
            took = time.monotonic() - started
            expect(not fetching.done(), "nobody waited for the new page: the apis were not frozen")
            stack.docker("unpause", *apis)
            fetched = fetching.result()
    finally:
        frozen = [one for one in apis if stack.inspect(one)["State"]["Paused"]]
        if frozen:
            stack.docker("unpause", *frozen)
    expect(meanwhile.status_code == httpx.codes.OK, f"meanwhile: {meanwhile.status_code}")
    expect(meanwhile.headers["x-cache"] == "UPDATING", f"meanwhile the cache said {meanwhile.headers['x-cache']}")
    expect(fetched.status_code == httpx.codes.OK, f"who fetched it got {fetched.status_code}")
    return f"UPDATING, in {took * 1000:.0f} ms; who fetched the new page got {fetched.headers['x-cache']}"


def no_client_chooses_its_own_address(stack: Stack) -> str:
    """Whatever header a client makes up: `your_ip` is where the connection comes from."""
    live = stack.peers("online")[0]
    honest = stack.check(live).json()["your_ip"]
    for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded"):
        value = f"for={STRANGER}" if name == "Forwarded" else f"{STRANGER}, 10.77.17.2"
        for client in (stack.client, stack.secure):
            told = client.get(f"/api/v1/is_reachable/{live}", headers={name: value}).json()["your_ip"]
            expect(told == honest, f"with {name}: {value} the address is {told}, not {honest}")
    return f"X-Forwarded-For, X-Real-IP and Forwarded change nothing: {honest}"


def last_page_outlives_every_api(stack: Stack) -> str:
    headers = {"Accept": "text/html", "Accept_Encoding": "identity"}
    stack.get("/", **headers)
    live = stack.peers("online")[0]
    old = stack.containers("api")
    stack.docker("stop", *old)
    time.sleep(3)
    page, check = stack.get("/", **headers), stack.check(live)
    stack.docker("start", *old)
    expect(page.status_code == httpx.codes.OK, f"with every api dead the page is {page.status_code}")
    expect(page.headers.get("x-cache") == "STALE", f"the page was not nginx's: {page.headers}")
    unavailable = httpx.codes.SERVICE_UNAVAILABLE
    expect(check.status_code == unavailable, f"with every api dead a check is {check.status_code}")
    expect(check.headers["content-type"] == "application/problem+json", f"it is {check.headers['content-type']}")
    seconds = wait("the page is fresh again", lambda: stack.get("/?fresh").is_success, 60)
    wait("checks again", lambda: stack.check(live).json()["success"], 60)
    return f"page 200 (stale), check 503; fresh {seconds:.1f} s after they came back"


def crowds_are_limited(stack: Stack) -> str:
    """By the address that connects: made-up ones in a header do not help. The refusal says why, and until when."""
    answers: list[httpx.Response] = []

    def burst(paths: Iterator[str]) -> None:
        answers.extend(stack.get(path, X_Forwarded_For=f"198.51.100.{n}") for n, path in enumerate(paths))

    live = stack.peers("online")[0]
    told = []
    for what, path in (("pages", "/swarm.txt?{}"), ("checks", f"/api/v1/is_reachable/{live}?{{}}")):
        answers.clear()
        each = CROWD // CROWD_THREADS
        threads = [
            threading.Thread(target=burst, args=((path.format(thread * each + n) for n in range(each)),))
            for thread in range(CROWD_THREADS)
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        statuses = {answer.status_code for answer in answers}
        refused = [answer for answer in answers if answer.status_code == httpx.codes.TOO_MANY_REQUESTS]
        expect(refused and statuses <= {200, 429}, f"{CROWD} {what} at once: {statuses}")
        for answer in refused:
            expect(answer.headers["content-type"] == "application/problem+json", f"refused as {answer.headers}")
            expect(int(answer.headers["retry-after"]) > 0, "refused without a Retry-After")
            problem = answer.json()
            told_why = problem["status"] == answer.status_code and "requests" in problem["detail"]
            expect(told_why, f"the refusal said {problem}")
        told.append(f"{len(refused)} of {CROWD} {what}")
    return f"429 to {' and '.join(told)} from one address: {refused[-1].json()['detail']}"


def _answered_by_apis(stack: Stack) -> float:
    """How many requests for the picture the apis have answered, ready bodies or not."""
    total = 0.0
    for container in stack.containers("api"):
        for line in stack.inside(container, "http://127.0.0.1:9101/metrics").splitlines():
            counted = line.startswith(("petals_api_requests_total{", "petals_api_cached_responses_total{"))
            if counted and "/swarm.txt" in line:
                total += float(line.rpartition(" ")[2])
    return total
