"""This module counts servers by country and city, never finer: the table that stands for a map."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.pages import text
from shared.judgement.swarm import distinct_servers
from shared.snapshot import PeerState

if TYPE_CHECKING:
    from shared.snapshot import Snapshot

MAX_COUNTRIES = 250
MAX_CITIES = 30
"""Of one country."""


@dataclass(frozen=True, slots=True)
class Place:
    """A country, its servers, and how many of them are in which city."""

    name: str
    online: int
    servers: int
    cities: list[tuple[str, int]]
    more_cities: int


def places(snapshot: Snapshot) -> list[Place]:
    """Return the countries with the most servers first; none where no server has a known location."""
    servers, online = Counter[str](), Counter[str]()
    cities: dict[str, Counter[str]] = {}
    for server in distinct_servers(snapshot):
        place = server.location
        country = text.cut((place.country_name or place.country or "") if place is not None else "", 60)
        if place is None or not country:
            continue
        servers[country] += 1
        online[country] += server.state is PeerState.ONLINE
        cities.setdefault(country, Counter())[text.cut(place.city or "", 60) or "elsewhere"] += 1
    return [
        Place(
            country,
            online[country],
            count,
            cities[country].most_common(MAX_CITIES),
            max(0, len(cities[country]) - MAX_CITIES),
        )
        for country, count in servers.most_common(MAX_COUNTRIES)
    ]
