"""The Kubernetes manifests as kustomize builds them: valid, restricted, and pointing at what exists."""

from __future__ import annotations

import ipaddress
import os
import re
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from api.settings import ApiSettings
from crawler.settings import CrawlerSettings
from reachability_worker.settings import WorkerSettings
from shared.store.connection import parse_redis_url
from tests.deploy.tools import run, tool

pytestmark = pytest.mark.real_parts  # kubectl builds them
ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
OVERLAYS = ("demo", "production")
SERVICES = {"api", "crawler", "reachability-worker"}
ALL_VARIABLES = {
    name.upper() for settings in (ApiSettings, CrawlerSettings, WorkerSettings) for name in settings.model_fields
}
# No setting of a service: deploy/with_swarm.py and OpenTelemetry read them.
OF_OTHERS = {"DEMO_SWARM_URL", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"}
OF_OPERATORS = {"monitoring.coreos.com"}  # kinds that no schema here knows


@cache
def built(overlay: str) -> tuple[dict, ...]:
    return tuple(yaml.safe_load_all(run(tool("kubectl"), "kustomize", str(KUBERNETES / "overlays" / overlay))))


def of_kind(overlay: str, kind: str) -> dict[str, dict]:
    return {one["metadata"]["name"]: one for one in built(overlay) if one["kind"] == kind}


def pod(deployment: dict) -> dict:
    return deployment["spec"]["template"]["spec"]


def pods_chosen(selector: dict, overlay: str) -> list[str]:
    """Names of the Deployments whose pods match a label selector."""
    return [
        name
        for name, deployment in of_kind(overlay, "Deployment").items()
        if selector["matchLabels"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    ]


def port_names(deployment: dict) -> set[str]:
    return {port["name"] for container in pod(deployment)["containers"] for port in container.get("ports", [])}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_are_valid(overlay, tmp_path):
    """Against the schemas of Kubernetes itself, with no unknown field."""
    own = [one for one in built(overlay) if one["apiVersion"].partition("/")[0] not in OF_OPERATORS]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(own))
    run(tool("kubernetes-validate"), "--strict", "--no-warn", str(tmp_path / "all.yaml"))


def test_a_misspelt_field_is_noticed(tmp_path):
    """The check above can fail."""
    deployment = dict(of_kind("production", "Deployment")["api"])
    deployment["spec"] = {**deployment["spec"], "replica": 2}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(deployment))
    with pytest.raises(AssertionError, match="replica"):
        run(tool("kubernetes-validate"), "--strict", "--no-warn", str(tmp_path / "wrong.yaml"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_restricted_and_probed(overlay):
    deployments = of_kind(overlay, "Deployment")
    assert set(deployments) >= SERVICES
    for name, deployment in deployments.items():
        spec = pod(deployment)
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert {"requests", "limits"} <= set(container["resources"]), name
            assert "livenessProbe" in container or "startupProbe" in container, name


def test_the_api_leaves_no_gap_while_it_is_replaced():
    """A new pod is ready before an old one goes, and the old one serves on until its address is forgotten."""
    api = of_kind("production", "Deployment")["api"]
    assert api["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    [container] = pod(api)["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    # preStop's pause, then what api/__main__.py gives open requests.
    assert pod(api)["terminationGracePeriodSeconds"] > pause + 12


def least(overlay: str, name: str) -> int:
    """How many pods of a Deployment there are at least: as many as its autoscaler says, where it has one."""
    replicas = of_kind(overlay, "Deployment")[name]["spec"].get("replicas")
    for scaler in of_kind(overlay, "HorizontalPodAutoscaler").values():
        if scaler["spec"]["scaleTargetRef"]["name"] == name:
            assert replicas is None, f"{name}: every apply would reset what its autoscaler has chosen"
            return scaler["spec"]["minReplicas"]
    return replicas


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_service_survives_a_drained_node(overlay):
    """A budget of its own, that matches its pods and leaves room for one to go."""
    covered = set()
    for budget in of_kind(overlay, "PodDisruptionBudget").values():
        [name] = pods_chosen(budget["spec"]["selector"], overlay)
        assert budget["spec"]["minAvailable"] < least(overlay, name)
        covered.add(name)
    assert covered == SERVICES


def test_the_api_scales_by_its_cpu():
    [scaler] = of_kind("production", "HorizontalPodAutoscaler").values()
    assert scaler["spec"]["scaleTargetRef"]["name"] == "api"
    [metric] = scaler["spec"]["metrics"]
    assert metric["resource"]["name"] == "cpu"
    # A share of the request: without one it would never scale.
    assert "cpu" in pod(of_kind("production", "Deployment")["api"])["containers"][0]["resources"]["requests"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_services_lead_to_ports_that_exist(overlay):
    for name, service in of_kind(overlay, "Service").items():
        chosen = pods_chosen({"matchLabels": service["spec"]["selector"]}, overlay)
        assert len(chosen) == 1, name
        named = {port["targetPort"] for port in service["spec"]["ports"]}
        assert named <= port_names(of_kind(overlay, "Deployment")[chosen[0]]), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_network_policies_deny_first_and_name_what_exists(overlay):
    policies = of_kind(overlay, "NetworkPolicy")
    deny = policies["default-deny"]["spec"]
    assert deny["podSelector"] == {} or set(deny["podSelector"]) == {"matchLabels"}
    assert set(deny["policyTypes"]) == {"Ingress", "Egress"}
    assert not {"ingress", "egress"} & set(deny)
    everywhere = set().union(*map(port_names, of_kind(overlay, "Deployment").values()))
    for name, policy in policies.items():
        ports = [port for rule in policy["spec"].get("ingress", []) for port in rule.get("ports", [])]
        assert {port["port"] for port in ports} <= everywhere, name
    # The api has no way out but to Redis: it never dials peers.
    assert {port["port"] for rule in policies["api"]["spec"]["egress"] for port in rule["ports"]} == {6379, 26379}


def test_every_process_is_scraped_and_the_swarm_once():
    """Under names that the alerts and dashboards know."""
    [monitor] = of_kind("production", "ServiceMonitor").values()
    wanted = monitor["spec"]["selector"]["matchLabels"]
    scraped = {
        pods_chosen({"matchLabels": service["spec"]["selector"]}, "production")[0]
        for service in of_kind("production", "Service").values()
        if wanted.items() <= service["metadata"]["labels"].items()
    }
    assert scraped == SERVICES
    # Each has a job that the alerts and dashboards know.
    rules = (KUBERNETES.parent / "prometheus/rules.yml").read_text()
    [known] = re.findall(r"up\{job=~\"([^\"]+)\"\} == 0", rules)
    [relabelling] = monitor["spec"]["endpoints"][0]["relabelings"]
    assert relabelling["sourceLabels"] == ["__meta_kubernetes_service_label_app_kubernetes_io_name"]
    assert relabelling["targetLabel"] == "job"
    for service in of_kind("production", "Service").values():
        name = service["metadata"]["labels"]["app.kubernetes.io/name"]
        assert re.fullmatch(known, relabelling["replacement"].replace("$1", name)), name
    [once] = of_kind("production", "ScrapeConfig").values()
    [target] = once["spec"]["staticConfigs"][0]["targets"]
    service, namespace, _ = target.partition(":")[0].split(".")
    found = of_kind("production", "Service")[service]
    assert found["metadata"]["namespace"] == namespace
    assert int(target.partition(":")[2]) in {port["port"] for port in found["spec"]["ports"]}


def test_production_runs_no_moving_tag_and_brings_no_secret():
    assert not of_kind("production", "Secret")
    for name, deployment in of_kind("production", "Deployment").items():
        for container in pod(deployment)["containers"]:
            assert not container["image"].endswith((":latest", ":")), name
            asked = [one["valueFrom"]["secretKeyRef"] for one in container["env"] if one["name"] == "REDIS_URL"]
            assert asked == [{"name": "petals-monitor-redis", "key": "url"}], name


def test_the_redis_urls_that_production_shows_are_ones_that_the_services_take():
    """One for a single address, one for Sentinel."""
    text = (KUBERNETES / "overlays/production/kustomization.yaml").read_text()
    urls = re.findall(r"--from-literal=url='([^']+)'", text)
    assert [urlsplit(url).scheme for url in urls] == ["rediss", "sentinel"]
    place = parse_redis_url(urls[1])
    assert place is not None
    assert place.options["password"] == "PASSWORD"  # noqa: S105
    assert len(place.sentinels) == 3


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_names_only_settings_that_exist(overlay):
    [settings] = of_kind(overlay, "ConfigMap").values()
    assert set(settings["data"]) <= ALL_VARIABLES | OF_OTHERS
    for network in settings["data"]["TRUSTED_PROXIES"].split(","):
        ipaddress.ip_network(network)


def test_the_export_has_one_volume_that_crawlers_write_and_apis_read(tmp_path):
    """The component is valid on top of production, and mounts the folder that the setting names."""
    base, component = KUBERNETES / "overlays/production", KUBERNETES / "components/export"
    files = {"resources": [os.path.relpath(base, tmp_path)], "components": [os.path.relpath(component, tmp_path)]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(files))
    made = [*yaml.safe_load_all(run(tool("kubectl"), "kustomize", str(tmp_path)))]
    own = [one for one in made if one["apiVersion"].partition("/")[0] not in OF_OPERATORS]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(own))
    run(tool("kubernetes-validate"), "--strict", "--no-warn", str(tmp_path / "all.yaml"))
    named = {(one["kind"], one["metadata"]["name"]): one for one in made}
    folder = named["ConfigMap", "petals-monitor"]["data"]["EXPORT_FOLDER"]
    [access] = named["PersistentVolumeClaim", "export"]["spec"]["accessModes"]
    assert access == "ReadWriteMany"
    mounts = {
        name: [
            mount.get("readOnly", False)
            for mount in pod(named["Deployment", name])["containers"][0]["volumeMounts"]
            if mount["mountPath"] == folder
        ]
        for name in SERVICES
    }
    assert mounts == {"api": [True], "crawler": [False], "reachability-worker": []}


def test_the_keda_example_scales_what_exists():
    example = yaml.safe_load((KUBERNETES / "examples/keda-scaled-object.yaml").read_text())
    assert example["spec"]["scaleTargetRef"]["name"] in of_kind("production", "Deployment")
    assert (
        example["metadata"]["namespace"]
        == of_kind("production", "ConfigMap")["petals-monitor"]["metadata"]["namespace"]
    )
    metric = re.search(r"\((\w+)\)", example["spec"]["triggers"][0]["metadata"]["query"])
    assert metric is not None
    assert metric[1] in (ROOT / "reachability_worker/metrics.py").read_text()
