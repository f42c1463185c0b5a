"""What the pages promise, read out of the HTML that they produce."""

from __future__ import annotations

import gzip
import time
from html.parser import HTMLParser

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.hidden import snapshot_without_addresses, status_without_addresses
from api.pages import Pages, text
from api.pages.search import make_search, named
from shared import words
from shared.incidents import Incident
from shared.public.data import DataDocument
from shared.reachability import Stage
from shared.snapshot import CrawlProgress, CrawlStatus, PeerState, Verdict
from shared.words import block_range
from tests import page_snapshots as made
from tests.fakes import resolve

VOID = {"meta", "link", "img", "br", "input"}


SCRIPTS = ["/static/app.js", "/static/check.js"]


class Page(HTMLParser):
    """A page's elements, and its text as a reader sees it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and all(value in (attributes.get(key.rstrip("_")) or "") for key, value in wanted.items())
        ]


@pytest.fixture(scope="module")
def pages() -> Pages:
    return Pages()


@pytest.fixture(scope="module")
def small():
    return made.swarm_of_60()


def every_page(pages: Pages) -> dict[str, str]:
    """One of each page in each of its states."""
    found = {
        "nothing": pages.overview(made.make_view()),
        "no-redis": pages.overview(made.make_view(redis_connected=False)),
        "failed": pages.overview(made.make_view(status=made.failed_crawl())),
        "private": pages.overview(made.make_view(made.private_empty())),
        "problem": pages.problem(
            404, made.EVIL, made.EVIL, [(made.EVIL, "/servers/x"), ("bad", "javascript:alert(9)")]
        ),
        "check": pages.check(),
        "glossary": pages.glossary(),
        "no-help": pages.help(made.make_view()),
        "check-problem": pages.check(peer_id=made.EVIL, problem=made.EVIL),
    }
    for name, snapshot in {"small": made.swarm_of_60(), "hostile": made.hostile_swarm()}.items():
        view = made.make_view(snapshot, made.failed_crawl(made.NOW + 1), now=made.NOW + 900)
        found[f"{name}-stale"] = pages.overview(view)
        view = made.make_view(snapshot)
        found[name] = pages.overview(view)
        found[f"{name}-help"] = pages.help(view, gpu_gb=24)
        for asked in (made.EVIL, "falcon", snapshot.models[0].servers[0].peer_id[-6:]):
            search = make_search(resolve(asked, snapshot), snapshot)
            found[f"{name}-search-{asked}"] = pages.search(view, search)
            found[f"{name}-to-check-{asked}"] = pages.check(search=search)
        for model in snapshot.models:
            found[f"{name}-model-{model.dht_prefix}"] = pages.model(view, model.dht_prefix) or ""
            for server in model.servers:
                found[f"{name}-server-{server.peer_id}"] = pages.server(view, server.peer_id) or ""
    for outcome in (made.REACHED, made.TIMED_OUT, made.STILL_JOINING, made.NOBODY_LOOKED):
        answer = made.check_view(outcome, msgspec.structs.replace(outcome, error=made.EVIL, addresses=(made.EVIL,)))
        found[f"check-{outcome.verdict}-{outcome.stage}"] = pages.check(peer_id=made.EVIL, answer=answer)
    return found


@pytest.fixture(scope="module")
def all_pages(pages) -> dict[str, str]:
    return every_page(pages)


# --- Every page ---


def test_every_page_is_whole_and_fits_the_csp(all_pages):
    """Balanced tags, one h1, unique ids, no inline style or script, no handler, nothing from elsewhere."""
    assert len(all_pages) > 80
    for name, html in all_pages.items():
        page = Page(html)
        assert page.unbalanced == [], name
        assert page.open == [], name
        assert len(page.all("h1")) == 1, name
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids)), name
        for tag, attributes in page.elements:
            assert tag != "style", name
            assert "style" not in attributes, name
            assert not [key for key in attributes if key.startswith("on")], name
        scripts = [script["src"].split("?")[0] for script in page.all("script")]
        assert scripts in (SCRIPTS, [*SCRIPTS, "/static/watch.js"]), name
        own = ("/static/", "/incidents.atom", "/changes.atom")
        assert all(link["href"].startswith(own) for link in page.all("link")), name
        assert all(image["src"].startswith("/static/") for image in page.all("img")), name


def test_every_page_is_labelled(all_pages):
    """A title, a language, a skip link to the content, and a name for each thing that aria refers to."""
    for name, html in all_pages.items():
        page = Page(html)
        assert page.all("html")[0]["lang"] == "en"
        assert page.all("a", class_="skip")[0]["href"] == "#main"
        assert "· Petals Health" in html.split("</title>")[0], name
        ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
        for _, attributes in page.elements:
            for key in ("aria-labelledby", "for"):
                assert set((attributes.get(key) or "").split()) <= ids, name
            if (attributes.get("href") or "").startswith("#") and attributes["href"] != "#":
                assert attributes["href"][1:] in ids, (name, attributes["href"])


def test_hostile_text_stays_text(all_pages):
    """No name becomes markup, no link leads anywhere but to http(s) or a page of the monitor, no trick is left in."""
    for name, html in all_pages.items():
        page = Page(html)
        assert "<script>alert" not in html, name
        assert "<img src=x" not in html, name
        assert not set(html) & set("\u202e\u202c\u200b\x00"), name
        for link in page.all("a"):
            href = link["href"]
            assert href.startswith(("/", "#", "http://", "https://")), (name, href)
            assert not href.startswith("//"), (name, href)
            if href.startswith("http"):
                assert "@" not in href.split("/")[2], (name, href)
                assert {"nofollow", "noopener", "ugc"} <= set(link["rel"].split()), (name, href)


def test_hostile_names_are_shown_cut_and_isolated(all_pages):
    """A reader sees what the liar wrote, as text, cut to a bearable length and set apart from the sentence."""
    page = Page(all_pages["hostile"])
    assert '"><script>alert(1)</script>' in page.text
    assert "javascript:alert(8)" in page.text
    assert max(len(word) for word in page.text.split()) <= 200
    assert len(page.all("bdi")) > 10


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "data:text/html,x",
        "//evil.example",
        "/local",
        "https://",
        "https://user@evil.example",
        "https://good.example\\@evil.example",
        "https://evil.example/\u202egnp",
        "https://evil.example/ x",
        "https://[::1",
        " https://evil.example",
        "ftp://evil.example",
        "h" * 5000,
        "",
        None,
    ],
)
def test_only_plain_http_addresses_become_links(url):
    """Anything but http(s) to a visible host stays text."""
    assert text.safe_link(url) is None


@given(st.text(max_size=200))
def test_any_text_makes_a_safe_anchor_and_address(name):
    """Ids hold ASCII letters, digits and dashes only; addresses are one path segment; both differ by name."""
    assert text.anchor(name).replace("-", "").isalnum()
    assert text.anchor(name).isascii()
    assert text.anchor(name) != text.anchor(name + "x")
    assert text.model_href(name).count("/") == 2
    assert not set(text.model_href(name)) & set("\"'<>#? ")


@given(st.floats(), st.floats())
@settings(deadline=None)
def test_any_number_and_time_can_be_written(one, other):
    """No float breaks a page: not infinite, not huge, not nan."""
    for value in (one, other):
        assert len(words.number(value)) <= 15
        assert words.milliseconds(value)
        assert words.utc(value).year >= 1970


# --- The overview ---


def test_first_crawl_running(pages):
    """Before anything is known the page says that the first crawl runs, and what to try if nothing comes."""
    page = Page(pages.overview(made.make_view()))
    assert "No snapshot yet: the first crawl is running" in page.text
    assert "INITIAL_PEERS" in page.text
    assert "make demo" in page.text


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (CrawlProgress("joining"), "It joins the swarm through its bootstrap peers."),
        (CrawlProgress("reading", 12, 3, 8), "which servers there are: 12 servers found, 3 of 8 dialled so far."),
        (CrawlProgress("dialling", 12, 7, 8), "It dials the servers: 12 servers found, 7 of 8 dialled so far."),
    ],
)
def test_first_crawl_says_how_far_it_is(pages, progress, words):
    """Until there are servers to show, the page says what is being done."""
    status = CrawlStatus(made.NOW, ok=True, progress=progress)
    assert words in Page(pages.overview(made.make_view(status=status))).text


def test_first_crawl_failed(pages):
    """Where the first crawl failed the page says why, what was tried, and what to do."""
    page = Page(pages.overview(made.make_view(status=made.failed_crawl())))
    assert "the first crawl failed" in page.text
    assert "No bootstrap peer answered." in page.text
    assert "/ip4/203.0.113.9/tcp/31337" in page.text
    assert "INITIAL_PEERS" in page.text


def test_failed_crawl_keeps_the_last_snapshot(pages, small):
    """A failed crawl is told with its age and reason, above the last good snapshot."""
    page = Page(pages.overview(made.make_view(small, made.failed_crawl(made.NOW - 3), now=made.NOW + 200)))
    assert "The last crawl failed 3 minutes ago. No bootstrap peer answered." in page.text
    assert "StableBeluga2" in page.text


def test_an_older_failure_is_not_told(pages, small):
    """A failure before the snapshot was taken concerns nobody any more."""
    page = Page(pages.overview(made.make_view(small, made.failed_crawl(small.taken_at - 60))))
    assert "failed" not in page.text


def test_stale_snapshot_is_told_in_the_past_tense(pages, small):
    """An old snapshot says how old it is; nothing in it is told as if it were so now."""
    page = Page(pages.overview(made.make_view(small, now=small.taken_at + 7 * 60 + 5)))
    assert "The snapshot is 7 minutes old." in page.text
    assert "The swarm was partly healthy when it was last seen" in page.text
    assert "2 of 3 official models could be used." in page.text
    assert "be used now" not in page.text


def test_redis_away(pages, small):
    """With Redis away the page says so, with or without a snapshot."""
    assert "Redis is away." in Page(pages.overview(made.make_view(small, redis_connected=False))).text
    assert "cannot reach its Redis" in Page(pages.overview(made.make_view(redis_connected=False))).text


def test_private_empty_swarm_says_what_was_looked_for(pages):
    """An empty private swarm names the models that were looked for, and who answered."""
    page = Page(pages.overview(made.make_view(made.private_empty())))
    assert "The private swarm is empty" in page.text
    assert "1 of 1 bootstrap peer answered" in page.text
    assert "my-local-llama" in page.text


def test_unreachable_bootstrap_peers(pages, small):
    """When no bootstrap peer can be reached the verdict is that nobody can join, whatever the models say."""
    peers = [msgspec.structs.replace(peer, verdict=Verdict.UNREACHABLE) for peer in small.bootstrap_peers]
    page = Page(pages.overview(made.make_view(msgspec.structs.replace(small, bootstrap_peers=tuple(peers)))))
    assert "The swarm cannot be joined" in page.text


def test_keys_that_did_not_answer_are_told(pages, small):
    """Blocks that nobody could look up are not silently shown as empty."""
    page = Page(pages.overview(made.make_view(msgspec.structs.replace(small, unanswered_keys=3))))
    assert "3 keys of the swarm’s hash table did not answer in time." in page.text


def test_overview_says_what_can_be_used_and_what_is_missing(pages, small):
    """The verdict, each model's state, and the missing blocks by number."""
    page = Page(pages.overview(made.make_view(small)))
    assert "The swarm is partly healthy 2 of 3 official models can be used now." in page.text
    assert "It cannot be used now. Blocks 37–40 have no online server." in page.text
    assert "Block 22 has no online server." in page.text
    assert "tokens/s" in page.text
    assert "estimate" in page.text
    assert page.all("a", href="https://huggingface.co/petals-team/StableBeluga2")
    assert "limited use" in page.text
    assert "5 records of the swarm could not be used" in page.text


