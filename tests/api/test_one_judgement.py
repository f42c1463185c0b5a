"""Page, incidents, text, JSON, metrics and badges of one snapshot never say different things, nor "is" of old news."""

import json
import re

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.lists.forms import Form
from api.lists.pages import ListPages
from api.lists.query import parse_query
from api.lists.tables import MODELS, SERVERS
from api.metrics.exposition import Collected, exposition
from api.metrics.legacy import LegacyCollector
from api.metrics.swarm import AgeCollector, SwarmCollector
from api.pages import Pages
from api.pages.badge import state_badge
from api.pages.feed import atom_feed
from api.pages.incidents import FirstSeen
from api.pages.overview import MAX_CARDS
from api.responses.per_snapshot import Renderer
from shared.incidents import Incident
from shared.public.incidents import incidents_document
from shared.public.models import model_document
from shared.public.state import state_document
from shared.snapshot import ModelState, PeerState
from shared.text_picture import text_picture
from tests import page_snapshots as made

PAGES = Pages()
HOSTILE_NAMES = ("healthy", "broken", "online", made.EVIL, made.BIDI + "x", "2 models are broken", "(other)")


@st.composite
def swarms(draw):
    """Up to four models with up to five servers each, in any state, named like anything."""
    models = []
    for number in range(draw(st.integers(0, 4))):
        num_blocks = draw(st.integers(1, 6))
        servers = []
        for place in range(draw(st.integers(0, 5))):
            start = draw(st.integers(0, num_blocks - 1))
            end = draw(st.integers(start + 1, num_blocks))
            servers.append(made.make_server(f"{number}-{place}", start, end, draw(st.sampled_from(PeerState))))
        name = draw(st.sampled_from(HOSTILE_NAMES)) + str(number)
        models.append(made.make_model(name, num_blocks, servers, official=draw(st.booleans())))
    if draw(st.integers(0, 9)) == 0:
        return made.hostile_swarm()
    return made.make_snapshot(models)


def surfaces(snapshot, incidents, age):
    """Every answer that speaks of the whole swarm, as text."""
    view = made.make_view(snapshot, now=snapshot.taken_at + age, stale_after=180.0)
    current = (LegacyCollector(snapshot), SwarmCollector(snapshot)) if not view.stale else ()
    ages = AgeCollector(snapshot, None, view.now, view.stale_after)
    found = {
        "/": PAGES.overview(view),
        "/swarm.txt": text_picture(snapshot, view.freshness),
        "/api/v1/state": msgspec.json.encode(state_document(snapshot, view.freshness)).decode(),
        "/metrics": exposition(Collected(ages, *current), openmetrics=False).decode(),
        **{f"/badge/{number}": state_badge(model, view).svg() for number, model in enumerate(snapshot.models)},
    }
    found["/incidents"] = PAGES.incidents(view, incidents, {})
    found["/incidents.atom"] = atom_feed(incidents, base="", now=view.now, last_seen=view.last_seen)
    found["/api/v1/incidents"] = msgspec.json.encode(
        incidents_document(incidents, 1000, snapshot, view.freshness)
    ).decode()
    for table in (MODELS, SERVERS):
        path = f"/api/v1/{table.name}"
        listed = ListPages().page(
            table,
            snapshot,
            parse_query(table, b""),
            freshness=view.freshness,
            form=Form.JSON,
            coding="identity",
            path=path,
        )
        found[path] = listed.content.decode()
    for number, model in enumerate(snapshot.models):
        found[f"/models/{number}"] = PAGES.model(view, model.dht_prefix)
        for server in model.servers:
            found[f"/servers/{server.peer_id}"] = PAGES.server(view, server.peer_id)
        document = model_document(snapshot, model, view.freshness)
        found[f"/api/v1/models/{number}"] = msgspec.json.encode(document).decode()
    return found


def visible(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.split("<main", 1)[1]))


def figure(words, what):
    """The value of a tile of the overview; 0 where the tile is missing."""
    found = re.search(rf"([\d,]+) / [\d,]+ {what}", words)
    return int(found[1].replace(",", "")) if found else 0


