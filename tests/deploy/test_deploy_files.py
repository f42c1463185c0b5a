"""The image's recipe, nginx's configuration and the systemd units are what their own programs accept."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from api.settings import ApiSettings
from crawler.settings import CrawlerSettings
from reachability_worker.settings import WorkerSettings
from tests.deploy.tools import run, tool
from tests.support.self_signed import make_certificate

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
ALL_VARIABLES = {
    name.upper() for settings in (ApiSettings, CrawlerSettings, WorkerSettings) for name in settings.model_fields
}


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.real_parts
def test_dockerfile_passes_hadolint():
    run(tool("hadolint"), str(DEPLOY / "Dockerfile"))


def test_what_the_dockerfile_copies_is_let_through():
    """.dockerignore lets only named files through: one that is forgotten fails the build."""
    let_through = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    instructions = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", instructions, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert any(source == path or source.startswith(f"{path}/") for path in let_through), source


def test_no_secret_or_mirror_is_baked_in():
    text = (DEPLOY / "Dockerfile").read_text()
    assert "id=pip_conf" in text
    assert not re.search(r"https?://", text)


# --- nginx -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.real_parts
def test_nginx_takes_its_configuration(tmp_path, with_tls):
    nginx = tool("nginx")
    mime = Path("/etc/nginx/mime.types")
    (tmp_path / "mime.types").write_text(mime.read_text() if mime.exists() else "types {}")
    (tmp_path / "servers").mkdir()
    for name in ("nginx.conf", "site.conf", "tls.conf"):
        text = (DEPLOY / "nginx" / name).read_text()
        text = text.replace("/tmp/", f"{tmp_path}/").replace("/etc/nginx/", f"{tmp_path}/")
        (tmp_path / ("servers/tls.conf" if name == "tls.conf" else name)).write_text(text)
    if with_tls:
        (tmp_path / "certificates").mkdir()
        tool("openssl")
        make_certificate(tmp_path / "certificates")
    else:
        (tmp_path / "servers/tls.conf").unlink()
    run(nginx, "-t", "-c", str(tmp_path / "nginx.conf"))


# --- systemd ---------------------------------------------------------------------------------------------------------


@pytest.mark.real_parts
def test_units_are_well_formed(tmp_path):
    analyze = tool("systemd-analyze")
    units = []
    for unit in sorted((DEPLOY / "systemd").glob("*.service")):
        copy = tmp_path / unit.name
        # The program is on the server, not here.
        copy.write_text(re.sub(r"/opt/\S+/python", sys.executable, unit.read_text()))
        units.append(str(copy))
        # Five starts in ten seconds are systemd's own limit: after them it would never try again.
        assert "StartLimitIntervalSec=0" in unit.read_text(), unit.name
    assert len(units) == 3
    told = run(analyze, "verify", *units)
    assert not [line for line in told.splitlines() if "petals-" in line], told


def test_the_units_environment_names_only_settings_that_exist():
    text = (DEPLOY / "systemd/petals-monitor.env.example").read_text()
    named = set(re.findall(r"^#?([A-Z][A-Z_]+)=", text, re.MULTILINE))
    assert named <= ALL_VARIABLES, named - ALL_VARIABLES


def test_the_export_s_folder_is_the_one_that_the_crawler_s_unit_makes():
    """All else is read-only to it (ProtectSystem=strict)."""
    unit = (DEPLOY / "systemd/petals-crawler.service").read_text()
    [state] = re.findall(r"^StateDirectory=(\S+)$", unit, re.MULTILINE)
    example = (DEPLOY / "systemd/petals-monitor.env.example").read_text()
    assert re.findall(r"^#EXPORT_FOLDER=(\S+)$", example, re.MULTILINE) == [f"/var/lib/{state}"]
    assert "ProtectSystem=strict" in unit
