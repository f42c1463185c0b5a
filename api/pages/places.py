"""This module counts servers by country and city (never finer), as a table and as a map."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.pages import text
from api.pages.outlines import VIEW_BOX, outlines
from shared import words
from shared.judgement.swarm import distinct_servers
from shared.snapshot import PeerState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.snapshot import Snapshot

MAX_COUNTRIES = 250
MAX_CITIES = 30
"""Of one country."""
SHADES = 4
DOT = 30.0
"""Width and height together, in the map's units, below which a country is drawn as a dot."""
LABEL_WIDTH, LABEL_HEIGHT = 22, 40
"""Of one digit, in the map's units."""


@dataclass(frozen=True, slots=True)
class Place:
    """A country, its servers, and how many of them are in which city. `code` is that of ISO 3166; empty: not known."""

    code: str
    name: str
    online: int
    servers: int
    cities: list[tuple[str, int]]
    more_cities: int


@dataclass(frozen=True, slots=True)
class Country:
    """A country with servers on the map. `shade` grows with their number; without a `path` it is a dot."""

    title: str
    shade: int
    path: str
    x: int
    y: int
    label: str
    """Empty where a larger number stands in its place."""


@dataclass(frozen=True, slots=True)
class WorldMap:
    """Countries with servers, over the land of all others."""

    view_box: str
    land: str
    countries: list[Country]


def places(snapshot: Snapshot) -> list[Place]:
    """Return the countries with the most servers first; none where no server has a known location."""
    servers, online = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    cities: dict[tuple[str, str], Counter[str]] = {}
    for server in distinct_servers(snapshot):
        place = server.location
        name = text.cut((place.country_name or place.country or "") if place is not None else "", 60)
        if place is None or not name:
            continue
        country = (place.country or "", name)
        servers[country] += 1
        online[country] += server.state is PeerState.ONLINE
        cities.setdefault(country, Counter())[text.cut(place.city or "", 60) or "elsewhere"] += 1
    return [
        Place(
            *country,
            online[country],
            count,
            cities[country].most_common(MAX_CITIES),
            max(0, len(cities[country]) - MAX_CITIES),
        )
        for country, count in servers.most_common(MAX_COUNTRIES)
    ]


def world_map(found: Sequence[Place]) -> WorldMap | None:
    """Return the map of these places, the one with the most servers first; None where there are no outlines."""
    known = outlines()
    if not known:
        return None
    most = max((place.servers for place in found), default=1)
    countries: list[Country] = []
    taken: list[tuple[int, int, int]] = []
    for place in found:
        outline = known.get(place.code)
        if outline is None:
            continue
        label = f"{place.servers:,}"
        half = len(label) * LABEL_WIDTH // 2
        free = all(abs(outline.x - x) > half + width or abs(outline.y - y) > LABEL_HEIGHT for x, y, width in taken)
        if free:
            taken.append((outline.x, outline.y, half))
        countries.append(
            Country(
                f"{place.name}: {words.count(place.servers, 'server')}, {place.online:,} online",
                1 + round((SHADES - 1) * math.log(place.servers) / math.log(most)) if most > 1 else SHADES,
                outline.path if outline.extent >= DOT else "",
                outline.x,
                outline.y,
                label if free else "",
            )
        )
    with_servers = {place.code for place in found}
    land = "".join(outline.path for code, outline in known.items() if code not in with_servers)
    return WorldMap(VIEW_BOX, land, countries)
