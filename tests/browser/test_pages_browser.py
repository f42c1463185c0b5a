"""The pages in a real Chromium, under the CSP that the app sends: each test's docstring is its promise."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvicorn
from playwright.sync_api import expect, sync_playwright
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from api.endpoints.openapi import examples
from api.openapi import describe
from api.pages import Pages
from api.pages.badge import UNKNOWN
from api.pages.search import make_search
from api.pages.templating import STATIC_DIR
from deploy.embedded_redis import free_port
from shared.export_files import ExportFile, Form, Kind
from shared.public.contributors import ranking
from shared.public.data import DataDocument, DataFile
from shared.public.reports import ReportDocument, ReportIncident, ReportModel
from shared.resolve import Directory
from tests import page_snapshots as made
from tests.support.axe import violations
from tests.support.chromium import ARGUMENTS, CHROMIUM

CSP = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),  # one Chromium for all of them
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no Chromium here: apt-get install chromium"),
]


class Site:
    """The pages on a port of this machine, with events; `publish` is what the crawler's next snapshot does."""

    def __init__(self):
        self.pages = Pages()
        self.view = made.make_view(made.swarm_of_60())
        self.events_work = True
        self.closing = False
        self.change = None
        """The event that streams of changes carry."""
        self.fixed = _fixed_pages(self.pages)
        routes = [
            Route("/", self.overview),
            Route("/models/{dht_prefix:path}", self.model),
            Route("/servers/{peer_id:path}", self.server),
            Route("/fixed/{name}", self.fixed_page),
            Route("/events", self.events),
            Route("/badge/{dht_prefix:path}.svg", self.badge),
            Mount("/static", StaticFiles(directory=STATIC_DIR)),
        ]
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            Starlette(routes=routes), port=self.port, log_level="warning", ws="none", lifespan="off"
        )
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.uvicorn.run, daemon=True)

    def publish(self, snapshot, snapshot_id):
        self.view = made.make_view(snapshot, snapshot_id=snapshot_id)

    def _html(self, text):
        if text is None:
            text = self.pages.problem(404, "Not here", "The snapshot knows nothing of that name.")
        return HTMLResponse(text, headers={"Content-Security-Policy": CSP, "Cache-Control": "no-cache"})

    async def overview(self, request):
        return self._html(self.pages.overview(self.view))

    async def model(self, request):
        return self._html(self.pages.model(self.view, request.path_params["dht_prefix"]))

    async def server(self, request):
        return self._html(self.pages.server(self.view, request.path_params["peer_id"]))

    async def badge(self, request):
        return Response(UNKNOWN.svg(), media_type="image/svg+xml")

    async def fixed_page(self, request):
        return self._html(self.fixed[request.path_params["name"]])

    async def events(self, request):
        if not self.events_work:
            return HTMLResponse("gone", 404)

        async def stream():
            sent = told = carried = None
            carries_changes = bool(request.query_params)
            while not self.closing and not await request.is_disconnected():
                if sent != self.view.snapshot_id:
                    sent = self.view.snapshot_id
                    yield f"event: snapshot\ndata: {sent}\n\n"
                if self.view.status not in (None, told):
                    told = self.view.status
                    yield f"event: status\ndata: {told.attempted_at}\n\n"
                if carries_changes and carried != self.change:
                    carried = self.change
                    yield f"event: change\ndata: {carried}\n\n"
                await asyncio.sleep(0.05)

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _fixed_pages(pages):
    """Pages that no live swarm shows at will, by name."""
    small, checked = made.swarm_of_60(), made.peer_id("checked")
    known = next(s.peer_id for m in small.models for s in m.servers if s.state == "unreachable")
    one_model = made.make_snapshot(small.models[-1:])
    stale = made.make_view(one_model, made.failed_crawl(made.NOW + 220), now=made.NOW + 400, redis_connected=False)
    hostile, none = made.make_view(made.hostile_swarm()), made.make_view()
    views = {
        "waiting": pages.overview(none),
        "failed": pages.overview(made.make_view(status=made.failed_crawl())),
        "stale": pages.overview(stale),
        "private-empty": pages.overview(made.make_view(made.private_empty())),
        "hostile": pages.overview(hostile),
        "hostile-model": pages.model(hostile, hostile.snapshot.models[0].dht_prefix, history=made.model_past()),
        "hostile-server": pages.server(hostile, made.EVIL, history=made.server_past(made.EVIL)),
        "unreachable-server": pages.server(made.make_view(small), known),
        "problem": pages.problem(404, "No such server", "No server of that id.", [("QmNear", "/servers/QmNear")]),
        "data": pages.data(made.make_view(small), _export(), exports=True),
        "report": pages.report(hostile, _report()),
        "check": pages.check(),
        "glossary": pages.glossary(),
        "help": pages.help(made.make_view(small), gpu_gb=24),
        "hostile-help": pages.help(hostile),
        "search": pages.search(made.make_view(small), make_search(Directory.of(small).resolve("falcon"), small)),
        "check-refused": pages.check(peer_id=made.EVIL, problem="the peer id is not base58"),
    }
    listed = ranking(made.contributors(), None, made.NOW)
    views["contributors"] = pages.contributors(hostile, listed)
    views["contributor"] = pages.contributor(hostile, listed, made.EVIL) or ""
    outcomes = {
        "reached": (made.REACHED,),
        "timed-out": (made.TIMED_OUT, made.REACHED),
        "joining": (made.STILL_JOINING,),
        "unknown": (made.NOBODY_LOOKED,),
    }
    for name, outcome in outcomes.items():
        views[f"check-{name}"] = pages.check(peer_id=checked, answer=made.check_view(*outcome))
    for name, snapshot in (("docs", small), ("hostile-docs", hostile.snapshot), ("docs-waiting", None)):
        answers, fill = examples(snapshot, ())
        views[name] = pages.docs(describe(), answers, fill, base="https://example.org", rate_limit=120)
    views["places"] = pages.places(made.make_view(small))
    views["share"] = pages.share(small.models[0], "https://example.org")
    views["card"] = pages.embed(made.make_view(small), small.models[0])
    views["hostile-card"] = pages.embed(hostile, hostile.snapshot.models[0])
    return {name: text for name, text in views.items() if text is not None}


