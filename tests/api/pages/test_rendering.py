"""Bodies are made once a snapshot; what changes with time changes without making the rest again."""

import dataclasses

import pytest

from api.pages import Pages, badge, cards, charts
from api.responses.kinds import COLORED, TEXT_PATH
from api.responses.per_snapshot import Renderer
from api.responses.prepared import PreparedResponses
from shared.judgement.path import find_path
from tests import page_snapshots as made


@pytest.fixture
def renderer():
    return Renderer(Pages())


def every_body(renderer, view):
    *_, bodies = renderer.render(view)
    return bodies


def headers_of(body):
    return dict(body._variants["gzip"].whole[0]["headers"])


def test_time_alone_makes_nothing_again(renderer):
    view = made.make_view(made.swarm_of_60())
    first = every_body(renderer, view).by_path
    later = every_body(renderer, dataclasses.replace(view, now=view.now + 5)).by_path
    for path in ("/", "/api/v1/state", "/swarm.txt"):
        assert later[path].etag == first[path].etag
        for coding in ("gzip", "br", "zstd"):
            assert later[path].encoded[coding] is first[path].encoded[coding]
    before, after = (
        int(headers_of(body)[b"cache-control"].split(b"max-age=")[1].split(b",")[0])
        for body in (first["/api/v1/state"], later["/api/v1/state"])
    )
    assert after == before - 5


def test_paths_are_looked_for_once_per_snapshot(monkeypatch):
    """Most of a large overview's time; a page that was stale meanwhile has them again."""
    searched = []
    monkeypatch.setattr(cards, "find_path", lambda *given: searched.append(given) or find_path(*given))
    pages, view = Pages(), made.make_view(made.swarm_of(40))
    first = pages.overview(view)
    models = len(searched)
    assert models
    pages.overview(dataclasses.replace(view, now=view.now + 10_000))  # stale: without paths
    assert pages.overview(view) == first
    assert len(searched) == models
    pages.overview(dataclasses.replace(view, snapshot=made.swarm_of(40)))
    assert len(searched) == 2 * models


def test_ages_go_on(renderer):
    view = made.make_view(made.swarm_of_60())
    old = every_body(renderer, view).by_path["/metrics"].content
    new = every_body(renderer, dataclasses.replace(view, now=view.now + 5)).by_path["/metrics"].content
    differ = [line for line in zip(old.splitlines(), new.splitlines(), strict=True) if line[0] != line[1]]
    assert [line[0].split()[0] for line in differ] == [b"petals_snapshot_age_seconds"]


def test_openmetrics_has_one_end(renderer):
    _, body = every_body(renderer, made.make_view(made.swarm_of_60())).alternatives["/metrics"]
    assert body.content.count(b"# EOF") == 1
    assert body.content.endswith(b"# EOF\n")


def test_a_new_snapshot_makes_all_anew(renderer):
    view = made.make_view(made.swarm_of_60())
    first = every_body(renderer, view).by_path
    other = made.make_snapshot([made.make_model("m", 4, [made.make_server("one", 0, 4)])])
    second = every_body(renderer, dataclasses.replace(view, snapshot=other)).by_path
    assert all(second[path].etag != first[path].etag for path in ("/", "/metrics", "/api/v1/state", "/swarm.txt"))
    assert {path for path in second if path.startswith("/badge/")} == {"/badge/m.svg"}


def test_a_stale_snapshot_leaves_the_metrics_but_not_the_state(renderer):
    view = made.make_view(made.swarm_of_60())
    every_body(renderer, view)
    stale = every_body(renderer, dataclasses.replace(view, now=view.now + 10 * view.stale_after)).by_path
    assert b"petals_servers " not in stale["/metrics"].content
    assert b"petals_snapshot_age_seconds" in stale["/metrics"].content
    assert stale["/api/v1/state"].content


def test_the_page_does_not_wait_for_the_documents(renderer):
    """The first snapshot's badges and metrics come with its page; the state, which takes longest, comes last."""
    view = made.make_view(made.swarm_of_60())
    first, whole = renderer.render(view)
    assert {"/", "/metrics"} < set(first.by_path)
    assert first.alternatives["/"][1] is None
    assert set(whole.by_path) - set(first.by_path) == {"/api/v1/state", TEXT_PATH, COLORED}


def test_a_new_page_does_not_wait_for_anything(renderer):
    """All else is the last snapshot's until it is made: as it was, its cache times too, so that nobody keeps it."""
    view = made.make_view(made.swarm_of_60())
    old = every_body(renderer, view).by_path
    other = made.make_snapshot([made.make_model("m", 4, [made.make_server("one", 0, 4)])])
    steps = [bodies.by_path for bodies in renderer.render(dataclasses.replace(view, snapshot=other, now=view.now + 9))]
    assert [step["/"].etag != old["/"].etag for step in steps] == [True, True, True]
    assert [step["/metrics"] is not old["/metrics"] for step in steps] == [False, True, True]
    assert [step["/api/v1/state"] is not old["/api/v1/state"] for step in steps] == [False, False, True]


def test_without_a_snapshot_the_router_says_so(renderer):
    """The page can say it, a text cannot: whoever asks for text gets an error instead of a page."""
    view = dataclasses.replace(made.make_view(made.swarm_of_60()), snapshot=None)
    table = PreparedResponses()
    table.replace(*every_body(renderer, view))
    scope = {"path": "/", "query_string": b"", "method": "GET", "headers": []}
    assert table.find(scope).messages(scope)[0]["status"] == 200
    assert table.find({**scope, "headers": [(b"accept", b"text/plain")]}) is None


def test_a_badge_and_the_page_write_a_share_alike():
    """None that is not all or nothing is told as if it were."""
    for share, told in ((0.0, "0%"), (0.0001, "0.1%"), (0.5, "50%"), (0.99999, "99.9%"), (1.0, "100%")):
        assert badge.percent(share) == told
        assert float(charts.percent(share).rstrip(" %")) == float(told.rstrip("%"))
