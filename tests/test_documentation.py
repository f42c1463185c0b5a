"""The documentation is true: every setting, route and make target stands in it."""

import re
from pathlib import Path

from api.app import create_app
from api.settings import ApiSettings
from crawler.settings import CrawlerSettings
from reachability_worker.settings import WorkerSettings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
ALL_DOCS = README + "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))


def test_every_setting_stands_in_the_readme():
    """And nothing that is no setting."""
    rows = set(re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE))
    settings = {name.upper() for kind in (ApiSettings, CrawlerSettings, WorkerSettings) for name in kind.model_fields}
    assert rows == settings


def test_every_route_is_described():
    """In the README or in a document beside it."""
    routes = {getattr(route, "path", "") for route in create_app(ApiSettings()).routes} - {"/static"}
    plain = {re.sub(r":path", "", route) for route in routes}
    missing = {route for route in plain if f"`{route}" not in ALL_DOCS and f"{route}`" not in ALL_DOCS}
    assert missing == set()


def test_every_make_target_has_a_help_text():
    """`make help` lists them all."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE))
    described = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert {name for line in targets for name in line.split()} == described