def _export():
    files = [ExportFile(kind, date(2026, 11, day), form) for day in range(25, 21, -1) for kind in Kind for form in Form]
    return DataDocument(
        tuple(
            DataFile(each.name, f"/data/{each.name}", each.kind, each.day.isoformat(), each.form, 143_500)
            for each in files
        )
    )


def _report():
    name = made.hostile_swarm().models[0].dht_prefix
    outage = ReportIncident("a-1", name, 1_763_900_000, None, 5_400, f"Block 3 lost all servers: {name}.")
    return ReportDocument(
        week="2025-W48", start=1_763_942_400, end=1_764_547_200, made_at=1_764_555_000, hours_looked=160,
        models=(ReportModel("StableBeluga2-hf", True, 9_000, 0.987, 14.2, 230.5), ReportModel(name, False, 9, 0, 1, 0)),
        servers_online=1_214, server_hours=9_021.5, num_new_servers=70, new_servers=(made.peer_id("new"), made.EVIL),
        num_lost_servers=1, lost_servers=(made.peer_id("lost"),), num_incidents=1, incidents=(outage,),
        thanks={"https://example.org": 80.5, name: 3.0},
    )  # fmt: skip


FIXED = [
    *("waiting", "failed", "stale", "private-empty", "hostile", "hostile-model", "hostile-server"),
    *("contributors", "contributor"),
    *("unreachable-server", "problem", "check", "check-refused", "glossary", "help", "hostile-help", "search"),
    *("data", "report"),
    *("docs", "hostile-docs", "docs-waiting", "places", "share", "card", "hostile-card"),
    *("check-reached", "check-timed-out", "check-joining", "check-unknown"),
]
AXE_AT = {"/fixed/docs": 390, "/fixed/hostile-docs": 1440, "/fixed/docs-waiting": 390}
"""Widths at which axe looks at these alone: the description of the API takes it seconds of a core each time."""
PATHS = ["/", "/models/StableBeluga2-hf", "/models/falcon-180B-chat", *(f"/fixed/{name}" for name in FIXED)]


@pytest.fixture(scope="module")
def site():
    running = Site()
    running.thread.start()
    deadline = time.monotonic() + 60
    while not running.uvicorn.started:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield running
    running.closing = True
    running.uvicorn.should_exit = True
    running.thread.join(60)
    assert not running.thread.is_alive()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(autouse=True)
def _first_snapshot(site):
    site.publish(made.swarm_of_60(), "1-0")
    site.events_work = True
    site.change = None


@contextmanager
def watched(page, site):
    """It must not tell a console error, a script error or a dialog meanwhile, or ask anybody else for anything."""
    wrong = []
    listeners = {
        "console": lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None,
        "pageerror": lambda error: wrong.append(str(error)),
        "dialog": lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()),
        "request": lambda request: None if urlsplit(request.url).port == site.port else wrong.append(request.url),
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    try:
        yield
        assert wrong == []
    finally:
        for event, listener in listeners.items():
            page.remove_listener(event, listener)