def test_overview_lists_servers_as_the_predecessor_did(pages, small):
    """Each server: id, contributor where it may be shown, version, throughput, precision, LoRAs, cache, span."""
    page = Page(pages.overview(made.make_view(small)))
    for model in small.models:
        for server in model.servers:
            assert page.all("a", href=f"/servers/{server.peer_id}")
            assert block_range(server.span.start, server.span.end) in page.text
            assert server.version in page.text
    assert page.all("a", href="https://huggingface.co/artek0chumak/bloom-lora")


def test_names_are_shown_only_where_they_may(pages):
    """A public name that has not been earned stands nowhere."""
    server = made.make_server("shy", 0, 4, public_name="Shy Person", show_public_name=False)
    view = made.make_view(made.make_snapshot([made.make_model("m", 4, [server])]))
    for html in (pages.overview(view), pages.model(view, "m"), pages.server(view, server.peer_id)):
        assert "Shy Person" not in html


def test_issues_are_grouped_with_their_advice(pages, small):
    """Servers that fail alike stand together under one error and its advice, each a link."""
    page = Page(pages.overview(made.make_view(small)))
    assert small.reachability_issues
    assert page.text.count(small.reachability_issues[0].advice.partition(" --")[0]) == 1
    for issue in small.reachability_issues:
        assert page.all("a", href=f"/servers/{issue.peer_id}")


