"""Lists for programs: every row once, whatever is asked; and nothing of a stranger's runs in a spreadsheet."""

from __future__ import annotations

import csv
import io

import msgspec
import pytest

from api.hidden import snapshot_without_addresses
from api.http.problems import Problem
from api.lists.forms import Form, form_of
from api.lists.pages import ListPages
from api.lists.query import parse_query
from api.lists.tables import MODELS, SERVERS
from shared.judgement.freshness import FRESH
from shared.snapshot import Location, PeerState, Verdict
from tests.api.past import client_of, crawl
from tests.fakes import model, peer_id, server, snapshot
from tests.support import synthetic

SWARM = synthetic.snapshot(300)
PAGES = ListPages()
PATH = "/api/v1/servers"


def ask(query="", table=SERVERS, swarm=SWARM, form=Form.JSON, pages=PAGES):
    response = pages.page(
        table,
        swarm,
        parse_query(table, query.encode()),
        freshness=FRESH,
        form=form,
        coding="identity",
        path=f"/api/v1/{table.name}",
    )
    return msgspec.json.decode(response.content) if form is Form.JSON else response.content


def follow(query, swarms=(SWARM,)):
    """All rows, page after page; page N is of the Nth snapshot, or of the last."""
    rows, number = [], 0
    while query is not None:
        document = ask(query, swarm=swarms[min(number, len(swarms) - 1)])
        rows += document["servers"]
        query = document["next"] and document["next"].partition("?")[2]
        number += 1
    return rows


def named(rows):
    return [(row["model"], row["peer_id"]) for row in rows]


@pytest.mark.parametrize("sort", ["", *SERVERS.sorts, *(f"-{name}" for name in SERVERS.sorts)])
def test_pages_hold_every_row_once_and_in_order(sort):
    """In any order, also where most rows are alike in it; rows without a value come last."""
    rows = follow(f"limit=70&sort={sort}" if sort else "limit=70")
    assert len(set(named(rows))) == len(rows) == 300
    field = sort.removeprefix("-")
    values = [row[field] for row in rows] if sort else named(rows)
    told = [value for value in values if value is not None]
    assert values == sorted(told, reverse=sort.startswith("-")) + [None] * (len(values) - len(told))


def test_a_new_snapshot_between_two_pages_repeats_and_drops_nothing():
    """The row that a cursor names may be gone, and others may come before it."""
    first = ask("limit=100&sort=-throughput")
    last = named(first["servers"])[-1]
    models = tuple(
        msgspec.structs.replace(each, servers=tuple(one for one in each.servers if one.peer_id != last[1]))
        for each in SWARM.models
    )
    rows = follow("limit=100&sort=-throughput", (SWARM, msgspec.structs.replace(SWARM, models=models)))
    assert named(rows) == named(follow("limit=1000&sort=-throughput"))


def test_filters_leave_what_they_say():
    """Values of one filter add to each other, filters narrow each other."""
    document = ask("state=joining&state=online&contributor=Ada&relayed=true&limit=1000")
    expected = {
        (each.dht_prefix, one.peer_id)
        for each in SWARM.models
        for one in each.servers
        if one.state in ("joining", "online") and one.show_public_name and one.public_name == "Ada" and one.using_relay
    }
    assert set(named(document["servers"])) == expected
    assert document["total"] == len(expected) > 0
    assert ask("model=nobody")["servers"] == []


def test_chosen_fields_alone_are_sent():
    """In the order in which they were asked for, in each form."""
    assert list(ask("fields=state,peer_id&limit=1")["servers"][0]) == ["state", "peer_id"]
    assert ask("fields=state,peer_id&limit=1", form=Form.CSV).startswith(b"state,peer_id\r\n")
    assert list(msgspec.json.decode(ask("fields=state&limit=1", form=Form.NDJSON))) == ["state"]


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("sate=online", "model, state, verdict"),
        ("utm_source=x", "sort, fields, limit, cursor"),
        ("state=up", "online, joining, offline, unreachable"),
        ("sort=color", "throughput"),
        ("fields=ip", "peer_id"),
        ("fields=", "peer_id"),
        ("limit=0", "1 to 1000"),
        ("limit=1001", "1 to 1000"),
        ("limit=1&limit=2", "2 times"),
        ("cursor=x", "next"),
        ("cursor=bnVsbA", "next"),
        ("&".join(["state=online"] * 51), "50"),
        ("model=" + "x" * 3000, "2000 bytes"),
    ],
)
def test_a_query_that_is_wrong_is_told_what_is_right(query, told):
    """Nothing is ignored: a misspelt filter would list everything."""
    with pytest.raises(Problem) as caught:
        ask(query)
    assert caught.value.status_code == 400
    assert told in caught.value.detail


