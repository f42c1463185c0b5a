"""This module lists the models that are broken now: by the latest crawl, and by the incidents that are open.

An incident opens at the second crawl that finds a model broken, and not at all for one that anyone can announce and
that never was healthy. The overview calls both broken at once; so does everything that lists incidents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from shared.judgement.usability import gives_tokens
from shared.snapshot import ModelState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.incidents import Incident
    from shared.snapshot import ModelReport, Snapshot

OutageState = Literal["broken", "unserved", "recovering", "unknown"]


@dataclass(frozen=True, slots=True)
class Outage:
    """A model that the latest crawl found broken, or whose incident is open.

    `broken`: blocks have no server, or no token comes out. `unserved`: its incident is open, and nobody announces it.
    `recovering`: the latest crawl found it healthy; the incident ends if the next one does too. `unknown`: there is no
    snapshot to compare the incident with, or nobody could look whether tokens come out again.
    """

    dht_prefix: str
    name: str
    official: bool
    state: OutageState
    incident: Incident | None

    @property
    def is_broken(self) -> bool:
        return self.state in ("broken", "unserved")


def outages(snapshot: Snapshot | None, incidents: Iterable[Incident]) -> tuple[Outage, ...]:
    """Return models with an open incident in the order of the incidents, then those that are broken without one."""
    models = {model.dht_prefix: model for model in snapshot.models} if snapshot is not None else {}
    found = {}
    for incident in incidents:
        if incident.end is not None or incident.dht_prefix in found:
            continue
        model = models.get(incident.dht_prefix)
        state: OutageState = "unserved"
        if snapshot is None:
            state = "unknown"
        elif model is not None and model.servers:
            state = _of_served(model, incident)
        found[incident.dht_prefix] = Outage(incident.dht_prefix, incident.name, incident.official, state, incident)
    for prefix, model in models.items():
        if prefix not in found and model.servers and model.state is ModelState.BROKEN:
            found[prefix] = Outage(prefix, model.name, model.official, "broken", None)
    return tuple(found.values())


def _of_served(model: ModelReport, incident: Incident) -> OutageState:
    """Return the state of a model that somebody serves, by what ends its open incident (`crawler.incidents`)."""
    tokens = gives_tokens(model)
    if model.state is ModelState.BROKEN or tokens is False:
        return "broken"
    not_known = incident.unusable is not None and model.usability is not None and tokens is None
    return "unknown" if not_known else "recovering"
