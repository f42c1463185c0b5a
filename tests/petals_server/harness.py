"""A genuine Petals server on this machine, and a private swarm for it.

Everything listens on 127.0.0.1 and nothing asks the Internet, but for the one-time build of the server's environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.embedded_redis import free_port
from tests.petals_server.environment import PYTHON, build, is_installed
from tests.petals_server.processes import Group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HERE = Path(__file__).parent

SWITCH = "PETALS_SERVER_TESTS"
"""Environment variable: 1 builds the environment where it is missing, 0 skips the tests, unset takes what is there."""

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    # A starting server asks PyPI for news without a time-out; here it is refused at once.
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1",
    "HIVEMIND_COLORS": "false",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}

BOOTSTRAP_WITHIN = 30.0
SERVER_WITHIN = 90.0
"""Seconds; an idle machine with 2 cores needs 2 and 6."""
CLIENT_WITHIN = 90.0
"""Seconds; an idle machine needs 15."""


def reason_to_skip() -> str | None:
    """Say why these tests cannot run here, or None."""
    switch = os.environ.get(SWITCH)
    if switch == "0":
        return f"{SWITCH}=0"
    if switch != "1" and not is_installed():
        return f"the Petals server's environment is not built (1.6 GB): make test-petals, or {SWITCH}=1"
    return None


@cache
def venv() -> Path:
    """Return the python of the server's environment; build it first where it is missing or its list has changed."""
    build()
    return PYTHON


def make_models(folder: Path, wanted: Mapping[str, tuple[int, str]]) -> dict[str, Path]:
    """Return a folder for each name with a tiny random Llama of so many layers and of this kind (make_model.py)."""
    names = [f"{name}:{layers}:{kind}" for name, (layers, kind) in wanted.items()]
    _run([venv(), HERE / "make_model.py", folder, *names], folder)
    return {name: folder / name for name in wanted}


def run_client(
    folder: Path, model: Path, address: str, servers: Mapping[str, Sequence[str]], inputs: Sequence[Sequence[float]]
) -> dict[str, dict[str, Any]]:
    """Return what the genuine client gets of each DHT prefix from these servers of it (client.py says how)."""
    asked = {
        "model": str(model),
        "initial_peers": [address],
        "servers": {dht_prefix: list(peers) for dht_prefix, peers in servers.items()},
        "inputs": [list(one) for one in inputs],
    }
    (folder / "client.json").write_text(json.dumps(asked))
    # Its DHT processes outlive it and would hold a pipe open: its output goes to a file, its group is ended.
    (folder / "client.log").unlink(missing_ok=True)
    with Group("client", [venv(), HERE / "client.py", folder / "client.json"], folder, _environment(folder)) as client:
        return dict(json.loads(client.wait_for_line(r"RESULT (\{.*\})", CLIENT_WITHIN).group(1)))


def ask_as_petals(
    url: str, peer_id: str, folder: Path, *, wait_time: float = 0.0, retry_delay: float = 1.0
) -> dict[str, str]:
    """Return what the genuine `validate_reachability` makes of the monitor at `url` (validate.py says how).

    It asks `wait_time // retry_delay + 1` times until it gets a yes.
    """
    options = ["--wait-time", str(wait_time), "--retry-delay", str(retry_delay)]
    output = _run([venv(), HERE / "validate.py", url, peer_id, *options], folder)
    outcome: dict[str, str] = json.loads(output.splitlines()[-1])
    return outcome


def call_python_api(first: str, address: str, folder: Path) -> dict[str, Any]:
    """Return what `fetch_health_state` makes of a swarm, called from a process with torch (python_api.py says how)."""
    packages = sysconfig.get_path("purelib")
    return dict(json.loads(_run([venv(), HERE / "python_api.py", first, packages, address], folder).splitlines()[-1]))


def compare_paths(how_many: int, folder: Path) -> list[tuple[float | None, float | None]]:
    """Return the seconds per token of our and the genuine client's paths in random swarms (paths.py says how)."""
    return [(ours, theirs) for ours, theirs in json.loads(_run([venv(), HERE / "paths.py", str(how_many)], folder))]


