"""Four errands of people, from first page to last word: a real Chromium on the real app, Redis and worker."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

from shared.reachability import Cause, DialOutcome, Stage
from shared.snapshot import PeerState, Verdict
from shared.store.connection import connect
from tests import page_snapshots as made
from tests.api.past import crawl
from tests.api.serving import serve
from tests.fakes import FakeProber
from tests.reachability_worker.simulated_worker import worker_on
from tests.redis_server import RedisServer
from tests.support.axe import violations
from tests.support.chromium import ARGUMENTS, CHROMIUM

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no Chromium here: apt-get install chromium"),
]

OLD, NEW, LOST, BEHIND_NAT = "keeps-on", "is-loading", "went-away", "behind-nat"
PLACE = "/ip4/45.33.32.156/tcp/31330"
TIMED_OUT = DialOutcome(Verdict.UNREACHABLE, Stage.DIAL, Cause.TIMEOUT, "i/o timeout", (PLACE,))
SMALLEST_TARGET = 24
"""Pixels: WCAG 2.2, 2.5.8."""


def swarm(taken_at, *, broken):
    """A usable model; and one that loses blocks 5–7, while a server loads them that a router hides."""
    usable = made.make_model("StableBeluga2-hf", 80, [made.make_server("a", 0, 40), made.make_server("b", 40, 80)])
    servers = [made.make_server(OLD, 0, 5)]
    if broken:
        servers.append(made.make_server(NEW, 4, 8, PeerState.JOINING))
        servers.append(made.make_server(BEHIND_NAT, 5, 8, PeerState.UNREACHABLE, multiaddrs=(PLACE,), quant_type="nf4"))
    else:
        servers.append(made.make_server(LOST, 5, 8))
    lonely = made.make_model("falcon-40b-hf", 8, servers, repository="https://huggingface.co/tiiuae/falcon-40b")
    empty = made.make_model("llama-2-70b-hf", 80, [made.make_server("c", 0, 40)])
    return made.make_snapshot([usable, lonely, empty], taken_at=taken_at)


class Monitor:
    """The app and a worker, in a loop and thread of their own: the browser's has its own loop."""

    def __init__(self, redis_url):
        self._ready, self._stop = threading.Event(), None
        self.url = ""
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(redis_url),))
        self._thread.start()
        assert self._ready.wait(60)

    async def _run(self, redis_url):
        self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
        redis = connect(redis_url, "tests")
        now = time.time()
        await crawl(redis, *(swarm(now - 60 * n, broken=n < 3) for n in range(5, -1, -1)))
        await redis.aclose()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(worker_on(redis_url, FakeProber(TIMED_OUT)))
            self.url = await stack.enter_async_context(serve(redis_url, stale_after_periods=60))
            self._ready.set()
            await self._stop.wait()

    def close(self):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def monitor():
    redis = RedisServer()
    redis.start()
    running = Monitor(redis.url)
    yield running
    running.close()
    redis.kill()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@contextmanager
def opened(browser, monitor, path="/", **context):
    """A page without script errors, and without a request to anyone else."""
    with browser.new_context(**context) as opened_context:
        page = opened_context.new_page()
        wrong = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        opened_context.on(
            "request",
            lambda request: (
                None if urlsplit(request.url).netloc == urlsplit(monitor.url).netloc else wrong.append(request.url)
            ),
        )
        page.goto(monitor.url + path)
        yield page
        assert wrong == []


def test_run_a_prompt(browser, monitor):
    """Typed, chosen by keyboard: why the model is broken, since when, whether it comes back, what to use instead."""
    with opened(browser, monitor) as page:
        card = page.locator(".model", has_text="falcon-40b").first
        expect(card).to_contain_text("It cannot be used now, but servers are joining.")
        expect(card).to_contain_text(re.compile(r"It has been found so for \d minutes"))
        page.fill("#ask-id", "falcon")
        expect(page.get_by_role("option").first).to_contain_text("falcon-40b")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text("falcon-40b")
        about = page.locator("#about")
        expect(about).to_contain_text("It cannot be used now, but servers are joining.")
        expect(about).to_contain_text("Blocks 5–7 have no online server.")
        expect(about).to_contain_text(f"{made.peer_id(LOST)[-6:]} (blocks 5–7) was not announced any more")
        expect(about).to_contain_text(f"{made.peer_id(NEW)[-6:]} is loading blocks 5–7")
        expect(about).to_contain_text(re.compile(r"It was last usable [3-9] minutes ago\."))  # tests take some, too
        expect(about.get_by_role("link", name="The incident")).to_be_visible()
        expect(page.locator("#use code")).to_contain_text(["pip install petals", "AutoDistributedModelForCausalLM"])
        about.get_by_role("link", name="StableBeluga2").click()
        expect(page.locator("#about")).to_contain_text("It can be used")
        expect(page.locator("#about")).to_contain_text("tokens/s for one user")
        expect(page.locator("#use pre").first).to_contain_text("name = 'petals-team/StableBeluga2'")
        expect(page.locator("#use").get_by_role("link", name="Petals’ documentation")).to_be_visible()