def visit(page, site, path):
    response = page.goto(site.url + path)
    assert response is not None
    assert response.headers["content-security-policy"] == CSP


@contextmanager
def opened(browser, site, path, **context):
    """A page of its own, watched from its beginning to its end."""
    opened_context = browser.new_context(**context)
    page = opened_context.new_page()
    try:
        with watched(page, site):
            visit(page, site, path)
            yield page
    finally:
        opened_context.close()


@pytest.fixture(scope="module")
def pages(browser):
    """One page with and one without scripts (by `java_script_enabled`), for all that only look."""
    contexts = {scripts: browser.new_context(java_script_enabled=scripts) for scripts in (True, False)}
    yield {scripts: context.new_page() for scripts, context in contexts.items()}
    for context in contexts.values():
        context.close()


def seen(page, width, scheme):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)


WIDTHS = """() => {
    const width = element => element.getBoundingClientRect().width;
    return [[...document.querySelectorAll('h1')].map(width), width(document.documentElement)];
}"""
"""Of each heading, and of the whole page: asked at once, since each question costs as much as the page itself."""


def fits(page, width):
    """It has one heading, and as a whole never scrolls sideways."""
    ((heading,), whole) = page.evaluate(WIDTHS)
    assert 0 < heading <= width
    assert 0 < whole <= width


@pytest.mark.parametrize("path", PATHS)
def test_every_view_is_quiet_fits_and_is_accessible(pages, site, path):
    """On a phone in the dark and a desktop in the light: no error, no overflow, nothing that axe complains of."""
    page = pages[True]
    with watched(page, site):
        seen(page, 390, "dark")
        visit(page, site, path)
        for width, scheme in ((390, "dark"), (1440, "light")):
            seen(page, width, scheme)
            fits(page, width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true })")
            if AXE_AT.get(path, width) == width:
                assert violations(page) == ""


@pytest.mark.parametrize("path", PATHS)
def test_every_view_is_quiet_and_fits_without_script(pages, site, path):
    """On a phone in the light and a desktop in the dark."""
    page = pages[False]
    with watched(page, site):
        visit(page, site, path)
        for width, scheme in ((390, "light"), (1440, "dark")):
            seen(page, width, scheme)
            fits(page, width)


def test_without_script_the_model_page_lists_all_servers(browser, site):
    """A reader without JS has the whole table, and no tools that would do nothing."""
    with opened(browser, site, "/models/StableBeluga2-hf", java_script_enabled=False) as page:
        assert page.locator("#rows tr").count() == 24
        expect(page.locator("#tools")).to_be_hidden()
        expect(page.locator("footer time")).to_contain_text("UTC")


def test_search_filter_and_sort(browser, site):
    """The table is searched, filtered and sorted, and the address says how, so that it can be passed on."""
    with opened(browser, site, "/models/StableBeluga2-hf") as page:
        shown = page.locator("#rows tr:not([hidden])")
        # Typed text and clicks reach the page a moment after they were sent.
        page.fill("#block", "79")
        expect(shown).to_have_count(sum(one.span.end == 80 for one in site.view.snapshot.models[0].servers))
        assert all(cell.endswith("79") for cell in shown.locator(".c-span").all_inner_texts())
        page.fill("#block", "")
        expect(shown).to_have_count(24)
        page.select_option("#state", "online")
        expect(shown.filter(has=page.locator(".c-state", has_not_text="online"))).to_have_count(0)
        assert set(shown.locator(".c-state").all_inner_texts()) == {"online"}
        page.get_by_role("button", name="Tokens/s").click()
        expect(page.locator("th.c-rps")).to_have_attribute("aria-sort", "descending")
        speeds = [float(cell.replace(",", "")) for cell in shown.locator(".c-rps").all_inner_texts()]
        assert speeds == sorted(speeds, reverse=True)
        needle = shown.locator(".c-id").first.inner_text()
        page.fill("#q", needle)
        expect(shown).to_have_count(1)
        expect(page).to_have_url(re.compile(r"#\?q=.+&state=online&sort=-rps$"))
        address = page.url
        page.goto(site.url)
        page.goto(address)
        expect(shown).to_have_count(1)
        expect(page.locator("#q")).to_have_value(needle)
        page.get_by_role("button", name="Clear").click()
        expect(shown).to_have_count(24)
        expect(page).to_have_url(f"{site.url}/models/StableBeluga2-hf")