def _run(command: list[str | Path], folder: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=dict(os.environ) | _environment(folder),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _environment(folder: Path) -> dict[str, str]:
    return OFFLINE | {"HF_HOME": str(folder / "hugging-face"), "PETALS_CACHE": str(folder / "petals-cache")}


class Bootstrap(Group):
    """The first node of a private swarm: hivemind's own command-line DHT node."""

    def __init__(self, folder: Path) -> None:
        """Start it and return when others can join at `address`."""
        maddr = f"/ip4/127.0.0.1/tcp/{free_port()}"
        options = ["--host_maddrs", maddr, "--announce_maddrs", maddr]
        command: list[str | Path] = [venv(), "-m", "hivemind.hivemind_cli.run_dht", *options]
        super().__init__("bootstrap", command, folder, _environment(folder))
        try:
            self.address = self.wait_for_line(rf"--initial_peers ({maddr}/p2p/\w+)", BOOTSTRAP_WITHIN).group(1)
        except BaseException:
            self.kill()
            raise


class Relay(Group):
    """A bootstrap peer that relays for servers behind a NAT; it needs a public address (network.py)."""

    def __init__(self, folder: Path, ip: str) -> None:
        """Start it and return when others can join at `address`."""
        command: list[str | Path] = [venv(), HERE / "relay.py", f"/ip4/{ip}/tcp/{free_port()}"]
        super().__init__("relay", command, folder, _environment(folder))
        try:
            self.address = self.wait_for_line(r"--initial_peers (/ip4/\S+/p2p/\w+)", BOOTSTRAP_WITHIN).group(1)
        except BaseException:
            self.kill()
            raise


class PetalsServer(Group):
    """A genuine `petals.cli.run_server` on CPU that serves blocks of a model folder."""

    def __init__(
        self,
        folder: Path,
        *,
        initial_peers: list[str],
        model: Path,
        dht_prefix: str,
        blocks: tuple[int, int],
        public_name: str,
        update_period: float = 5.0,
        expiration: float = 60.0,
        reachability_api: str | None = None,
        relay: str | None = None,
        torch_dtype: str = "float32",
        attn_cache_tokens: int = 64,
        adapters: Sequence[str] = (),
    ) -> None:
        """Start it. `wait_until_started` waits. `folder` keeps its log and its identity, under its public name.

        `expiration` is how long its records live in the DHT without it, in seconds. With `reachability_api` it asks
        that URL about itself before it serves, and stops itself where it gets no yes. With `relay`, the address of
        one, it can be reached through that alone; the relay takes it about three minutes after the start. `adapters`
        are folders in `folder`.
        """
        maddr = f"/ip4/127.0.0.1/tcp/{free_port()}"
        options: dict[str, list[str | Path]] = {
            "--dht_prefix": [dht_prefix],
            "--initial_peers": [*initial_peers],
            "--host_maddrs": [maddr],
            "--identity_path": [folder / f"{public_name}.id"],
            "--device": ["cpu"],
            "--torch_dtype": [torch_dtype],
            "--throughput": ["123.5"],
            "--public_name": [public_name],
            "--block_indices": [f"{blocks[0]}:{blocks[1]}"],
            "--num_handlers": ["1"],
            "--attn_cache_tokens": [str(attn_cache_tokens)],
            "--update_period": [str(update_period)],
            "--expiration": [str(expiration)],
        }
        if adapters:
            options["--adapters"] = [*adapters]
        env = _environment(folder)
        if relay is None:
            options["--announce_maddrs"] = [maddr]
            options["--no_auto_relay"] = []
        else:
            env["TRUSTED_RELAY"] = relay
        if reachability_api is None:
            options["--skip_reachability_check"] = []
        else:
            env["REACHABILITY_API_URL"] = reachability_api
        arguments = [str(part) for option, values in options.items() for part in (option, *values)]
        command: list[str | Path] = [venv(), HERE / "runner.py", model, *arguments]
        super().__init__(public_name, command, folder, env)

    def wait_until_started(self, timeout: float = SERVER_WITHIN) -> str:
        """Return its peer id once it takes requests; its ONLINE record reaches the DHT in the same second."""
        self.wait_for_line(r"\[INFO\] Started", timeout)
        return self.peer_id

    def leave(self) -> None:
        """End it as Ctrl+C does: it announces that it is offline first. Raise `AssertionError` where it does not.

        Its exit code says nothing: some runs end in a segmentation fault (-11) after all is done.
        """
        obeyed = self.stop()
        assert obeyed is not None, f"no reaction to SIGINT\n{self.tail()}"
        assert "Module container shut down successfully" in self.output(), self.tail()

    @property
    def peer_id(self) -> str:
        return self.wait_for_line(r"Running a server on \['/ip4/\S+/p2p/(\w+)'", SERVER_WITHIN).group(1)