def test_sixty_servers_fit_100_kb(pages, small):
    """The overview of a swarm of 60 servers is at most 100 kB gzipped."""
    assert small.num_servers == 60
    assert len(gzip.compress(pages.overview(made.make_view(small)).encode())) <= 100_000


def test_a_thousand_servers_are_limited_and_quick(pages):
    """A thousand servers: the overview stays light, links to all, and renders in under 300 ms."""
    snapshot = made.swarm_of(1000)
    view = made.make_view(snapshot)
    spent = []
    for _ in range(3):
        start = time.process_time()
        html = pages.overview(view)
        spent.append(time.process_time() - start)
    page = Page(html)
    assert min(spent) < 0.3
    assert len(gzip.compress(html.encode())) <= 100_000
    assert "The 30 fastest of 500 servers" in page.text
    assert Page(pages.model(view, "model-0-hf") or "").text.count("tokens/s") > 0
    assert len(Page(pages.model(view, "model-0-hf") or "").all("td", class_="c-id")) == 500


def test_many_models_are_listed_not_drawn(pages):
    """Anyone can announce models: past some dozens they are only named."""
    models = [made.make_model(f"m{n}", 4, [], official=False) for n in range(300)]
    page = Page(pages.overview(made.make_view(made.make_snapshot(models))))
    assert len(page.all("article")) == 40
    assert page.all("a", href="/models/m299")


