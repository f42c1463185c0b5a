"""This module says what can be listed: the servers of a snapshot and its models, with their filters and orders."""

from __future__ import annotations

from typing import NamedTuple

from api.lists.index import Filter, Table
from shared.judgement.swarm import uses_relay
from shared.public.lists import ServerEntry, ServersDocument, ServersPart, computes, contributor, finite, server_entry
from shared.public.models import ModelsDocument, ModelsPart, ModelSummary, model_summary
from shared.snapshot import ModelReport, ModelState, PeerState, ServerReport, Verdict

MAX_LIMIT = 1_000
"""Rows of a page."""


class ServerPart(NamedTuple):
    """A server's part in a model."""

    model: ModelReport
    server: ServerReport


def _country(part: ServerPart) -> str | None:
    return None if part.server.location is None else part.server.location.country


def _seconds_per_step(part: ServerPart) -> float | None:
    check = part.server.inference
    return None if check is None else check.seconds_per_step


def _flag(value: bool | None) -> str | None:
    return None if value is None else "true" if value else "false"


SERVERS: Table[ServerPart] = Table(
    name="servers",
    rows=lambda snapshot: (ServerPart(model, one) for model in snapshot.models for one in model.servers),
    identity=lambda part: (part.model.dht_prefix, part.server.peer_id),
    entry=lambda part: server_entry(part.model, part.server, show_addresses=True),
    kind=ServerEntry,
    filters={
        "model": Filter(lambda part: part.model.dht_prefix, "DHT prefix of the model."),
        "state": Filter(lambda part: part.server.state, "State as the monitor found it.", tuple(PeerState)),
        "verdict": Filter(lambda part: part.server.verdict, "Outcome of the crawler's probe.", tuple(Verdict)),
        "country": Filter(_country, "ISO 3166 code of the country."),
        "version": Filter(lambda part: part.server.version, "Version that the server claims."),
        "contributor": Filter(lambda part: contributor(part.server), "Shown public name."),
        "relayed": Filter(
            lambda part: _flag(uses_relay(part.server)), "Whether clients reach it through a relay.", ("true", "false")
        ),
        "computes": Filter(
            lambda part: _flag(computes(part.server)), "Whether an inference check proved it.", ("true", "false")
        ),
    },
    sorts={
        "model": lambda part: part.model.dht_prefix,
        "peer_id": lambda part: part.server.peer_id,
        "state": lambda part: part.server.state,
        "start_block": lambda part: part.server.span.start,
        "num_blocks": lambda part: part.server.span.length,
        "throughput": lambda part: finite(part.server.throughput),
        "inference_rps": lambda part: finite(part.server.inference_rps),
        "cache_tokens_left": lambda part: part.server.cache_tokens_left,
        "seconds_per_step": _seconds_per_step,
        "rtt": lambda part: part.server.rtt,
        "contributor": lambda part: contributor(part.server),
        "version": lambda part: part.server.version,
        "country": _country,
    },
    document=ServersDocument,
    part=ServersPart,
)

MODELS: Table[ModelReport] = Table(
    name="models",
    rows=lambda snapshot: snapshot.models,
    identity=lambda model: (model.dht_prefix, ""),
    entry=model_summary,
    kind=ModelSummary,
    filters={
        "model": Filter(lambda model: model.dht_prefix, "DHT prefix of the model."),
        "state": Filter(lambda model: model.state, "Whether all its blocks have a server.", tuple(ModelState)),
        "official": Filter(
            lambda model: _flag(model.official), "Whether it comes from the monitor's settings.", ("true", "false")
        ),
    },
    sorts={
        "dht_prefix": lambda model: model.dht_prefix,
        "name": lambda model: model.name,
        "num_blocks": lambda model: model.num_blocks,
        "num_servers": lambda model: len(model.servers),
    },
    document=ModelsDocument,
    part=ModelsPart,
    rank=float,
    default_limit=MAX_LIMIT,
)