def test_a_cursor_of_another_order_is_refused():
    """Also one that names its order rightly and holds a value that cannot stand in it."""
    following = ask("limit=1&sort=-throughput")["next"].partition("cursor=")[2]
    for query in (f"cursor={following}", "sort=throughput&cursor=WyJ0aHJvdWdocHV0IiwieCIsIiIsIiJd"):
        with pytest.raises(Problem, match="Bad cursor"):
            ask(query)


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1", "＝1", "a;=1", "x\n=1", '=HYPERLINK("http://x")']


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_begins_a_formula(text):
    """Whatever the separator with which the table is opened."""
    lab = server(1, 0, 8, public_name=text, show_public_name=True, version=text)
    table = ask(swarm=snapshot(model("m", servers=(lab,))), form=Form.CSV, pages=ListPages())
    rows = list(csv.DictReader(io.StringIO(table.decode(), newline="")))
    assert len(rows) == 1
    for cell in (rows[0]["contributor"], rows[0]["version"]):
        for part in cell.split(";"):
            assert part.lstrip()[:1] not in ("=", "+", "-", "@", "＝")


def test_hidden_addresses_are_in_no_list():
    """Nor can a filter or an order tell what is not shown."""
    lab = server(1, 0, 8, multiaddrs=("/ip4/8.8.8.8/tcp/1",), location=Location("FI", None, "Oulu"))
    shown = snapshot(model("m", servers=(lab,)))
    hidden = snapshot_without_addresses(shown)
    assert ask("country=FI", swarm=shown)["total"] == 1
    assert ask("country=FI", swarm=hidden)["total"] == 0
    row = ask("sort=country", swarm=hidden)["servers"][0]
    assert (row["country"], row["city"], row["multiaddrs"]) == (None, None, [])


@pytest.mark.parametrize(
    ("path", "accept", "form"),
    [
        (PATH, "", Form.JSON),
        (PATH, "*/*", Form.JSON),
        (PATH, "text/csv", Form.CSV),
        (PATH, "text/csv;q=0.5, application/json", Form.JSON),
        (PATH, "application/json;q=0.5, application/x-ndjson", Form.NDJSON),
        (PATH, "text/csv, application/json", Form.JSON),
        (PATH, "text/csv;q=x", Form.JSON),
        (PATH + ".csv", "application/json", Form.CSV),
        (PATH + ".ndjson", "text/html", Form.NDJSON),
    ],
)
def test_the_form_is_the_suffix_or_what_the_client_likes_most(path, accept, form):
    """JSON where it is liked as much as any other."""
    assert form_of(path, accept) is form


async def test_lists_over_http(redis, redis_url):
    """Forms, `Link`, ETag, preflight and the 400, as a program meets them; and the old shape of the models stays."""
    unreachable = server(3, 0, 8, PeerState.UNREACHABLE, verdict=Verdict.UNREACHABLE, error="refused")
    await crawl(redis, snapshot(model("lab/demo", servers=(server(1, 0, 8), server(2, 0, 8), unreachable))))
    async with client_of(redis_url) as http:
        first = await http.get(f"{PATH}?limit=2")
        assert first.headers["link"] == f'<{first.json()["next"]}>; rel="next"'
        assert "Link" in first.headers["access-control-expose-headers"]
        rest = (await http.get(first.json()["next"])).json()
        assert {row["peer_id"] for row in first.json()["servers"] + rest["servers"]} == {*map(peer_id, (1, 2, 3))}
        again = await http.get(f"{PATH}?limit=2", headers={"if-none-match": first.headers["etag"]})
        assert again.status_code == 304
        table = await http.get(PATH, headers={"accept": "text/csv"})
        assert table.headers["content-type"].startswith("text/csv")
        assert "Accept" in table.headers["vary"]
        assert (await http.get(f"{PATH}.csv")).content == table.content
        assert len((await http.get(f"{PATH}.ndjson")).text.splitlines()) == 3
        assert (await http.options(PATH)).headers["access-control-allow-methods"] == "GET, HEAD"
        wrong = await http.get(f"{PATH}?color=1")
        assert (wrong.status_code, wrong.headers["content-type"]) == (400, "application/problem+json")
        models = (await http.get("/api/v1/models")).json()
        assert models["models"][0]["servers"] == {"online": 2, "joining": 0, "unreachable": 1, "offline": 0}
        assert (models["total"], models["next"]) == (1, None)
        assert b"servers_online" in (await http.get("/api/v1/models.csv")).content
        assert (await http.get("/api/v1/models?state=broken")).json()["models"] == []
        assert parse_query(MODELS, b"").plain == ""