def test_help_with_a_gpu(browser, monitor):
    """Without script: what is missing comes first, and the command serves as many blocks of it as the GPU holds."""
    with opened(browser, monitor, java_script_enabled=False, viewport={"width": 1280, "height": 900}) as page:
        page.get_by_role("link", name="Lend a GPU", exact=True).click()
        first = page.locator(".places > li").first
        expect(first).to_contain_text("Blocks 40–79 need a server")
        expect(first.locator("pre")).to_contain_text("--block_indices 40:80")
        expect(page.locator(".gpus")).to_contain_text("StableBeluga2")
        page.select_option("#gpu", "8")
        page.get_by_role("button", name="Show commands").click()
        expect(page.locator("#gpu")).to_have_value("8")
        expect(page.locator(".places pre").first).to_contain_text(re.compile(r"--block_indices 40:[45]\d\b"))
        expect(page.locator(".places > li").first).to_contain_text("The command serves a part of them")


def test_operate_a_server(browser, monitor):
    """A pasted log line is checked; the verdict has the focus, the exact flags, and leads to what the swarm knows."""
    peer = made.peer_id(BEHIND_NAT)
    with opened(browser, monitor) as page:
        page.fill("#ask-id", f"Nov 25 13:20:09 [INFO] Running a server on ['/ip4/10.0.0.2/tcp/31330/p2p/{peer}']")
        page.get_by_role("button", name="Check it now").click()
        expect(page.locator("h1")).to_have_text(f"…{peer[-6:]} cannot be reached from here")
        expect(page.locator("h1")).to_be_focused()
        expect(page.locator(".steps .failed")).to_contain_text("Dial")
        expect(page.locator(".hero")).to_contain_text(
            f"you gave does not answer; the swarm knows another, which does not answer either: {PLACE}."
        )
        command = page.locator(".hero pre")
        expect(command).to_contain_text("run_server tiiuae/falcon-40b")
        expect(command).to_contain_text("--block_indices 5:8 --public_ip 45.33.32.156 --port 31330")
        page.get_by_role("link", name="What the swarm knows of it").click()
        expect(page.locator("h1")).to_contain_text("cannot be reached from here")
        expect(page.locator("#hero")).to_contain_text("No crawl has found it online since it was first seen")
        expect(page.locator(".s-claimed")).to_contain_text("the server announces")
        with page.expect_response("**/api/v1/servers/**") as answer:
            page.locator(".links a").first.click()
        assert answer.value.json()["peer_id"] == peer


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_with_a_screen_reader(browser, monitor, scheme):
    """A mistyped id is kept and corrected; headlines are spoken; what is tapped is large; axe finds nothing."""
    peer = made.peer_id(OLD)
    with opened(browser, monitor, viewport={"width": 390, "height": 844}, color_scheme=scheme) as page:
        expect(page.locator("h1")).to_have_attribute("aria-live", "polite")
        page.fill("#ask-id", peer[:-2])
        expect(page.get_by_role("option").first).to_contain_text(peer[-6:])
        page.get_by_role("button", name="Find it").click()
        expect(page.locator("#ask-id")).to_have_value(peer[:-2])
        expect(page.locator("main")).to_contain_text(
            "This looks like a peer id, but a part of it is missing or mistyped."
        )
        page.get_by_role("link", name=peer[-6:]).click()
        expect(page.locator("h1")).to_contain_text("is online")
        page.goto(f"{monitor.url}/servers/{made.peer_id('nobody')}")
        expect(page.locator("h1")).to_contain_text("is not known here")
        for path in ("/", "/help?gpu=24", "/models/falcon-40b-hf", "/search?q=falcon-40", "/glossary"):
            page.goto(monitor.url + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            small = page.evaluate(
                """least => [...document.querySelectorAll(
                    'button, input, select, summary, nav a, footer a, .counts a, .c-id a, .hits a')]
                    .filter(e => e.checkVisibility() && !e.closest('.hide') && e.getBoundingClientRect().height < least)
                    .map(e => e.outerHTML)""",
                SMALLEST_TARGET,
            )
            assert small == [], path
            columns = page.evaluate("[...document.querySelectorAll('.rows th')].map(e => e.checkVisibility())")
            assert all(columns), path
            assert violations(page) == ""
        page.set_viewport_size({"width": 320, "height": 640})
        assert page.locator("nav a").last.evaluate("e => e.getBoundingClientRect().right") <= 320
