"""What a service cannot use is told at its start: variable, value, what was expected, an example; exit code 2."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import ValidationError

from api.settings import ApiSettings
from crawler.health import fetch_health_state
from crawler.observe.observer import LOOKUPS_WITHIN, PROBES_WITHIN
from crawler.observe.probes import ProbeQueue
from crawler.settings import CrawlerSettings
from reachability_worker.settings import WorkerSettings
from shared.judgement.freshness import stale_after
from shared.p2p.swarm_settings import bootstrap_peers
from shared.settings import begin, command_line, load, unknown_variables
from tests.fakes import snapshot

ROOT = Path(__file__).resolve().parents[2]
KINDS = (ApiSettings, CrawlerSettings, WorkerSettings)
ID = "QmedTaZXmULqwspJXz44SsPZyTNKxhnnFvYRajfH7MGhCY"
RELAY = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for kind in KINDS:
        for name in kind.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)


BAD = [
    (CrawlerSettings, "INITIAL_PEERS", f"/p2p/{ID}", "no address"),
    (CrawlerSettings, "INITIAL_PEERS", f"/ip4/192.0.2.1/tcp/0/p2p/{ID}", "no address"),
    (CrawlerSettings, "INITIAL_PEERS", f"/ip4/192.0.2.1/tcp/99999/p2p/{ID}", "not a multiaddr"),
    (CrawlerSettings, "INITIAL_PEERS", f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit", "names no peer"),
    (CrawlerSettings, "INITIAL_PEERS", f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p/{ID}", "relay"),
    (CrawlerSettings, "INITIAL_PEERS", f"/p2p/{RELAY}/p2p-circuit/p2p/{ID}", "no address"),
    (CrawlerSettings, "INITIAL_PEERS", "[" * 100_000, "not JSON"),
    (WorkerSettings, "INITIAL_PEERS", "nonsense", "names no peer"),
    (ApiSettings, "REDIS_URL", "redis://h/0?foo=bar", "unknown option 'foo'"),
    (ApiSettings, "REDIS_URL", "redis://h/notanumber", "number"),
    (ApiSettings, "REDIS_URL", "redis://h/0?db=1", "twice"),
    (ApiSettings, "REDIS_URL", "redis://[::1:6379/0", "IPv6"),
    (ApiSettings, "REDIS_URL", "redis://h:99999/0", "PORT"),
    (ApiSettings, "REDIS_URL", "redis://h:port/0", "PORT"),
    (ApiSettings, "REDIS_URL", "redis://a b/0", "HOST"),
    (ApiSettings, "REDIS_URL", "redis://h/0?socket_timeout=0.001", "unknown option"),
    (ApiSettings, "REDIS_URL", "redis://h/0?decode_responses=1", "unknown option"),
    (ApiSettings, "REDIS_URL", "unix://tmp/redis.sock", "unix:///PATH"),
    (ApiSettings, "REDIS_URL", "rediss://h/0?ssl_ca_certs=/no/such/file", "cannot be read"),
    (ApiSettings, "REDIS_URL", f"rediss://h/0?ssl_ca_certs={__file__}", "do not fit"),
    (ApiSettings, "REDIS_URL", "rediss://h/0?ssl_cert_reqs=maybe", "do not fit"),
    (ApiSettings, "REDIS_URL", "sentinel://[::1/petals", "IPv6"),
    (ApiSettings, "REDIS_URL", "sentinel://[zz]/petals", "IPv6"),
    (ApiSettings, "OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:port", "http://HOST:PORT"),
    (ApiSettings, "OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1", "http://HOST:PORT"),
    (ApiSettings, "API_HOST", "192.0.2.1", "address of this machine"),
    (ApiSettings, "METRICS_HOST", "no such host", "address of this machine"),
    (ApiSettings, "API_METRICS_PORT", "8000", "another port"),
    (ApiSettings, "PUBLIC_URL", "https://[::1", "http://HOST:PORT"),
    (ApiSettings, "PUBLIC_URL", "https://h:99999", "http://HOST:PORT"),
    (ApiSettings, "STALE_AFTER_PERIODS", "1", "greater than or equal to 1.5"),
    (ApiSettings, "STALE_AFTER_PERIODS", "inf", "less than or equal to 1000"),
    (ApiSettings, "TRUSTED_PROXIES", "10.0.0.0/8,10.0.0.1/8", "not a network"),
    (CrawlerSettings, "DIAL_TIMEOUT", "60", "less than or equal to 20"),
    (CrawlerSettings, "CRAWL_PERIOD", "0.001", "greater than or equal to 1"),
    (CrawlerSettings, "CRAWL_PERIOD", "nan", "3600"),
    (CrawlerSettings, "MODELS", "model:²", "PREFIX:NUM_BLOCKS"),
    (CrawlerSettings, "MODELS", "model:9999", "blocks"),
    (CrawlerSettings, "MODELS", "[" * 100_000, "not JSON"),
    (CrawlerSettings, "GEOIP_DATABASE", __file__, "MaxMind"),
    (CrawlerSettings, "INCIDENT_WEBHOOK_URL", "http://a b/", "name that DNS can have"),
    (CrawlerSettings, "INCIDENT_WEBHOOK_URL", "http://a..b/", "name that DNS can have"),
    (CrawlerSettings, "INCIDENT_WEBHOOK_URL", "http://h:port/", "PORT"),
]


@pytest.mark.parametrize("kind", [ApiSettings, CrawlerSettings])
def test_the_export_needs_a_folder_that_is_there(kind, tmp_path, monkeypatch):
    """A mistyped folder is told at the start, not found missing after a day."""
    monkeypatch.setenv("EXPORT_FOLDER", str(tmp_path))
    assert kind().export_folder == tmp_path
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("EXPORT_FOLDER", str(tmp_path / "missing"))
    with pytest.raises(ValidationError, match="expected a folder that exists"):
        kind()
    monkeypatch.setenv("EXPORT_FOLDER", "/proc")
    if kind is CrawlerSettings:
        with pytest.raises(ValidationError, match="expected a folder that can be written"):
            kind()


@pytest.mark.parametrize(("kind", "variable", "value", "words"), BAD)
def test_what_cannot_be_used_is_a_bad_setting(kind, variable, value, words, *, monkeypatch, capsys):
    """One line that names the variable, the value, what was expected and an example; exit code 2; no traceback."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as ended:
        load(kind)
    assert ended.value.code == 2
    title, *lines = capsys.readouterr().err.splitlines()
    assert title == "Bad settings:"
    assert len(lines) == 1
    assert lines[0].startswith(f"  {variable}")
    assert words in lines[0]
    assert ", got " in lines[0]
    assert f"; for example {variable}=" in lines[0]


