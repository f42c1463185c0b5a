"""This module locates servers in the operator's own MaxMind-format file, without any network access."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import msgspec

from crawler.text import clean_text
from shared.address_text import endpoint, is_public
from shared.snapshot import Location

if TYPE_CHECKING:
    from pathlib import Path

    import maxminddb

    from shared.snapshot import ServerReport, Snapshot

MAX_PLACE_NAME = 80


class GeoDatabase:
    """An open database with English names of cities and countries, as GeoLite2 and DB-IP files have them."""

    def __init__(self, reader: maxminddb.Reader) -> None:
        self._reader = reader

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a database file. Raises `ValueError` where it is not one."""
        import maxminddb  # noqa: PLC0415 - held where there is a database

        try:
            return cls(maxminddb.open_database(path, maxminddb.MODE_MMAP_EXT))
        except (OSError, maxminddb.InvalidDatabaseError, ValueError) as error:
            raise ValueError(f"{path} is not a MaxMind-format database: {error}") from error

    def locate(self, ip: str) -> Location | None:
        """Return the location of a public IP address; None for others, unknown ones, and entries that are broken."""
        try:
            found: Any = self._reader.get(ip) if is_public(ip) else None
        except (ValueError, RuntimeError):  # IPv6, where the database has IPv4 alone; maxminddb's of a broken entry
            return None
        if not isinstance(found, dict):
            return None
        regions = found.get("subdivisions")
        location = Location(
            country=_text(_part(found, "country").get("iso_code")),
            region=_name(regions[0]) if isinstance(regions, list) and regions else None,
            city=_name(found.get("city")),
            country_name=_name(found.get("country")),
            lat=_degrees(_part(found, "location").get("latitude"), 90),
            lon=_degrees(_part(found, "location").get("longitude"), 180),
            isp=_text(_part(found, "traits").get("isp") or found.get("autonomous_system_organization")),
        )
        return location if location != Location() else None

    def with_locations(self, snapshot: Snapshot) -> Snapshot:
        """Return the snapshot with the location of each server that has a direct public address."""
        models = tuple(
            msgspec.structs.replace(model, servers=tuple(map(self._located, model.servers)))
            for model in snapshot.models
        )
        return msgspec.structs.replace(snapshot, models=models)

    def _located(self, server: ServerReport) -> ServerReport:
        for address in server.multiaddrs:
            ip = endpoint(address).direct_ip
            location = None if ip is None else self.locate(ip)
            if location is not None:
                return msgspec.structs.replace(server, location=location)
        return server


def _part(found: dict[Any, Any], name: str) -> dict[Any, Any]:
    part = found.get(name)
    return part if isinstance(part, dict) else {}


def _degrees(value: Any, most: float) -> float | None:
    """Return the angle to a tenth of a degree: a database's own coordinates may name a house."""
    return round(value, 1) if isinstance(value, int | float) and abs(value) <= most else None


def _name(place: Any) -> str | None:
    return _text(place["names"].get("en")) if isinstance(place, dict) and isinstance(place.get("names"), dict) else None


def _text(value: Any) -> str | None:
    return clean_text(value, MAX_PLACE_NAME) or None if isinstance(value, str) else None
