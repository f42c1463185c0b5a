"""Fixtures of the tests with a genuine Petals server; without its environment they are skipped, with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.petals_server.harness import Bootstrap, PetalsServer, make_model, reason_to_skip

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
BUILD_AND_RUN_WITHIN = 1200
"""Seconds for one test: the first one may have to build the server's environment."""

TINY = "tiny-llama-hf"
TWELVE = "twelve-llama-hf"
LAYERS = {TINY: 4, TWELVE: 12}
"""Models by DHT prefix: one below and one above the 10 blocks from which a server's public name is shown."""


@pytest.hookimpl(tryfirst=True)  # tests/conftest.py looks at the mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder, and skip them where no server can be started."""
    reason = reason_to_skip()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.petals_server)
            item.add_marker(pytest.mark.timeout(BUILD_AND_RUN_WITHIN))
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {prefix: make_model(folder / prefix, layers) for prefix, layers in LAYERS.items()}


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
