"""This module keeps the latest inference checks, and merges them into snapshots; each keeps its own time."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from crawler.incidents import judged
from shared import words
from shared.inference import ServerInference, Usability, UsabilityState
from shared.judgement.coverage import coverage
from shared.judgement.freshness import snapshot_period
from shared.snapshot import ModelState, PeerState

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from shared.inference import Agreement
    from shared.snapshot import ModelReport, ServerReport, Snapshot

K = TypeVar("K")
T = TypeVar("T", ServerInference, Usability)

KEPT_PERIODS = 3
"""Periods, of checks or of crawls if these are longer, after which a check says nothing about now, and is dropped."""


class Results:
    """The latest checks of servers (by DHT prefix and peer id; with an adapter apart) and models (by prefix)."""

    def __init__(self, period: float, only: Collection[str] | None = None) -> None:
        """`period` is seconds between two checks; `only` are the DHT prefixes of those that are checked, None: all."""
        self._period = period
        self._only = only
        self.servers: dict[tuple[str, str], ServerInference] = {}
        self.adapters: dict[tuple[str, str], ServerInference] = {}
        self.models: dict[str, Usability] = {}

    def add(self, dht_prefix: str, peer_id: str, found: ServerInference) -> None:
        (self.servers if found.adapter is None else self.adapters)[dht_prefix, peer_id] = found

    def add_agreements(self, dht_prefix: str, agreements: Mapping[str, Agreement], adapter: str | None) -> None:
        """Add how servers' results compare with one another; all were checked with this adapter."""
        kept = self.servers if adapter is None else self.adapters
        for peer_id, agreement in agreements.items():
            found = kept.get((dht_prefix, peer_id))
            if found is not None and found.blocks == agreement.blocks and found.adapter == adapter:
                kept[dht_prefix, peer_id] = msgspec.structs.replace(found, agreement=agreement)

    def restore(self, snapshot: Snapshot) -> None:
        """Add the checks that another crawler published, where this one has no newer ones."""
        for model in snapshot.models:
            if model.state is ModelState.HEALTHY:  # what is said of a broken one is of no chain
                _add_newer(self.models, model.dht_prefix, model.usability)
            for server in model.servers:
                key = model.dht_prefix, server.peer_id
                _add_newer(self.servers, key, server.inference)
                _add_newer(self.adapters, key, server.adapter_inference)

    def merged(self, snapshot: Snapshot, *, peer_id: str | None) -> Snapshot:
        """Return a snapshot with its checks, without those that are too old. `peer_id` is that of the checking node."""
        oldest = snapshot.taken_at - KEPT_PERIODS * max(self._period, snapshot_period(snapshot))
        self.servers = {key: one for key, one in self.servers.items() if one.checked_at >= oldest}
        self.adapters = {key: one for key, one in self.adapters.items() if one.checked_at >= oldest}
        present = {model.dht_prefix for model in snapshot.models}
        for prefix, one in tuple(self.models.items()):
            if prefix not in present:
                del self.models[prefix]
            elif one.checked_at < oldest:
                self.models[prefix] = Usability(UsabilityState.UNKNOWN, one.checked_at, "not tried since then")
        models = tuple(self._model(model, snapshot) for model in snapshot.models)
        return msgspec.structs.replace(snapshot, models=models, inference_peer_id=peer_id)

    def _model(self, model: ModelReport, snapshot: Snapshot) -> ModelReport:
        prefix, at = model.dht_prefix, snapshot.taken_at
        servers = tuple(self._server(prefix, server) for server in model.servers)
        found = self.models.get(prefix)
        takes_part = self._only is None or prefix in self._only
        if takes_part and judged(model, snapshot.unanswered_keys) is ModelState.BROKEN:
            # No chain can prove more. What an earlier one proved says nothing about the servers that will come.
            self.models[prefix] = Usability(UsabilityState.UNKNOWN, at, "not tried since its blocks have servers again")
            missing = words.blocks(coverage(model).gaps())
            found = Usability(UsabilityState.UNUSABLE, at, f"no server that answers holds {missing}")
        return msgspec.structs.replace(model, servers=servers, usability=found)

    def _server(self, dht_prefix: str, server: ServerReport) -> ServerReport:
        """Return the server with its checks, except those of blocks or an adapter that it no longer serves."""
        if server.state is not PeerState.ONLINE:
            return server

        def still(found: ServerInference | None) -> ServerInference | None:
            if found is None or found.blocks[0] < server.span.start or server.span.end < found.blocks[1]:
                return None
            return found if found.adapter is None or found.adapter in server.adapters else None

        key = dht_prefix, server.peer_id
        plain, adapted = still(self.servers.get(key)), still(self.adapters.get(key))
        if plain is adapted is None:
            return server
        return msgspec.structs.replace(server, inference=plain, adapter_inference=adapted)


def _add_newer(kept: dict[K, T], key: K, found: T | None) -> None:
    before = kept.get(key)
    if found is not None and (before is None or before.checked_at < found.checked_at):
        kept[key] = found
