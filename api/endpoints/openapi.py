"""The API described: `/openapi.json` for programs, `/docs` for people, made of the same (`api.openapi`)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from api.http.base_address import base_address
from api.http.headers import CORS, JSON
from api.openapi import describe
from api.responses import kinds
from api.responses.history_cache import in_time
from api.responses.prepared import PreparedResponse
from api.services import services_of
from shared.judgement.freshness import FRESH
from shared.public import incidents, lists, models, state
from shared.public.document import as_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from api.pages import View
    from shared.incidents import Incident
    from shared.snapshot import Snapshot


async def document(request: Request) -> PreparedResponse:
    """The description; it never changes while the process lives."""
    return _body()


async def page(request: Request) -> PreparedResponse:
    """The description as a page, with answers of this swarm as examples."""
    services, base = services_of(request), base_address(request)

    def draw(view: View, found: Sequence[Incident] | None) -> PreparedResponse:
        answers, fill = examples(view.snapshot, found or ())
        limit = services.settings.rate_limit
        return kinds.page(services.pages.docs(describe(), answers, fill, base=base, rate_limit=limit))

    # No resource is named like this key: the page shows the address that the client used.
    return await services.read_and_draw(
        request, lambda: in_time(services.history.incidents()), draw, key=f"docs {base}"
    )


def examples(snapshot: Snapshot | None, found: Sequence[Incident]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return documents of this swarm by path, and what stands for the paths' parameters.

    They are made of the first model that has servers, and its first server: thousands would tell no more.
    """
    documents: dict[str, msgspec.Struct] = {"/api/v1/incidents": incidents.incidents_document(found, 1)}
    fill: dict[str, str] = {}
    model = None if snapshot is None else next((one for one in snapshot.models if one.servers), None)
    if snapshot is not None and model is not None:
        server = model.servers[0]
        part = msgspec.structs.replace(model, servers=(server,))
        small = msgspec.structs.replace(snapshot, models=(part,), reachability_issues=snapshot.reachability_issues[:1])
        fill = {"dht_prefix": model.dht_prefix, "peer_id": server.peer_id}
        head: dict[str, Any] = {**as_of(snapshot, FRESH), "total": 1, "next": None}
        documents |= {
            "/api/v1/state": state.state_document(small),
            "/api/v1/servers": lists.ServersDocument(
                servers=(lists.server_entry(model, server, show_addresses=True),), **head
            ),
            "/api/v1/models": models.ModelsDocument(models=(models.model_summary(model),), **head),
            "/api/v1/models/{dht_prefix}": models.model_document(small, part, show_addresses=True),
        }
        about = models.server_document(small, server.peer_id, show_addresses=True)
        if about is not None:
            documents["/api/v1/servers/{peer_id}"] = about
    return {path: msgspec.json.decode(msgspec.json.encode(one)) for path, one in documents.items()}, fill


@cache
def _body() -> PreparedResponse:
    headers = {**CORS, "cache-control": "public, max-age=3600"}
    return PreparedResponse.make(msgspec.json.encode(describe()), JSON, headers=headers)
