"""This module takes out what tells where peers are, for PEER_ADDRESSES=hidden.

It is done where snapshots, statuses, changes, incidents, reports and answers come into the process: what it does not
have, nothing that it sends can tell.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec.structs import replace

from shared.advice.servers import what_failed
from shared.changes import ChangeKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.changes import Change
    from shared.incidents import Incident
    from shared.inference import ServerInference
    from shared.public.reports import ReportDocument
    from shared.reachability import Answer
    from shared.snapshot import BootstrapPeer, CrawlStatus, ModelReport, ReachabilityIssue, ServerReport, Snapshot

_ADDRESS = re.compile(r"/(ip[46]|dns)|\d+\.\d+\.|[0-9a-f]*:[0-9a-f]*:|\blookup ", re.IGNORECASE)
"""Part of a multiaddr, an IP address (which may be cut), or a host name in an error text of p2pd."""


def snapshot_without_addresses(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot that does not tell where servers and bootstrap peers are: for a thread, as all are copied."""
    causes = {server.peer_id: server.cause for model in snapshot.models for server in model.servers if server.cause}

    def issue(given: ReachabilityIssue) -> ReachabilityIssue:
        if _without(given.error) is not None:
            return given
        told = what_failed(causes.get(given.peer_id), None) or "The monitor could not connect to it."
        return replace(given, error=told)

    return replace(
        snapshot,
        models=tuple(map(_model, snapshot.models)),
        bootstrap_peers=_bootstrap_peers(snapshot.bootstrap_peers),
        reachability_issues=tuple(map(issue, snapshot.reachability_issues)),
    )


def status_without_addresses(status: CrawlStatus) -> CrawlStatus:
    """Return how the latest crawl went, without where bootstrap peers are."""
    error = status.error if status.error is None else _without(status.error) or "the crawl failed"
    return replace(status, error=error, bootstrap_peers=_bootstrap_peers(status.bootstrap_peers))


def answer_without_addresses(answer: Answer) -> Answer:
    """Return a worker's reply without where the peer is."""
    outcome = replace(answer.outcome, addresses=(), known=(), reached_at=None, error=_without(answer.outcome.error))
    return replace(answer, outcome=outcome, inference=inference_without_addresses(answer.inference))


def inference_without_addresses(found: ServerInference | None) -> ServerInference | None:
    """Return what an inference check found, without where the peer is."""
    return None if found is None else replace(found, detail=_without(found.detail))


def change_without_addresses(change: Change) -> Change:
    """Return a change without evidence that says where a server is."""
    found_by_probes = change.kind in (ChangeKind.OUTAGE, ChangeKind.DOWN, ChangeKind.NOT_COMPUTING)
    return replace(change, evidence=_without(change.evidence) or "") if found_by_probes else change


def incident_without_addresses(incident: Incident) -> Incident:
    """Return an incident without where a server is that did not compute; that it did not is told all the same."""
    return incident if incident.unusable is None else replace(incident, unusable=_without(incident.unusable) or "")


def report_without_addresses(report: ReportDocument) -> ReportDocument:
    """Return a week's report without the causes of incidents that say where a server is."""
    told = (replace(incident, summary=_without(incident.summary) or "") for incident in report.incidents)
    return replace(report, incidents=tuple(told))


def _model(model: ModelReport) -> ModelReport:
    usability = model.usability
    if usability is not None:
        usability = replace(usability, reason=_without(usability.reason))
    return replace(model, servers=tuple(map(_server, model.servers)), usability=usability)


def _server(server: ServerReport) -> ServerReport:
    return replace(
        server,
        multiaddrs=(),
        location=None,
        error=_without(server.error),
        inference=inference_without_addresses(server.inference),
        adapter_inference=inference_without_addresses(server.adapter_inference),
    )


def _bootstrap_peers(peers: Iterable[BootstrapPeer]) -> tuple[BootstrapPeer, ...]:
    return tuple(replace(peer, addresses=(), error=_without(peer.error)) for peer in peers)


def _without(error: str | None) -> str | None:
    """Return an error text that holds no address; None otherwise."""
    return None if error is None or _ADDRESS.search(error) else error