# --- A model, a server, a check ---


def test_unknown_names_have_no_page(pages, small):
    """What the snapshot does not know is None, and so is everything while there is no snapshot."""
    view = made.make_view(small)
    assert pages.model(view, "no-such-model") is None
    assert pages.server(view, made.peer_id("nobody")) is None
    assert pages.model(made.make_view(), small.models[0].dht_prefix) is None
    assert pages.server(made.make_view(), small.models[0].servers[0].peer_id) is None


def test_unreachable_server_is_told_why_and_what_to_do(pages, small):
    """Its page has the error, the advice, and the way to a check right now."""
    issue = small.reachability_issues[0]
    page = Page(pages.server(made.make_view(small), issue.peer_id) or "")
    assert "cannot be reached" in page.text
    said, _, of_libp2p = issue.error.rstrip(")").partition(" (")
    assert f"could not connect to it. {said}" in page.text
    assert f"Error of libp2p {of_libp2p}" in page.text
    assert issue.advice.partition(" --")[0] in page.text
    assert page.all("a", href=f"/check/{issue.peer_id}")


def test_addresses_are_shown_only_on_request(pages, small):
    """Where they are hidden, no page holds an address or a place of a server or bootstrap peer."""
    server = small.models[0].servers[0]
    shown = pages.server(made.make_view(small), server.peer_id) or ""
    assert server.multiaddrs[0] in shown
    assert server.location.city in shown
    status = status_without_addresses(made.failed_crawl(made.NOW + 1))
    view = made.make_view(snapshot_without_addresses(small), status, now=made.NOW + 900)
    failed = made.make_view(status=status)
    for html in (pages.server(view, server.peer_id) or "", pages.overview(view), pages.overview(failed)):
        assert "/ip4/" not in html
        assert server.location.city not in html