def test_times_are_local_with_utc_on_hover(browser, site):
    """The footer tells the age, and the reader's own time and UTC on hover."""
    with opened(browser, site, "/", timezone_id="Asia/Tokyo", locale="en-GB") as page:
        time_element = page.locator("footer time")
        expect(time_element).to_contain_text("ago")
        expect(time_element).to_have_attribute("title", re.compile(" · "))
        title = time_element.get_attribute("title")
        assert "UTC" in title
        assert "2025" in title
        assert title.split(" · ")[0] != title.split(" · ")[1]


def changed_swarm():
    """The swarm of 60 with one server more in its first model and one gone unreachable."""
    before = made.swarm_of_60()
    model = before.models[0]
    new = made.make_server("newcomer", 0, 4)
    gone = made.make_server("b1", 30, 60, made.PeerState.UNREACHABLE)
    kept = [server for server in model.servers if server.peer_id != gone.peer_id]
    changed = made.make_model("StableBeluga2-hf", 80, [*kept, gone, new])
    return made.make_snapshot([changed, *before.models[1:]]), new, gone


def test_live_update_keeps_what_the_reader_holds(browser, site):
    """A new snapshot changes the page in place: scroll, filter, sorting, focus and open details stay."""
    with opened(browser, site, "/models/StableBeluga2-hf", viewport={"width": 1440, "height": 500}) as page:
        page.wait_for_selector("#live.on")
        page.locator("#ping-matrix > summary").click()
        page.fill("#q", "2.")
        expect(page).to_have_url(f"{site.url}/models/StableBeluga2-hf#?q=2.")
        page.get_by_role("button", name="Tokens/s").click()
        expect(page.locator("th.c-rps")).to_have_attribute("aria-sort", "descending")
        row = page.locator("#rows tr:not([hidden]) a").nth(5)
        target = row.get_attribute("href")
        row.focus()
        page.evaluate("scrollTo({ top: 430, behavior: 'instant' })")
        top = row.bounding_box()["y"]
        snapshot, new, gone = changed_swarm()
        site.publish(snapshot, "2-0")
        expect(page.locator("body")).to_have_attribute("data-snapshot", "2-0")
        assert page.locator("#rows tr").count() == 25
        assert page.locator(f"#rows tr:has(a[href$='{gone.peer_id}'])").get_attribute("class") == "unreachable"
        assert page.locator(f"#rows tr:has(a[href$='{new.peer_id}'])").count() == 1
        assert page.input_value("#q") == "2."
        assert page.locator("th.c-rps").get_attribute("aria-sort") == "descending"
        speeds = [float(c.replace(",", "")) for c in page.locator("#rows tr:not([hidden]) .c-rps").all_text_contents()]
        assert speeds == sorted(speeds, reverse=True)
        assert page.evaluate("document.activeElement.getAttribute('href')") == target
        assert page.locator("#ping-matrix").get_attribute("open") is not None
        assert page.evaluate("scrollY") > 300
        # The row stays under the reader's eyes, give or take the rows that came and went above it.
        assert abs(page.locator(f"#rows a[href='{target}']").bounding_box()["y"] - top) <= 70


def test_live_update_of_the_overview(browser, site):
    """The overview's verdict and title follow the swarm; a half-typed peer id and folded tables are left alone."""
    with opened(browser, site, "/") as page:
        page.wait_for_selector("#live.on")
        page.fill("#ask-id", "1")
        folded = page.locator("details.servers").nth(1)
        was_open = folded.get_attribute("open") is not None
        folded.locator("summary").click()
        broken = made.make_snapshot([made.make_model("StableBeluga2-hf", 80, [made.make_server("b0", 0, 30)])])
        site.publish(changed_swarm()[0], "2-0")
        expect(page.locator("body")).to_have_attribute("data-snapshot", "2-0")
        assert (folded.get_attribute("open") is not None) != was_open
        site.publish(broken, "3-0")
        expect(page.locator("h1")).to_have_text("The swarm is broken")
        assert page.title().startswith("The swarm is broken")
        assert page.input_value("#ask-id") == "1"


def test_a_failed_crawl_is_told_on_open_pages(browser, site):
    """The snapshot stays the same, but its reader learns that the crawl after it failed."""
    snapshot = site.view.snapshot
    site.view = made.make_view(snapshot, made.failed_crawl(made.NOW - 100), snapshot_id="1-0")
    with opened(browser, site, "/") as page:
        page.wait_for_selector("#live.on")
        assert page.locator(".notice").count() == 0
        page.wait_for_timeout(200)
        site.view = made.make_view(snapshot, made.failed_crawl(made.NOW - 1), snapshot_id="1-0")
        expect(page.locator(".notice")).to_contain_text("The last crawl failed")


