"""The copy of the configuration that proofs and tests run: the same rules, other addresses, other times."""

import subprocess

import pytest
import yaml

from tests.metrics.exported import needs
from tests.support.local_prometheus import SHIPPED, write_configuration

TARGETS = {"petals-swarm": [1], "petals-api": [2, 3], "petals-crawler": [4, 5], "petals-worker": [6, 7]}


def rules(path):
    groups = yaml.safe_load(path.read_text())["groups"]
    return {rule.get("alert") or rule["record"]: rule for group in groups for rule in group["rules"]}


def test_only_addresses_and_times_differ(tmp_path):
    """Every rule is there, every `for:` and every range is divided, nothing else is touched."""
    before = (SHIPPED / "rules.yml").read_text()
    write_configuration(tmp_path, TARGETS, duration=lambda seconds: seconds / 15)
    shipped, copied = rules(SHIPPED / "rules.yml"), rules(tmp_path / "rules.yml")
    assert list(copied) == list(shipped)
    assert (copied["PetalsTargetDown"]["for"], copied["PetalsNoWorkerLooks"]["for"]) == ("20s", "4s")
    for name, rule in shipped.items():
        expression = rule["expr"].replace("[30m]", "[120s]").replace("[10m]", "[40s]").replace("[5m]", "[20s]")
        assert copied[name]["expr"] == expression
        assert copied[name].get("annotations") == rule.get("annotations")
    jobs = {job["job_name"]: job for job in yaml.safe_load((tmp_path / "prometheus.yml").read_text())["scrape_configs"]}
    assert set(jobs) == set(TARGETS)
    assert jobs["petals-api"]["static_configs"] == [{"targets": ["127.0.0.1:2", "127.0.0.1:3"]}]
    assert (SHIPPED / "rules.yml").read_text() == before


@needs("promtool")
@pytest.mark.real_parts
def test_promtool_accepts_the_copy(tmp_path):
    """As it does what ships."""
    write_configuration(tmp_path, TARGETS, alertmanager=9, duration=lambda seconds: seconds / 15)
    checked = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