def test_bootstrap_peers_have_a_page(pages, small):
    """A bootstrap peer that serves nothing can be checked too."""
    peer = small.bootstrap_peers[0]
    assert "is a bootstrap peer" in Page(pages.server(made.make_view(small), peer.peer_id) or "").text


def test_server_nobody_probed_is_not_called_reachable(pages):
    """Unknown is told as unknown."""
    server = made.make_server("unseen", 0, 4, verdict=Verdict.UNKNOWN)
    view = made.make_view(made.make_snapshot([made.make_model("m", 4, [server])]))
    page = Page(pages.server(view, server.peer_id) or "")
    assert "announces that it is online" in page.text
    assert "which says nothing about the server" in page.text


def test_pings_in_both_directions(pages, small):
    """A server's page tells whom it pinged and who pinged it; an infinite ping is no answer."""
    model = small.models[1]
    first, second = sorted(model.servers, key=lambda server: server.span.start)[:2]
    assert second.peer_id in first.next_pings
    assert "Pings from it to others" in Page(pages.server(made.make_view(small), first.peer_id) or "").text
    assert "Pings from others to it" in Page(pages.server(made.make_view(small), second.peer_id) or "").text
    assert "Pings between the servers" in Page(pages.model(made.make_view(small), model.dht_prefix) or "").text


@pytest.mark.parametrize(
    ("outcome", "title", "steps"),
    [
        (made.REACHED, "can be reached", ["done"] * 6),
        (made.TIMED_OUT, "cannot be reached from here", ["done", "done", "failed", "ahead", "ahead", "ahead"]),
        (made.STILL_JOINING, "can be reached, but serves no blocks", ["done"] * 4 + ["stopped", "ahead"]),
        (made.NOBODY_LOOKED, "could not be checked", ["stopped"] + ["ahead"] * 5),
    ],
)
def test_check_draws_how_far_it_came(pages, outcome, title, steps):
    """The steps up to the answer, the one that failed, and words for each, so that colour is not needed."""
    html = pages.check(peer_id=made.peer_id("checked"), answer=made.check_view(outcome))
    page = Page(html)
    assert title in page.text
    drawn = [item["class"] for item in page.all("li") if item.get("class") in ("done", "failed", "stopped", "ahead")]
    assert drawn == steps
    assert len(steps) == len(Stage)


def test_a_peer_that_nobody_could_probe_is_never_unreachable(pages):
    """No answer that holds only unknowns is told as unreachable; one place that reached the peer is enough."""
    unknown = made.check_view(made.NOBODY_LOOKED, made.NOBODY_LOOKED)
    assert unknown.verdict is Verdict.UNKNOWN
    page = Page(pages.check(peer_id=made.peer_id("x"), answer=unknown))
    assert "cannot be reached" not in page.text
    assert "unreachable" not in page.text
    assert made.check_view().verdict is Verdict.UNKNOWN
    assert made.check_view(made.TIMED_OUT, made.NOBODY_LOOKED).verdict is Verdict.UNREACHABLE
    assert made.check_view(made.TIMED_OUT, made.REACHED).verdict is Verdict.REACHABLE


def test_check_keeps_what_was_typed(pages):
    """A refused id stands in the form again, beside the reason."""
    page = Page(pages.check(peer_id="Qm0OIl", problem="the peer id is not base58"))
    assert page.all("input", id="ask-id")[0]["value"] == "Qm0OIl"
    assert "the peer id is not base58" in page.text
    assert page.all("form", action="/check")[0]["method"] == "get"


def test_near_matches(pages, small):
    """A few characters of an id, or a misspelt model, lead to the page that was meant."""
    server = small.models[0].servers[0]
    found = resolve("..." + server.peer_id[-6:], small)
    assert named(found.found) == [(server.peer_id, f"/servers/{server.peer_id}")]
    near = resolve("Falcon-180-chat", small)
    assert ("falcon-180B-chat", "/models/falcon-180B-chat") in named(near.suggestions)
    page = Page(
        pages.problem(404, "No such model", "It is not in the snapshot.", named(near.suggestions), "Falcon-180")
    )
    assert page.all("a", href="/models/falcon-180B-chat")
    assert page.all("input", id="ask-id")[0]["value"] == "Falcon-180"