def metric(text, name, **labels):
    """The sum of a metric's samples."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = [line for line in text.splitlines() if re.match(rf"{name}[ {{]", line)]
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(label in line for label in wanted))


@pytest.mark.parametrize(("age", "state"), [(0.0, "ongoing"), (1000.0, "was ongoing")])
def test_an_incidents_own_page_tells_old_news_in_the_past_tense(age, state):
    """As the page of all incidents does."""
    half = made.make_model("half", 4, [made.make_server("a", 0, 2, PeerState.ONLINE)], official=True)
    snapshot = made.make_snapshot([half])
    incident = Incident("1-a", half.dht_prefix, half.name, True, snapshot.taken_at - 60, 4, 2)
    view = made.make_view(snapshot, now=snapshot.taken_at + age, stale_after=180.0)
    for page in (PAGES.incident(view, incident), PAGES.incidents(view, [incident], {})):
        assert f"half {state} : since" in visible(page)


@given(snapshot=swarms(), open_share=st.sampled_from((0, 1)), age=st.sampled_from((0.0, 70.0, 1000.0)))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_surface_contradicts_another(snapshot, open_share, age):
    """How many models are healthy and broken, how many servers are online, and whether this is still news."""
    served = [model for model in snapshot.models if model.servers]
    broken = [model for model in served if model.state is ModelState.BROKEN]
    online = sum(server.state is PeerState.ONLINE for model in served for server in model.servers)
    incidents = [
        Incident(f"{number}-a", model.dht_prefix, model.name, model.official, snapshot.taken_at - 60, 6, 0)
        for number, model in enumerate(broken)
    ][: open_share * len(broken)]
    told, stale = surfaces(snapshot, incidents, age), age > 180
    state = json.loads(told["/api/v1/state"])
    overview, incident_page = visible(told["/"]), visible(told["/incidents"])

    # Whether it is stale.
    documents = [json.loads(body) for path, body in told.items() if path.startswith("/api/v1/")]
    assert {document["stale"] for document in documents} == {stale}
    assert {document["age_seconds"] for document in documents} == {age // 60 * 60}
    assert ("was" in told["/swarm.txt"].splitlines()[0].split()) == stale
    assert ("The snapshot is" in overview) == ("The snapshot is" in incident_page) == stale
    badges = [body for path, body in told.items() if path.startswith("/badge/")]
    assert all("unknown" in badge for badge in badges) or not stale

    # Models and servers.
    rows = [row for report in state["model_reports"] for row in report["server_rows"]]
    assert sum(row["state"] == "online" for row in rows) == online
    assert len([each for each in state["model_reports"] if each["server_rows"] and each["state"] == "broken"]) == len(
        broken
    )
    tense = "were " if stale else ""
    assert figure(overview, f"servers {tense}online") == online
    assert figure(overview, f"models {tense}usable") == len(served) - len(broken)
    entries = json.loads(told["/api/v1/incidents"])["outages"]
    assert sum(entry["state"] == "broken" for entry in entries) == len(broken)
    amount = {0: "No model", 1: "One model"}.get(len(broken), f"{len(broken)} models")
    verb = ("was" if len(broken) <= 1 else "were") if stale else ("is" if len(broken) <= 1 else "are")
    assert f"{amount} {verb} broken" in incident_page
    if stale:
        assert metric(told["/metrics"], "petals_model_healthy") == metric(told["/metrics"], "petals_models") == 0
        assert "chip good" not in told["/"]
        assert "state good" not in told["/"]
        for path, body in told.items():
            if path == "/" or path.startswith(("/models/", "/servers/")):
                assert not re.search(r'"(hero|chip|state|icon) good"', body.split("<main", 1)[1]), path
                titles = re.findall(r"<(?:title|h1)[^>]*>(.*?)</(?:title|h1)>", body, re.DOTALL)
                assert not re.search(r"be used now|gives tokens", visible(body)), path
                assert not [title for title in titles if re.search(r" (is|can|cannot|has|serves) ", title)], path
        assert "until now" not in told["/incidents"]
        assert " is down" not in told["/incidents.atom"]
    else:
        healthy = sum(model.state is ModelState.HEALTHY for model in snapshot.models)
        assert metric(told["/metrics"], "petals_model_healthy") == healthy
        assert metric(told["/metrics"], "petals_model_servers", state="online") == online
        words = {"healthy": "The swarm is healthy", "partly healthy": "The swarm is partly healthy"}
        state_told = told["/swarm.txt"].splitlines()[0].removeprefix("Swarm state: ")
        assert words.get(state_told, "") in overview
        assert all(("healthy" in badge or "broken" in badge) for badge in badges)


def test_the_tiles_count_every_model_and_each_server_once():
    """As headline and metrics do: also models that have no card, and a server that serves two."""
    servers = [made.make_server(f"{number}", 0, 4) for number in range(MAX_CARDS + 5)]
    models = [made.make_model(f"m{number}", 4, [each, servers[0]]) for number, each in enumerate(servers) if number]
    view = made.make_view(made.make_snapshot(models))
    overview, metrics = (
        visible(PAGES.overview(view)),
        exposition(SwarmCollector(view.snapshot), openmetrics=False).decode(),
    )
    assert f"All {len(models)} official models can be used now" in overview
    assert figure(overview, "models usable") == len(models)
    assert figure(overview, "servers online") == metric(metrics, "petals_servers") == len(servers)


def test_what_is_prepared_turns_stale_by_itself():
    """The same process, the same snapshot, only later: all that it serves turns at once."""
    renderer, snapshot = Renderer(PAGES), made.make_snapshot([made.make_model("m", 1, [made.make_server("a", 0, 1)])])

    def answers(age):
        *_, prepared = renderer.render(made.make_view(snapshot, now=snapshot.taken_at + age, stale_after=180.0))
        return {path: body.content.decode() for path, body in prepared.by_path.items()}

    fresh, late, stale = answers(5), answers(125), answers(185)
    assert [json.loads(each["/api/v1/state"])["age_seconds"] for each in (fresh, late, stale)] == [0, 120, 180]
    assert [json.loads(each["/api/v1/state"])["stale"] for each in (fresh, late, stale)] == [False, False, True]
    assert fresh["/swarm.txt"] == late["/swarm.txt"] != stale["/swarm.txt"]
    assert "was healthy when last seen, more than 3 minutes ago" in stale["/swarm.txt"]
    assert "unknown" in stale["/badge/m.svg"]
    assert "petals_model_healthy" not in stale["/metrics"]
    assert "was healthy when it was last seen" in stale["/"]


def test_an_incident_that_the_latest_crawl_does_not_confirm_is_told_so():
    """Open, but the model was healthy in the latest crawl: neither "broken" nor gone from the page."""
    snapshot = made.make_snapshot([made.make_model("m", 4, [made.make_server("a", 0, 4)])])
    incident = Incident("1-a", "m", "m", official=True, start=snapshot.taken_at - 60, num_blocks=4, covered_blocks=0)
    told = surfaces(snapshot, [incident], 0.0)
    words = visible(told["/incidents"])
    assert "No model is broken" in words
    assert "the latest crawl found it healthy" in words


@pytest.mark.parametrize("past", [None, {"broken": (False, "since it was first seen")}])
def test_a_model_that_never_was_healthy_is_a_fact_on_the_incidents_page(past):
    """Anyone can announce one, so it opens no incident; the page does not say that all is well."""
    snapshot = made.make_snapshot([made.make_model("broken", 4, [made.make_server("a", 0, 2)], official=False)])
    view = made.make_view(snapshot)
    pasts = {"broken": FirstSeen(int(view.now) - 900, ever_healthy=False)} if past else {}
    words = visible(PAGES.incidents(view, [], pasts))
    assert "One model is broken" in words
    assert ("broken since it was first seen, 15 minutes ago" in words) == bool(past)
