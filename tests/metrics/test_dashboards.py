"""The Grafana dashboards: each query parses, and names metrics that exist."""

import json
from pathlib import Path

import pytest
import yaml

from tests.metrics.exported import exported_names, names_in
from tests.metrics.test_rules import RECORDED

FOLDER = Path(__file__).parents[2] / "deploy/grafana/dashboards"
BOARDS = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}


def queries(board):
    """Every query of a board as Prometheus will see it, variables filled in."""
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "1m")
            yield panel["title"], expression.replace("$model", ".*").replace("$vantage", ".*")


@pytest.mark.parametrize("name", BOARDS)
def test_each_query_parses_and_names_what_exists(name):
    """No panel is empty because of a typo or a rename."""
    known = exported_names() | RECORDED
    asked = list(queries(BOARDS[name]))
    assert len(asked) > 10
    for title, expression in asked:
        assert "$" not in expression, title
        assert names_in(expression) <= known, title


@pytest.mark.parametrize("name", BOARDS)
def test_each_panel_explains_itself(name):
    """A title, a sentence, a data source that the viewer chooses, and a place that overlaps no other."""
    taken = set()
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["description"].endswith(".")
            assert panel["datasource"]["uid"] == "${datasource}"


def test_provisioning_finds_the_dashboards_and_the_data():
    """Grafana's own files: valid YAML, the folder that compose mounts, the data source's type."""
    folder = FOLDER.parent / "provisioning"
    source = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"][0]
    provider = yaml.safe_load((folder / "dashboards/petals.yml").read_text())["providers"][0]
    compose = yaml.safe_load((FOLDER.parents[2] / "docker-compose.yml").read_text())["services"]
    assert BOARDS.keys() == {"swarm", "reachability", "service"}
    assert source["type"] == "prometheus"
    assert source["url"].removeprefix("http://").partition(":")[0] in compose
    assert any(mount.endswith(f"{provider['options']['path']}:ro") for mount in compose["grafana"]["volumes"])