def test_each_page_is_described_on_its_own_and_leads_to_all_parts_of_the_site(pages, small):
    """Titles and descriptions differ from page to page; header and footer hold the same links on each."""
    model = small.models[1]
    view = made.make_view(msgspec.structs.replace(small, models=(model,)))
    found = [
        pages.overview(view), pages.model(view, model.dht_prefix), pages.server(view, model.servers[0].peer_id),
        pages.check(), pages.help(view), pages.glossary(),
        pages.contributors(view, ()), pages.reports(view, ["2025-W47"]), pages.incidents(view, (), {}),
        pages.data(view, DataDocument(()), exports=False), pages.places(view), pages.share(model, ""),
    ]  # fmt: skip
    for described in ('name="description" content="', 'property="og:title" content="'):
        assert len({html.partition(described)[2].partition('"')[0] for html in found}) == len(found)
    for html in found:
        for part in ("/", "/check", "/help", "/incidents", "/contributors", "/reports", "/data", "/docs", "/glossary"):
            assert f'<a href="{part}"' in html, part


def test_a_server_leads_to_its_contributor_where_that_has_a_page(pages, small):
    """The overview's list does, too. A name of models that are not official alone counts for nothing: it has none."""
    server = made.make_server("named", 0, 80, public_name="Ada")
    for official in (True, False):
        model = msgspec.structs.replace(small.models[1], servers=(server,), official=official)
        view = made.make_view(made.make_snapshot([model]))
        for html in (pages.server(view, server.peer_id), pages.overview(view)):
            assert ('href="/contributors/Ada"' in html) == official


def test_a_check_that_nobody_could_make_is_not_told_in_red(pages):
    """It says nothing about the peer; what is wrong with the paste is an error."""
    busy = pages.check(peer_id="x", problem="Nobody could look.", ours=True)
    assert Page(busy).all("div", class_="notice warn")
    assert "Try again in a minute." in Page(busy).text
    assert Page(pages.check(peer_id="x", problem="No peer id.")).all("div", class_="notice bad")


def test_search_lists_servers_of_a_contributor_and_incidents_of_a_model(pages, small):
    """A contributor is found with its servers, a model with its incidents; to be checked, servers alone.

    Who was never reached has no page of a contributor: the search itself lists the servers.
    """
    name = next(s.public_name for m in small.models for s in m.servers if s.public_name and s.show_public_name)
    view = make_search(resolve(name, small), small)
    ids = {s.peer_id for m in small.models for s in m.servers if s.public_name == name}
    assert view.found[0].href == text.contributor_href(name)
    gone = [[msgspec.structs.replace(s, state=PeerState.UNREACHABLE) for s in m.servers] for m in small.models]
    models = [msgspec.structs.replace(m, servers=tuple(servers)) for m, servers in zip(small.models, gone, strict=True)]
    unreached = msgspec.structs.replace(small, models=tuple(models))
    assert make_search(resolve(name, unreached), unreached).found[0].href.startswith("/search?q=")
    assert {hit.key for hit in view.found if hit.kind == "server"} == ids
    links = {link["href"] for link in Page(pages.search(made.make_view(small), view)).all("a")}
    assert {f"/servers/{peer_id}" for peer_id in ids} <= links
    checks = make_search(resolve(name, small), small, to_check=True)
    assert {f"/check/{peer_id}" for peer_id in ids} <= {hit.href for hit in checks.found}
    prefix = small.models[0].dht_prefix
    incident = Incident("a1", prefix, prefix, official=True, start=made.NOW - 60, num_blocks=80, covered_blocks=3)
    found = make_search(resolve(prefix, small), small, [incident])
    assert [hit.href for hit in found.found] == [f"/models/{prefix}", "/incidents#a1"]
    assert make_search(resolve("a1", small), small, [incident]).found[0].kind == "incident"
