"""Locations come from the operator's own file, for direct public addresses only."""

import msgspec
import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from crawler.geoip import GeoDatabase
from shared.snapshot import Location
from tests.fakes import model, server, snapshot


@pytest.fixture
def database(tmp_path):
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True)
    place = {
        "country": {"iso_code": "NL", "names": {"en": "Netherlands"}},
        "location": {"latitude": 52.0908, "longitude": 5.2333},
        "traits": {"isp": "Example\u202e Net"},
        "subdivisions": [{"names": {"en": "Utrecht"}}],
        "city": {"names": {"en": "Zeist\u202e"}},
    }
    writer.insert_network(IPSet(["8.8.8.0/24", "10.0.0.0/8"]), place)
    junk = {"city": {"names": []}, "country": "NL", "location": {"latitude": 1e9, "longitude": "x"}, "traits": 1}
    writer.insert_network(IPSet(["9.9.9.0/24"]), junk)
    path = tmp_path / "places.mmdb"
    writer.to_db_file(str(path))
    return GeoDatabase.open(path)


def test_a_direct_public_address_has_a_location(database):
    """Names are cleaned like all text from outside; coordinates are no finer than a city."""
    report = server(1, 0, 8, multiaddrs=("/ip4/10.1.2.3/tcp/1", "/ip4/8.8.8.8/tcp/31337"))
    located = database.with_locations(snapshot(model(servers=(report,))))
    assert located.models[0].servers[0].location == Location(
        "NL", "Utrecht", "Zeist", country_name="Netherlands", lat=52.1, lon=5.2, isp="Example Net"
    )


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/10.1.2.3/tcp/1",
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/9.9.9.9/tcp/1",
        "/ip4/1.1.1.1/tcp/1",
        "/ip4/8.8.8.8/tcp/1/p2p/QmX/p2p-circuit",
        "/dns/example.org/tcp/1",
    ],
)
def test_other_addresses_have_none(database, address):
    """Private ones, unknown ones, a relay's: nothing is made up."""
    report = server(1, 0, 8, multiaddrs=(address,))
    located = database.with_locations(snapshot(model(servers=(report,))))
    assert located.models[0].servers[0] == msgspec.structs.replace(report, location=None)


def test_an_entry_that_cannot_be_read_costs_one_location(database, tmp_path):
    """Not the crawl, and not the locations of others."""
    odd = tmp_path / "odd.mmdb"
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True)
    writer.insert_network(IPSet(["8.8.8.0/24"]), {"subdivisions": {"names": "x"}, "city": {"names": {"en": "Zeist"}}})
    writer.insert_network(IPSet(["9.9.9.0/24"]), {"city": {"names": {"en": "Utrecht"}}})
    writer.to_db_file(str(odd))
    assert GeoDatabase.open(odd).locate("8.8.8.8") == Location(city="Zeist")
    data = odd.read_bytes()
    for number, junk in enumerate((b"\x45\xff\xff\xff\xff\xff", b"\x38\xff\xff\xff\xff\xff")):  # no text, no place
        copy = tmp_path / f"{number}.mmdb"
        copy.write_bytes(data.replace(b"\x45Zeist", junk))
        broken = GeoDatabase.open(copy)
        assert (broken.locate("8.8.8.8"), broken.locate("9.9.9.9")) == (None, Location(city="Utrecht"))


def test_a_file_that_is_no_database_is_a_bad_setting(tmp_path):
    """Told before any work."""
    path = tmp_path / "junk.mmdb"
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="not a MaxMind-format database"):
        GeoDatabase.open(path)