def test_each_fault_has_its_line(monkeypatch, capsys):
    """Of one variable too."""
    monkeypatch.setenv("INITIAL_PEERS", f"nonsense,/ip4/192.0.2.1/tcp/1/p2p/{ID},/p2p/{ID}")
    monkeypatch.setenv("DIAL_TIMEOUT", "soon")
    with pytest.raises(SystemExit):
        load(CrawlerSettings)
    lines = capsys.readouterr().err.splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == ["INITIAL_PEERS[0]", "INITIAL_PEERS[2]", "DIAL_TIMEOUT"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_has_an_example_that_is_accepted(kind, monkeypatch):
    """What an error proposes works, but for a file or a folder of the operator's own."""
    for name, field in kind.model_fields.items():
        example = field.examples[0] if field.examples else field.get_default(call_default_factory=True)
        assert example is not None, name
        if name in ("geoip_database", "export_folder") or not field.examples:
            continue
        monkeypatch.setenv(name.upper(), example)
        getattr(kind(), name)
        monkeypatch.delenv(name.upper())


def test_a_bootstrap_peer_is_the_last_one_named():
    """`ipfs` is what `p2p` was called; a circuit leads to its target, at the relay's address."""
    direct, relayed = f"/ip4/192.0.2.1/tcp/1/ipfs/{ID}", f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{ID}"
    assert bootstrap_peers([direct]) == {ID: ["/ip4/192.0.2.1/tcp/1"]}
    assert bootstrap_peers([relayed]) == {ID: [f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit"]}
    assert CrawlerSettings(initial_peers=[direct, relayed]).bootstrap_peers.keys() == {ID}


@pytest.mark.parametrize("value", ["18731", " 18731 ", "18731\r"])
def test_blanks_around_a_value_are_no_part_of_it(value, monkeypatch):
    """A file with Windows' line ends is read like any other."""
    monkeypatch.setenv("API_PORT", value)
    assert ApiSettings().api_port == 18731


@pytest.mark.parametrize("value", ["", " ", "\r"])
def test_a_blank_value_is_none(value, monkeypatch):
    """The default holds."""
    monkeypatch.setenv("API_PORT", value)
    monkeypatch.setenv("REDIS_URL", value)
    assert (ApiSettings().api_port, ApiSettings().redis_url) == (8000, "redis://127.0.0.1:6379/0")


def test_a_webhook_at_a_private_address_must_be_allowed(monkeypatch, capsys):
    """Else no notice would ever be sent."""
    monkeypatch.setenv("INCIDENT_WEBHOOK_URL", "http://10.0.0.1/hook")
    with pytest.raises(SystemExit):
        load(CrawlerSettings)
    assert "INCIDENT_WEBHOOK_ALLOW_PRIVATE" in capsys.readouterr().err
    monkeypatch.setenv("INCIDENT_WEBHOOK_ALLOW_PRIVATE", "yes")
    assert load(CrawlerSettings).incident_webhook_allow_private


async def test_the_longest_timeouts_leave_time_to_work():
    """With the longest DIAL_TIMEOUT and LOOKUP_TIMEOUT that are accepted, a crawl dials and looks up."""
    import time

    from shared.reachability import DialOutcome, Stage
    from shared.snapshot import Verdict

    settings = CrawlerSettings(dial_timeout=20, lookup_timeout=20)
    assert settings.lookup_timeout * 2 <= LOOKUPS_WITHIN
    with pytest.raises(ValidationError):
        CrawlerSettings(dial_timeout=20.1)

    async def dial(peer_id):
        return DialOutcome(Verdict.REACHABLE, Stage.ANSWERED)

    queue = ProbeQueue(dial, timeout=settings.dial_timeout, until=time.monotonic() + PROBES_WITHIN)
    queue.add(ID, known=False, rank=0)
    await queue.finish()
    assert queue.outcomes[ID].verdict is Verdict.REACHABLE


def test_a_slow_crawl_does_not_make_its_own_snapshot_stale():
    """Where a crawl takes longer than its period, the next snapshot cannot come sooner."""
    slow = snapshot(update_period=5.0, update_duration=20.0)
    between_snapshots = 25.0  # the crawl, and then the next multiple of the period
    assert stale_after(slow, ApiSettings().stale_after_periods) > 2 * between_snapshots
    assert stale_after(snapshot(update_period=60.0, update_duration=20.0), 3) == 180.0


@pytest.mark.parametrize(
    ("name", "meant"),
    [("CRAWL_PERIODE", "CRAWL_PERIOD"), ("INITIAL_PEER", "INITIAL_PEERS"), ("REDIS_URI", "REDIS_URL"),
     ("DIAL_TIMOUT", "DIAL_TIMEOUT"), ("LOOK_UP_TIMEOUT", "LOOKUP_TIMEOUT"), ("MODEL", "MODELS")],
)  # fmt: skip
def test_a_mistyped_variable_is_pointed_out(name, meant, monkeypatch, capsys):
    """In one line, and the service starts."""
    monkeypatch.setenv(name, "60")
    monkeypatch.setattr(sys, "argv", ["crawler"])
    begin(command_line("crawler", None, CrawlerSettings), CrawlerSettings)
    assert capsys.readouterr().err == f"warning: {name} is not known: {meant}?\n"


@pytest.mark.parametrize("kind", KINDS)
def test_no_variable_that_is_somebodys_is_taken_for_a_mistake(kind, monkeypatch):
    """All services may be given one environment, with what compose and usual tools want in it."""
    example = re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    for name in {name.upper() for other in KINDS for name in other.model_fields} | set(example) | {"LANG", "HOSTNAME"}:
        monkeypatch.setenv(name, "1")
    assert unknown_variables(kind) == []


class NoDht:
    initial_peers: ClassVar = [f"/ip4/127.0.0.1/tcp/9/p2p/{ID}"]


def test_the_python_api_knows_its_settings():
    """A mistyped one is a TypeError, a bad value says which; nothing is crawled."""
    with pytest.raises(TypeError, match="dial_timout"):
        fetch_health_state(NoDht(), dial_timout=1)
    with pytest.raises(ValidationError, match="dial_private_addresses"):
        fetch_health_state(NoDht(), dial_private_addresses="perhaps")


def test_the_python_api_obeys_text(monkeypatch):
    """As the environment's."""
    from crawler import health
    from shared.p2p.addresses import DialPrivate

    opened = []

    class Node:
        @classmethod
        async def open(cls, dial_private=None):
            opened.append(dial_private)
            raise RuntimeError("enough")

    monkeypatch.setattr(health, "DHTClientNode", Node)
    with pytest.raises(RuntimeError, match="enough"):
        fetch_health_state(NoDht(), dial_private_addresses="no")
    assert opened == [DialPrivate.NO]