def test_polls_where_events_do_not_come_through(browser, site):
    """Without events the page says so and asks by itself, as often as the crawler crawls."""
    site.events_work = False
    context = browser.new_context()
    page = context.new_page()
    page.clock.install()
    page.goto(site.url)
    expect(page.locator("#live")).to_have_text("Updates every 60 s")
    snapshot, _, _ = changed_swarm()
    site.publish(snapshot, "2-0")
    page.clock.run_for(70_000)
    expect(page.locator("body")).to_have_attribute("data-snapshot", "2-0")
    context.close()


def test_a_hidden_page_asks_for_nothing(browser, site):
    """A page in the background closes its events and catches up when it is looked at again."""
    with opened(browser, site, "/") as page:
        page.wait_for_selector("#live.on")
        page.evaluate(
            "Object.defineProperty(document, 'hidden', { get: () => window.away, configurable: true });"
            "window.away = true; document.dispatchEvent(new Event('visibilitychange'))"
        )
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        site.publish(changed_swarm()[0], "2-0")
        page.wait_for_timeout(2500)
        assert asked == []
        page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("body")).to_have_attribute("data-snapshot", "2-0")


def test_a_search_in_a_thousand_rows_touches_each_once(browser, site):
    """A keystroke hides or shows each row at most once and moves none of them, so that 1,000 servers stay smooth."""
    site.publish(made.swarm_of(2000), "1-0")
    with opened(browser, site, "/models/model-0-hf", viewport={"width": 1440, "height": 900}) as page:
        assert page.locator("#rows tr").count() == 1000
        changes = page.evaluate("""() => {
            const field = document.getElementById('q'), seen = new MutationObserver(() => {});
            seen.observe(document.getElementById('rows'), { attributes: true, childList: true, subtree: true });
            return ['2', '2.3', '2.3.0', ''].map((text) => {
                field.value = text;
                field.dispatchEvent(new Event('input', { bubbles: true }));
                const records = seen.takeRecords();
                return [records.length, records.filter((record) => record.type !== 'attributes').length];
            });
        }""")
        assert all(0 <= touched <= 1000 and moved == 0 for touched, moved in changes)
        assert sum(touched for touched, _ in changes) > 0


def test_the_keyboard_reaches_everything(browser, site):
    """The first Tab offers to skip to the content, and what has the focus is seen to have it."""
    with opened(browser, site, "/") as page:
        page.keyboard.press("Tab")
        skip = page.locator(".skip")
        expect(skip).to_be_focused()
        assert skip.bounding_box()["y"] >= 0
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


WATCHED = ("/", "/models/StableBeluga2-hf", "/fixed/unreachable-server", "/fixed/contributor")


def test_what_is_watched_tells_in_title_and_icon(browser, site):
    """A change is counted in the title, marks the icon and is read out; it is still watched after a reload."""
    with opened(browser, site, WATCHED[0]) as page:
        for path in WATCHED:
            site.change = None
            visit(page, site, path)
            button, icon = page.get_by_role("button", name="Watch"), page.locator('link[rel="icon"]')
            quiet, title = icon.get_attribute("href"), page.title()
            button.click()
            page.reload()
            expect(button).to_have_attribute("aria-pressed", "true")
            change = {"id": path, "title": "Server …abc is unreachable", "text": f"Since {time.time()}."}
            site.change = json.dumps(change)
            expect(page.locator(".watch [role=status]")).to_contain_text("Server …abc is unreachable. Since")
            expect(page).to_have_title(f"(1) {title}")
            expect(icon).to_have_attribute("href", re.compile("favicon-alert"))
            button.click()
            expect(page).to_have_title(title)
            expect(icon).to_have_attribute("href", re.compile(re.escape(quiet.rpartition("/")[2]) + "$"))
            page.reload()
            expect(button).to_have_attribute("aria-pressed", "false")


def test_watching_without_script_is_a_feed(browser, site):
    """The link leads to the feed of what the page shows, and there is no button that does nothing."""
    with opened(browser, site, "/models/StableBeluga2-hf", java_script_enabled=False) as page:
        assert page.locator(".watch a").get_attribute("href") == "/changes.atom?model=StableBeluga2-hf"
        assert page.locator(".watch button").count() == 0
