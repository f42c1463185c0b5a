"""Rules, alerts and their runbooks: proven by promtool, complete, and about metrics that exist."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.metrics.exported import exported_names, names_in, needs

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/prometheus"
GROUPS = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}


def promtool(*arguments):
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, cwd=FOLDER)


@needs("promtool")
@pytest.mark.parametrize("what", [("rules", "rules.yml"), ("config", "prometheus.yml")])
@pytest.mark.real_parts
def test_promtool_accepts(what):
    """The files that ship are valid as they are."""
    checked = promtool("check", *what)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs("promtool")
@pytest.mark.real_parts
def test_each_alert_fires_when_it_should_and_not_before():
    """Simulated series, minute by minute, for each alert."""
    tested = promtool("test", "rules", "rules_test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


@needs("promtool")
@pytest.mark.real_parts
def test_the_rules_test_can_fail(tmp_path):
    """A threshold that somebody moves is noticed, by the cases of its alert."""
    rules, threshold = (FOLDER / "rules.yml").read_text(), "> 0.8 and sum"
    (name,) = (name for name, rule in ALERTS.items() if threshold in rule["expr"])
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text())
    tests["tests"] = [case for case in tests["tests"] if name in str(case["alert_rule_test"])]
    (tmp_path / "rules_test.yml").write_text(yaml.safe_dump(tests))
    for threshold_now, code in ((threshold, 0), ("> 0.95 and sum", 1)):
        (tmp_path / "rules.yml").write_text(rules.replace(threshold, threshold_now))
        assert promtool("test", "rules", str(tmp_path / "rules_test.yml")).returncode == code


@needs("prometheus-alertmanager")
@pytest.mark.real_parts
def test_alertmanager_accepts_its_configuration(tmp_path):
    """The example is valid; whether it delivers is test_real_prometheus's promise."""
    checked = subprocess.run(
        ["amtool", "check-config", str(FOLDER / "alertmanager.yml")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_each_alert_is_tested_at_both_ends():
    """Every alert has a case in which it fires, and one in which it does not."""
    cases = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    fires = {check["alertname"] for check in checks if check["exp_alerts"]}
    silent = {check["alertname"] for check in checks if not check["exp_alerts"]}
    assert fires == set(ALERTS)
    assert silent == set(ALERTS)


def test_each_alert_says_what_to_do():
    """A severity, a summary, a description, and a runbook entry that exists and has all three parts."""
    text = (ROOT / "docs/runbooks.md").read_text()
    entries = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(entries) == set(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{name.lower()}"
        for part in ("Means", "Check", "do:"):
            assert part.lower() in entries[name].lower(), (name, part)


def test_rules_and_runbooks_name_only_what_exists():
    """A metric that was renamed would make an alert silent for ever."""
    known = exported_names() | RECORDED
    for rule in RULES:
        assert names_in(rule["expr"]) <= known, rule
    for document in ("docs/runbooks.md", "deploy/monitoring.md"):
        told = re.findall(r"`(petals_[a-z_]+)", (ROOT / document).read_text())
        for name in told:
            whole = name.endswith("_") or name in known or f"{name}_bucket" in known
            assert whole, (document, name)


def test_inhibitions_name_alerts_that_exist():
    """A cause that silences nothing would go unnoticed."""
    rules = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())["inhibit_rules"]
    named = set(re.findall(r"Petals\w+", str(rules)))
    assert named <= set(ALERTS)
