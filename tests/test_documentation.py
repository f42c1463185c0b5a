"""The documentation is true: every setting, route and make target stands in it."""

import re
from pathlib import Path

import pytest

from api.app import create_app
from api.settings import ApiSettings
from crawler.settings import CrawlerSettings
from reachability_worker.settings import WorkerSettings
from tests.support.screenshots import MOST_BYTES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "deploy").glob("*.md"))]
ALL_DOCS = README + "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))


def test_every_setting_stands_in_the_configuration():
    """And nothing that is no setting."""
    configuration = (ROOT / "docs/configuration.md").read_text()
    rows = set(re.findall(r"^\| `([A-Z_]+)` \|", configuration, re.MULTILINE))
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


def anchors(markdown):
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    """To a file of the project, and to a heading in it where one is named."""
    text = page.read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|srcset)=\"([^\"]+)\"", text)
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_screenshots_are_small():
    """`make screenshots` writes them; each is shown somewhere."""
    shown = README + "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    images = sorted((ROOT / "docs/images").iterdir())
    assert images
    for image in images:
        assert image.stat().st_size <= MOST_BYTES, image.name
        assert f"images/{image.name})" in shown or f'docs/images/{image.name}"' in shown, image.name
