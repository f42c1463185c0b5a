"""hivemind and petals are used through one module each, which load neither torch nor the rest of them."""

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import shared.p2p.hivemind

ROOT = Path(__file__).resolve().parent.parent.parent
HIVEMIND_NAMES = {
    "ControlFailure", "DHTID", "DHTLocalStorage", "DHTNode", "DictionaryDHTValue", "MSGPackSerializer",
    "P2P", "P2PContext", "P2PDaemonError", "P2PHandlerError", "PeerID", "ServicerBase", "StreamInfo", "TimedStorage",
    "dht_pb2", "get_dht_time", "p2pd_pb2", "raise_if_failed", "read_pbmsg_safe", "runtime_pb2",
    "write_pbmsg",
}  # fmt: skip
MAY_IMPORT = {
    "shared/p2p/hivemind.py": {"hivemind"},
    "shared/p2p/petals.py": set(),  # it loads petals by path
    "crawler/health.py": {"hivemind"},  # for the type of an argument, while type checking only
}


def run(script, *, path=(), check=True):
    """Run a script in a fresh interpreter; return what it printed, or its error text."""
    code = f"import sys; sys.path[:0] = {[str(place) for place in path]!r}\n{script}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode == 0) == check, done.stderr
    return done.stdout if check else done.stderr


def test_the_names_that_are_used_of_hivemind():
    """A new one is looked up in the next version of hivemind, too."""
    assert set(shared.p2p.hivemind.__all__) == HIVEMIND_NAMES
    for name in HIVEMIND_NAMES:
        assert getattr(shared.p2p.hivemind, name) is not None


@pytest.mark.parametrize("folder", ["api", "crawler", "deploy", "reachability_worker", "shared", "tests"])
def test_nobody_else_imports_hivemind_or_petals(folder):
    """Neither the services nor what starts, simulates and tests them; the genuine Petals server's own files do."""
    for path in (ROOT / folder).rglob("*.py"):
        name = str(path.relative_to(ROOT))
        if name.startswith("tests/petals_server/"):
            continue
        imported = set(re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.MULTILINE))
        assert imported & {"hivemind", "petals", "torch"} <= MAY_IMPORT.get(name, set()), name


@pytest.mark.real_parts
def test_asking_hivemind_for_more_runs_its_own_init():
    """A script may import hivemind after the monitor: it gets the whole of it, or the whole's own error."""
    script = """
import shared.p2p.hivemind, hivemind, importlib.util
print(hivemind.PeerID is shared.p2p.hivemind.PeerID, "__getattr__" in vars(hivemind))
try:
    print(hivemind.DHT)
except ModuleNotFoundError as error:
    print(error.name)
"""
    first, last = run(script).splitlines()
    assert first == "True True"
    assert last == ("numpy" if find_spec("numpy") is None else "<class 'hivemind.dht.dht.DHT'>")


@pytest.mark.real_parts
def test_a_hivemind_that_moved_a_name_is_named(tmp_path):
    """With both versions, the name, and what to install."""
    shutil.copytree(find_spec("hivemind").submodule_search_locations[0], tmp_path / "hivemind")
    for name in ("utils.py", "control.py"):
        path = tmp_path / "hivemind/p2p/p2p_daemon_bindings" / name
        path.write_text(path.read_text().replace("raise_if_failed", "raise_for_failure"))
    (last,) = run("import shared.p2p.hivemind", path=[tmp_path], check=False).splitlines()[-1:]
    assert "this program needs 1.1.12" in last
    assert "'raise_if_failed'" in last
    assert "pip install --no-deps hivemind==1.1.12" in last


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("constants.py", ("PUBLIC_INITIAL_PEERS", "INITIAL_PEERS"), "assigns no PUBLIC_INITIAL_PEERS"),
        ("data_structures.py", ("class ModelInfo", "class ModelFacts"), "ModelInfo"),
    ],
)
@pytest.mark.real_parts
def test_a_petals_that_moved_a_name_is_named(tmp_path, file, change, words):
    """With both versions, the name, and what to install."""
    shutil.copytree(find_spec("petals").submodule_search_locations[0], tmp_path / "petals")
    path = tmp_path / "petals" / file
    path.write_text(path.read_text().replace(*change))
    (last,) = run("import shared.p2p.petals", path=[tmp_path], check=False).splitlines()[-1:]
    assert "this program needs 2.2.0.post1" in last
    assert words in last
    assert "pip install --no-deps petals==2.2.0.post1" in last


@pytest.mark.parametrize("package", ["hivemind", "petals"])
@pytest.mark.real_parts
def test_without_the_package_it_says_what_to_install(package):
    """Not a traceback from inside an import system."""
    script = f"""
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == {package!r} else real(name, *more)
import shared.p2p.petals
"""
    (last,) = run(script, check=False).splitlines()[-1:]
    assert f"No module named '{package}'" in last
    assert f"pip install --no-deps {package}==" in last


@pytest.mark.real_parts
def test_petals_is_left_as_it_was():
    """A later `import petals` runs its own `__init__`; hivemind gains no name by it."""
    script = """
import json, sys
import shared.p2p.petals
print(json.dumps([name for name in ("petals", "petals.utils", "petals.constants") if name in sys.modules]))
"""
    assert json.loads(run(script)) == []
