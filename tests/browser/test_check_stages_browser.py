"""A check in a real Chromium, against a real api and worker: its stages show, then the verdict has the focus."""

from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import async_playwright, expect

from tests.api.serving import serve
from tests.fakes import FakeProber, peer_id
from tests.reachability_worker.simulated_worker import worker_on
from tests.support.chromium import ARGUMENTS, CHROMIUM

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no Chromium here: apt-get install chromium"),
]


async def test_a_check_shows_its_stages_and_then_moves_to_the_verdict(redis_url):
    """The running stage is spoken; then the verdict is focused, under its own address, and going back leads back."""
    prober = FakeProber()
    prober.free.clear()
    async with (
        worker_on(redis_url, prober),
        serve(redis_url) as url,
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS) as browser,
    ):
        page = await browser.new_page()
        await page.goto(f"{url}/check")
        await page.locator("form.ask input").fill(peer_id(1))
        await page.get_by_role("button", name="Check it").click()
        await expect(page.locator("h1")).to_have_text(f"Checking …{peer_id(1)[-6:]}")
        await expect(page.locator(".steps .now b")).to_have_text("Dial")
        await expect(page.locator("#spoken")).to_contain_text("Dial")
        assert (await Axe().run(page)).violations_count == 0
        prober.free.set()
        await expect(page.locator("h1:focus")).to_contain_text("reach")
        await expect(page).to_have_url(f"{url}/check/{peer_id(1)}")
        await expect(page.locator("#spoken")).to_contain_text(peer_id(1)[-6:])
        await page.go_back()
        await expect(page.locator("h1")).to_have_text("Check a server")
        # A multiaddr shows its stages, too, and is dialled as it is.
        prober.free.clear()
        address = f"/ip4/45.1.1.1/tcp/1/p2p/{peer_id(2)}"
        await page.locator("form.ask input").fill(address)
        await page.get_by_role("button", name="Check it").click()
        await expect(page.locator(".steps .now b")).to_have_text("Dial")
        prober.free.set()
        await expect(page.locator(".hero")).to_contain_text(
            "/ip4/45.1.1.1/tcp/1 answers: the peer proved its id there."
        )
    assert sorted(prober.looks) == sorted([peer_id(1), peer_id(2), address]), "one check, not one more for its stages"
