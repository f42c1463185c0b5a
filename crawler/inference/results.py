"""This module keeps the latest inference checks, and puts them into snapshots with their own age."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from shared.snapshot import PeerState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.inference import Agreement, ServerInference, Usability
    from shared.snapshot import ModelReport, ServerReport, Snapshot

KEPT_PERIODS = 3
"""Periods after which a check tells nothing about now any more, and is dropped."""


class Results:
    """The latest checks of servers (by DHT prefix and peer id) and of models (by DHT prefix)."""

    def __init__(self, period: float) -> None:
        self._kept = KEPT_PERIODS * period
        self.servers: dict[tuple[str, str], ServerInference] = {}
        self.models: dict[str, Usability] = {}

    def add_agreements(self, dht_prefix: str, agreements: Mapping[str, Agreement]) -> None:
        for peer_id, agreement in agreements.items():
            found = self.servers.get((dht_prefix, peer_id))
            if found is not None and found.blocks == agreement.blocks:
                self.servers[dht_prefix, peer_id] = msgspec.structs.replace(found, agreement=agreement)

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from what another crawler published, where this one has nothing newer."""
        for model in snapshot.models:
            if model.usability is not None:
                self.models.setdefault(model.dht_prefix, model.usability)
            for server in model.servers:
                if server.inference is not None:
                    self.servers.setdefault((model.dht_prefix, server.peer_id), server.inference)

    def forget(self, now: float) -> None:
        """Drop what is too old."""
        self.servers = {key: one for key, one in self.servers.items() if now - one.checked_at <= self._kept}
        self.models = {key: one for key, one in self.models.items() if now - one.checked_at <= self._kept}

    def merged(self, snapshot: Snapshot, *, peer_id: str | None) -> Snapshot:
        """Return a snapshot with what is known of its servers and models; `peer_id` is who checks."""
        self.forget(snapshot.taken_at)
        return msgspec.structs.replace(
            snapshot, models=tuple(map(self._model, snapshot.models)), inference_peer_id=peer_id
        )

    def _model(self, model: ModelReport) -> ModelReport:
        servers = tuple(self._server(model.dht_prefix, server) for server in model.servers)
        return msgspec.structs.replace(model, servers=servers, usability=self.models.get(model.dht_prefix))

    def _server(self, dht_prefix: str, server: ServerReport) -> ServerReport:
        """A check of blocks that the server has left is not about this span any more."""
        found = self.servers.get((dht_prefix, server.peer_id))
        if found is None or server.state is not PeerState.ONLINE:
            return server
        start, end = found.blocks
        if start < server.span.start or server.span.end < end:
            return server
        return msgspec.structs.replace(server, inference=found)
