"""docker-compose.yml: known keys, each once; settings that exist; limits and checks on every service."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from api.settings import ApiSettings
from crawler.settings import CrawlerSettings
from reachability_worker.settings import WorkerSettings
from tests.deploy.tools import run, tool
from tests.proof import stand_ins

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE_FILES = (ROOT / "docker-compose.yml", DEPLOY / "compose.tls.yml")
SETTINGS = {"api": ApiSettings, "crawler": CrawlerSettings, "reachability_worker": WorkerSettings}
SET_BY_THE_IMAGE = {
    "API_HOST", "API_PORT", "METRICS_HOST", "API_METRICS_PORT", "CRAWLER_METRICS_PORT", "WORKER_METRICS_PORT",
    "LOG_FORMAT",
}  # fmt: skip
# No setting of a service: deploy/with_swarm.py and OpenTelemetry read them.
OF_OTHERS = {"DEMO_SWARM_URL", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"}


def variables(settings: type) -> set[str]:
    return {name.upper() for name in settings.model_fields}


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load(COMPOSE_FILES[0].read_text())


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=lambda path: path.name)
@pytest.mark.real_parts
def test_compose_files_have_no_unknown_key(path):
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(path))


def keys_given_twice(node: yaml.Node) -> list[str]:
    """PyYAML takes the last of two equal keys without a word; compose v2 refuses the file."""
    twice = []
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value]
        twice = [f"{name}, line {node.start_mark.line + 1}" for name in set(names) if names.count(name) > 1]
    children = node.value if isinstance(node, yaml.CollectionNode) else []
    for child in children:
        for part in child if isinstance(child, tuple) else (child,):
            twice += keys_given_twice(part)
    return twice


@pytest.mark.parametrize(
    "path",
    [*COMPOSE_FILES, *sorted(DEPLOY.rglob("*.yml")), *sorted(DEPLOY.rglob("*.yaml"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_key_is_given_twice(path):
    documents = list(yaml.compose_all(path.read_text(), Loader=yaml.SafeLoader))
    assert documents
    assert not [twice for document in documents for twice in keys_given_twice(document)]


def test_the_example_environment_gives_each_variable_once():
    names = re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert len(names) == len(set(names))


def test_every_service_is_limited_hardened_and_watched(compose):
    for name, service in compose["services"].items():
        assert service["restart"] == "unless-stopped", name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "test" in service["healthcheck"], name
        assert {"mem_limit", "pids_limit"} <= set(service), name


def test_no_container_runs_as_root(compose):
    """By the service's own word, or by that of its stage in the Dockerfile."""
    stages = re.split(r"^FROM ", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    users = {stage.split()[2]: re.findall(r"^USER (\d+):", stage, re.MULTILINE) for stage in stages if " AS " in stage}
    for name, service in compose["services"].items():
        target = service["build"]["target"] if "build" in service else None
        user = service.get("user", "").split(":")[0] or (users[target][-1:] or ["0"])[0]
        assert int(user) > 0, name


def test_only_nginx_is_published_to_the_world(compose):
    for name, service in compose["services"].items():
        ports = service.get("ports", [])
        assert name == "nginx" or all(port.startswith("127.0.0.1:") for port in ports), f"{name}: {ports}"


def test_redis_has_no_way_out_and_the_api_has_none(compose):
    assert compose["networks"]["backend"]["internal"] is True
    assert compose["services"]["redis"]["networks"] == compose["services"]["api"]["networks"] == ["backend"]


@pytest.mark.parametrize("service", SETTINGS)
def test_compose_passes_every_setting_of_a_service_and_no_other(compose, service):
    passed = set(compose["services"][service]["environment"]) - OF_OTHERS
    if "<<" in passed:
        pytest.fail("merge keys were not resolved")
    known = variables(SETTINGS[service]) - SET_BY_THE_IMAGE
    assert passed == known, f"missing: {known - passed}, unknown: {passed - known}"


def test_the_example_environment_lists_exactly_what_compose_asks_for():
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", "".join(path.read_text() for path in COMPOSE_FILES)))
    listed = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert asked == listed, f"not in .env.example: {asked - listed}; in it for nothing: {listed - asked}"


def test_the_example_environment_shows_compose_s_defaults():
    defaults = dict(re.findall(r"(?<!\$)\$\{(\w+):-([^}]*)\}", "".join(path.read_text() for path in COMPOSE_FILES)))
    shown = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    # A default of compose's own that differs from the service's is only told in words.
    differing = {name for name in shown if shown[name] and shown[name] != defaults[name]}
    assert not differing


def test_no_default_is_nested():
    """docker-compose 1.29, which Debian ships, ends `${A:-${B}}` at the first brace."""
    for path in COMPOSE_FILES:
        assert not re.search(r"\$\{[^}]*\$\{", path.read_text()), path.name


def test_every_mounted_file_exists(compose):
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), f"{name} mounts {source}"


def test_the_proof_makes_the_base_images_that_are_used(compose):
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert f"PYTHON_IMAGE={stand_ins.PYTHON_IMAGE}\n" in dockerfile
    for service in ("redis", "nginx", "prometheus", "alertmanager"):
        image = getattr(stand_ins, f"{service.upper()}_IMAGE")
        assert compose["services"][service]["image"].endswith(f":-{image}}}")
