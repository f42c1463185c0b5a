"""This module describes the API as OpenAPI 3.1: operations are written here, schemas come from the types."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from api.http.headers import JSON, PROBLEM_JSON
from api.lists.forms import MEDIA_TYPES, Form
from api.lists.tables import MAX_LIMIT, MODELS, SERVERS
from api.pages.badge import BadgeMetric
from shared.given import MAX_GIVEN, MAX_GIVEN_CHARS
from shared.public import (
    changes,
    check,
    contributors,
    data,
    health,
    history,
    incidents,
    lists,
    models,
    problem,
    reports,
    search,
    state,
)  # fmt: skip
from shared.public.schema import schemas

if TYPE_CHECKING:
    from api.lists.index import Table

DOCUMENTS = (
    state.StateDocument,
    check.ReachabilityDocument,
    health.Liveness,
    health.Readiness,
    lists.ServersDocument,
    lists.ServersPart,
    models.ModelsDocument,
    models.ModelsPart,
    models.ModelDocument,
    models.ServerDocument,
    history.ModelHistoryDocument,
    history.ServerHistoryDocument,
    incidents.IncidentsDocument,
    changes.ChangesDocument,
    contributors.ContributorsDocument,
    contributors.ContributorDocument,
    data.DataDocument,
    reports.ReportsDocument,
    reports.ReportDocument,
    problem.ProblemDocument,
    search.SearchDocument,
)
_REF = "#/components/schemas/{name}"


def _query(name: str, schema: dict[str, Any], words: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": words, "schema": schema}


_TEXT = _query("q", {"type": "string"}, "Any text: a peer id, a multiaddr, a log line, a name.")
_RESOLUTION = _query(
    "resolution",
    {"enum": ["minute", "hour", "day"], "default": "hour"},
    "`minute`: a day; `hour`: 30 days; `day`: five years.",
)
_IN_PATH = {
    "dht_prefix": ("The model's DHT prefix; a slash in it may be written as it is or as %2F.", 1, 128),
    "peer_id": ("A peer id in any form of the libp2p specification.", 1, 128),
    "name": ("The public name that servers announce: claimed, as anyone can announce any name.", 1, 64),
    "file": ("A name that `/api/v1/data` lists, as `crawls-2026-11-25.csv.gz`.", 0, 64),
    "week": ("A week that `/api/v1/reports` lists, named as by ISO 8601: `2026-W48`.", 0, 16),
    "incident_id": ("The id of an incident in `/api/v1/incidents`.", 1, 64),
}
"""By the name of a parameter of the path: what it is, and its least and most characters."""
_WORDS = {
    304: "The client has it already (If-None-Match).",
    303: "To the page of what was asked for.",
    307: "To the canonical form of the peer id.",
    400: "The request is malformed.",
    403: "Only for the monitor's trusted networks.",
    404: "Not known; `near_matches` names what may have been meant.",
    429: "Too many requests from this address.",
    503: "Nothing can be said now: no snapshot yet, nobody could look, or Redis is away. Try again.",
}
_ADDRESS = _query(
    "address",
    {"type": "array", "items": {"type": "string", "maxLength": MAX_GIVEN_CHARS}, "maxItems": MAX_GIVEN},
    "A multiaddr of the peer, with its id or without it, to be dialled as it is beside what the swarm "
    "knows; up to eight. Public IP addresses or host names, TCP or QUIC, directly or through one relay. Each counts as "
    "a check in the rate limit.",
)
_OF_CHANGES = (
    _query("server", {"type": "string"}, "Only those of this peer id."),
    _query("model", {"type": "string"}, "Only those of this DHT prefix."),
    _query("contributor", {"type": "string"}, "Only those of servers that show this public name."),
)


@cache
def describe() -> dict[str, Any]:
    """Return the OpenAPI document."""
    components = schemas(DOCUMENTS, _REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Petals Health Monitor",
            "version": "1",
            "description": "Can people use this swarm now, and if not, why? Times are Unix seconds, durations are "
            "seconds, throughputs are tokens per second. Fields are added, never changed or taken away.",
        },
        "paths": {path: {"get": _with_path(path, operation)} for path, operation in _paths().items()},
        "components": {"schemas": components},
    }


def _paths() -> dict[str, dict[str, Any]]:
    return {
        "/api/v1/state": _json("The whole swarm", "StateDocument", errors=(503,), cached=True),
        **_list("/api/v1/servers", "Servers: a row for each one's part in a model", SERVERS),
        **_list("/api/v1/models", "Models without their servers", MODELS),
        "/api/v1/models/{dht_prefix}": _json(
            "One model with its servers", "ModelDocument", errors=(404, 503), cached=True
        ),
        "/api/v1/servers/{peer_id}": _json(
            "One server or bootstrap peer", "ServerDocument", errors=(400, 404, 503), cached=True
        ),
        "/api/v1/history/models/{dht_prefix}": _json(
            "A model's past", "ModelHistoryDocument", _RESOLUTION, errors=(400, 404, 503), cached=True
        ),
        "/api/v1/history/servers/{peer_id}": _json(
            "A server's past", "ServerHistoryDocument", errors=(400, 404, 503), cached=True
        ),
        "/api/v1/incidents": _json(
            "Outages, the newest first", "IncidentsDocument",
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000}, "How many at most."),
            _query("model", {"type": "string"}, "Only those of this DHT prefix."),
            errors=(400, 503), cached=True,
        ),
        "/api/v1/changes": _json(
            "What became of servers and models, newest first; `/changes.atom` is the same as a feed",
            "ChangesDocument",
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000}, "How many at most."),
            *_OF_CHANGES,
            errors=(400, 403, 503), cached=True,
        ),
        "/api/v1/contributors": _json(
            "Who serves how much, under which claimed name", "ContributorsDocument", errors=(403, 503), cached=True
        ),
        "/api/v1/contributors/{name}": _json(
            "One contributor", "ContributorDocument", errors=(403, 404, 503), cached=True
        ),
        "/api/v1/is_reachable/{peer_id}": _json(
            "Can the monitor reach this peer, and if not, why", "ReachabilityDocument",
            _query("fresh", {"type": "string"}, "`1` looks again; for trusted networks."),
            _query("vantage", {"type": "string"}, "Only from this vantage point."),
            _ADDRESS,
            _query("inference", {"type": "string"}, "`1` has it compute two tokens, too; limited more strictly."),
            errors=(400, 403, 429, 503),
        ),
        "/api/v1/is_reachable": {"summary": "Without a peer id: always an error", "responses": _problems((400,))},
        "/api/v1/search": _json("What a pasted or typed text names", "SearchDocument", _TEXT, errors=(503,)),
        "/docs": _media("This description for people", "text/html", errors=(503,)),
        "/openapi.json": {
            "summary": "This description",
            "responses": {"200": _content("OpenAPI 3.1.", {JSON: {"schema": {"type": "object"}}}), **_words(304)},
        },
        "/livez": _json("The process answers", "Liveness"),
        "/readyz": _json("It has something to serve", "Readiness") | {
            "responses": {
                str(status): _content(words, {JSON: {"schema": _ref("Readiness")}})
                for status, words in ((200, "Ready."), (503, "Neither a snapshot nor Redis."))
            }
        },
        "/badge/{dht_prefix}.svg": _media(
            "A model as a picture for a README", "image/svg+xml",
            _query("metric", {"enum": [*BadgeMetric], "default": BadgeMetric.STATE}, "What it shows."),
            errors=(400,), pictures=(404, 503),
        ),
        "/places": _media("Servers by country and city", "text/html", errors=(403, 404, 503)),
        "/og.png": _media("The swarm as a picture, 1200 x 630: what links unfold to", "image/png", errors=(403,)),
        "/og/models/{dht_prefix}.png": _media(
            "A model as a picture, 1200 x 630: what links unfold to", "image/png", errors=(403, 404, 503)
        ),
        "/embed/models/{dht_prefix}": _media(
            "A model as a card for a frame of another site", "text/html", errors=(403, 404, 503)
        ),
        "/share/models/{dht_prefix}": _media("What shows a model elsewhere, to copy", "text/html", errors=(404, 503)),
        "/i/{incident_id}": _media("An incident for people", "text/html", errors=(404, 503)),
        "/favicon.ico": _media("The icon", "image/x-icon"),
        "/robots.txt": _media("What crawlers of the web may read", "text/plain"),
        "/incidents.atom": _media("Outages as an Atom feed", "application/atom+xml", errors=(403, 503)),
        "/api/v1/data": _json("The files of the daily export", "DataDocument", errors=(403, 503)),
        "/data": _media("The files of the daily export for people", "text/html", errors=(403, 503)),
        "/data/{name}": _media("One file of the daily export", "application/gzip", errors=(403, 404), pages=True),
        "/api/v1/reports": _json("Weeks that have a report", "ReportsDocument", errors=(403, 503)),
        "/api/v1/reports/{week}": _json("What a week was like", "ReportDocument", errors=(403, 404, 503)),
        "/reports": _media("Weekly reports for people", "text/html", errors=(403, 503)),
        "/reports/{week}": _media("What a week was like, for people", "text/html", errors=(403, 404, 503)),
        "/reports.atom": _media("Weekly reports as an Atom feed", "application/atom+xml", errors=(403, 503)),
        "/swarm.txt": _media(
            "The swarm as a picture of text", "text/plain",
            _query("color", {"type": "string"}, "`1` for terminal colours."), errors=(503,),
        ),
        "/events": _media(
            "Server-sent events: `snapshot`, `status`, and `change` for what is named", "text/event-stream",
            *_OF_CHANGES, _query("changes", {"type": "string"}, "`all`: the changes of everybody."), errors=(403, 503),
        ),
        "/metrics": _media("The swarm for Prometheus", "text/plain"),
        "/api/prometheus": _media("The same, under its old address", "text/plain"),
        "/": _media("The overview for people", "text/html", errors=(503,)),
        "/changes.atom": _media(
            "Changes as an Atom feed: of the swarm, or of what is named", "application/atom+xml",
            *_OF_CHANGES, errors=(403, 503),
        ),
        "/contributors": _media("Contributors for people", "text/html", errors=(403, 503)),
        "/contributors/{name}": _media("A contributor for people", "text/html", errors=(403, 404, 503)),
        "/incidents": _media("Outages for people", "text/html", errors=(503,)),
        "/models/{dht_prefix}": _media("A model for people", "text/html", errors=(404, 503)),
        "/servers/{peer_id}": _media("A server for people", "text/html", errors=(404, 503), others=(307,)),
        "/search": _media("What a pasted text names, for people", "text/html", _TEXT, errors=(503,), others=(303,)),
        "/help": _media(
            "Where one more server counts most", "text/html",
            _query("gpu", {"type": "string"}, "Memory of a GPU in GB, one that the page offers."), errors=(503,),
        ),
        "/glossary": _media("The terms of the pages", "text/html", errors=(503,)),
        "/check": _media("The form of a check for people", "text/html", _TEXT, others=(303,)),
        "/check/{peer_id}/stages": _media(
            "Server-sent events: how far the peer's check has come", "text/event-stream", errors=(400, 503)
        ),
        "/check/{peer_id}": _media("A check for people", "text/html", _ADDRESS, errors=(400, 403, 429, 503)),
    }  # fmt: skip


def _with_path(path: str, operation: dict[str, Any]) -> dict[str, Any]:
    """Return an operation with the parameters that its path names."""
    found = []
    for name in re.findall(r"{(\w+)}", path):
        words, least, most = _IN_PATH["file" if path == "/data/{name}" else name]
        schema = {"type": "string", **({"minLength": least} if least else {}), "maxLength": most}
        found.append({"name": name, "in": "path", "required": True, "description": words, "schema": schema})
    return {**operation, "parameters": [*found, *operation["parameters"]]} if found else operation


def _list(path: str, summary: str, table: Table[Any]) -> dict[str, dict[str, Any]]:
    """Describe a list under its path and under those with a suffix."""
    parameters = [
        {
            **_query(
                name,
                {"type": "array", "items": {"enum": list(one.values)} if one.values else {"type": "string"}},
                f"{one.words} Given again: any of them.",
            ),
            "style": "form",
            "explode": True,
        }
        for name, one in table.filters.items()
    ]
    orders = [f"{sign}{name}" for name in table.sorts for sign in ("", "-")]
    fields = {"type": "array", "items": {"enum": list(table.fields)}, "minItems": 1}
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": table.default_limit}
    parameters += [
        _query("sort", {"enum": orders}, "Order; with `-` the highest first. Rows without a value come last."),
        _query("fields", fields, "Only these, with commas between them.") | {"style": "form", "explode": False},
        _query("limit", limit, "Rows of a page."),
        _query("cursor", {"type": "string"}, "Where the page begins; taken from `next` or the `Link` header."),
    ]
    either = {"anyOf": [_ref(table.document.__name__), _ref(table.part.__name__)]}
    contents: dict[str, Any] = {
        MEDIA_TYPES[Form.JSON]: {"schema": either},
        MEDIA_TYPES[Form.NDJSON]: {"schema": {"type": "string"}},
        MEDIA_TYPES[Form.CSV]: {"schema": {"type": "string"}},
    }
    described: dict[str, dict[str, Any]] = {}
    for suffix in ("", *(f".{form}" for form in Form if form is not Form.JSON)):
        form = Form(suffix[1:]) if suffix else None
        content = contents if form is None else {MEDIA_TYPES[form]: contents[MEDIA_TYPES[form]]}
        described[path + suffix] = {
            "summary": summary if form is None else f"{summary}, as {form.upper()}",
            "parameters": parameters,
            "responses": {"200": _content("Found.", content), **_words(304), **_problems((400, 403, 503))},
        }
    return described


def _json(
    summary: str, schema: str, *parameters: dict[str, Any], errors: tuple[int, ...] = (), cached: bool = False
) -> dict[str, Any]:
    responses = {"200": _content("Found.", {JSON: {"schema": _ref(schema)}}), **_words(*(304,) * cached)}
    return {"summary": summary, "parameters": list(parameters), "responses": responses | _problems(errors)}


def _media(
    summary: str,
    media_type: str,
    *parameters: dict[str, Any],
    errors: tuple[int, ...] = (),
    pictures: tuple[int, ...] = (),
    others: tuple[int, ...] = (),
    pages: bool = False,
) -> dict[str, Any]:
    shown = {media_type: {"schema": {"type": "string"}}}
    responses = {"200": _content("Found.", shown), **_words(*others), **_problems(errors)}
    for status, told in _problems(pictures).items():  # the router has no picture of what is no name at all
        responses[status] = _content(told["description"], shown | told["content"])
    if pages or media_type in ("text/html", "image/png"):  # people look at them: errors are pages, where asked for
        for code in errors:
            responses[str(code)]["content"] |= {"text/html": {"schema": {"type": "string"}}}
    return {"summary": summary, "parameters": list(parameters), "responses": responses}


def _content(words: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"description": words, "content": content}


def _words(*statuses: int) -> dict[str, Any]:
    return {str(status): {"description": _WORDS[status]} for status in statuses}


def _problems(statuses: tuple[int, ...]) -> dict[str, Any]:
    return {
        str(status): _content(_WORDS[status], {PROBLEM_JSON: {"schema": _ref("ProblemDocument")}})
        for status in statuses
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _REF.format(name=name)}
