"""Fixtures of the tests with a genuine Petals server; without its environment they are skipped, with a reason."""

from __future__ import annotations

import os
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.petals_server.harness import Bootstrap, PetalsServer, Relay, make_models, reason_to_skip
from tests.petals_server.monitor import Monitor, running_monitor
from tests.petals_server.network import RELAY, Network

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

HERE = Path(__file__).parent
BUILD_AND_RUN_WITHIN = 1200
"""Seconds for one test: the first one may have to build the server's environment."""

TINY = "tiny-llama-hf"
TWELVE = "twelve-llama-hf"
LAYERS = {TINY: 4, TWELVE: 12}
"""Models by DHT prefix: one below and one above the 10 blocks from which a server's public name is shown."""
OTHER, NAN, LORA = "other", "nan", "tests/tiny-lora"
"""Models of four layers with other weights and with NaN, and an adapter for the one of four layers."""


@pytest.hookimpl(tryfirst=True)  # tests/conftest.py looks at the mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder, and skip them where no server can be started.

    Those of a relayed server come last: it starts with the first of the others, and needs three minutes.
    """
    reason = reason_to_skip()
    items.sort(key=_needs_relay)
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.petals_server)
            item.add_marker(pytest.mark.timeout(BUILD_AND_RUN_WITHIN))
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


def _needs_relay(item: pytest.Item) -> bool:
    return "relayed" in getattr(item, "fixturenames", ())


@cache
def network() -> Network | None:
    """Return the network that these tests run in; None where this process may not make one."""
    return Network() if os.geteuid() == 0 else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run the tests of this folder, with the fixtures that they make, in the network of their own."""
    inside = network() if HERE in item.path.parents and reason_to_skip() is None else None
    with nullcontext() if inside is None else inside.entered():
        return (yield)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    good = {prefix: (layers, "good") for prefix, layers in LAYERS.items()}
    odd = {OTHER: (LAYERS[TINY], "other"), NAN: (LAYERS[TINY], "nan"), LORA: (LAYERS[TINY], "lora")}
    return make_models(tmp_path_factory.mktemp("models"), good | odd)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs and identities of one module's processes."""
    return tmp_path_factory.mktemp("petals-server")


@pytest.fixture(scope="module")
def bootstrap(folder: Path) -> Iterator[Bootstrap]:
    with Bootstrap(folder) as node:
        yield node


class StartServer:
    """Starts servers of the two models in the module's swarm."""

    def __init__(self, folder: Path, bootstrap: Bootstrap, models: dict[str, Path]) -> None:
        self._folder, self._bootstrap, self._models = folder, bootstrap, models

    def __call__(
        self, dht_prefix: str, public_name: str, *, expiration: float = 60.0, reachability_api: str | None = None
    ) -> PetalsServer:
        return PetalsServer(
            self._folder,
            initial_peers=[self._bootstrap.address],
            model=self._models[dht_prefix],
            dht_prefix=dht_prefix,
            blocks=(0, LAYERS[dht_prefix]),
            public_name=public_name,
            expiration=expiration,
            reachability_api=reachability_api,
        )


@pytest.fixture(scope="module")
def start_server(folder: Path, bootstrap: Bootstrap, models: dict[str, Path]) -> StartServer:
    return StartServer(folder, bootstrap, models)


class Relayed:
    """A server that only a relay makes reachable, in a swarm of its own with a monitor that it asks about itself."""

    def __init__(self, relay: Relay, monitor: Monitor, server: PetalsServer) -> None:
        self.relay, self.monitor, self.server = relay, monitor, server


@pytest.fixture(scope="session", autouse=True)
def _relayed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relayed | None]:
    """Start it with the first test of this folder, where one asks for it: the others run while it waits."""
    if network() is None or not any(_needs_relay(item) for item in request.session.items):
        yield None
        return
    folder = tmp_path_factory.mktemp("relayed")
    with (
        Relay(folder, RELAY) as relay,
        running_monitor(folder, [relay.address]) as monitor,
        PetalsServer(
            folder,
            initial_peers=[relay.address],
            model=request.getfixturevalue("models")[TINY],
            dht_prefix=TINY,
            blocks=(0, LAYERS[TINY]),
            public_name="relayed",
            reachability_api=monitor.url,
            relay=relay.address,
        ) as server,
    ):
        monitor.wait_until_ready()
        yield Relayed(relay, monitor, server)


@pytest.fixture
def relayed(_relayed: Relayed | None) -> Relayed:
    if _relayed is None:
        pytest.skip("a relay needs public addresses, so a network namespace: root, or unshare --user --map-root-user")
    return _relayed
