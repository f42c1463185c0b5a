"""The snapshot as `GET /api/v1/state` shows it: the predecessor's names and shapes, which clients rely on.

Keep them, add to them, never change them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from shared.inference import inference_document, usability_document
from shared.peer_id import short_peer_id
from shared.snapshot import SCHEMA_VERSION, Verdict

if TYPE_CHECKING:
    from shared.snapshot import ModelReport, ServerReport, Snapshot


def state_document(snapshot: Snapshot, *, show_addresses: bool = True) -> dict[str, Any]:
    """Return the public state as plain dicts and lists, ready for JSON: infinite numbers are None."""
    return {
        "bootstrap_states": [
            "unreachable" if peer.verdict is Verdict.UNREACHABLE else "online" for peer in snapshot.bootstrap_peers
        ],
        "top_contributors": snapshot.top_contributors,
        "model_reports": [_model(model, show_addresses) for model in snapshot.models],
        "reachability_issues": [
            {"peer_id": issue.peer_id, "err": issue.error, "advice": issue.advice}
            for issue in snapshot.reachability_issues
        ],
        "last_updated": snapshot.taken_at,
        "update_period": snapshot.update_period,
        "update_duration": snapshot.update_duration,
        # Added since the predecessor:
        "schema": SCHEMA_VERSION,
        "bootstrap_peers": [
            {
                "peer_id": peer.peer_id,
                "state": "online" if peer.verdict is Verdict.REACHABLE else str(peer.verdict),
                "error": peer.error,
            }
            for peer in snapshot.bootstrap_peers
        ],
        "refused_records": snapshot.refused.by_reason,
        "undialled_servers": snapshot.undialled_servers,
        "unanswered_keys": snapshot.unanswered_keys,
        "inference_peer_id": snapshot.inference_peer_id,
    }


def _model(model: ModelReport, show_addresses: bool) -> dict[str, Any]:
    # Who pinged whom, from each origin's own announcement.
    pings: dict[str, dict[str, float | None]] = {}
    for origin in model.servers:
        for target, seconds in (origin.next_pings or {}).items():
            pings.setdefault(target, {})[origin.peer_id] = _finite(seconds)
    return {
        "name": model.name,
        "short_name": model.short_name,
        "state": str(model.state),
        "num_blocks": model.num_blocks,
        "repository": model.repository,
        "dht_prefix": model.dht_prefix,
        "official": model.official,
        "limited": model.limited,
        "usability": usability_document(model.usability),
        "server_rows": [_server_row(server, pings.get(server.peer_id, {}), show_addresses) for server in model.servers],
    }


def _server_row(server: ServerReport, pings_to_me: dict[str, float | None], show_addresses: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "short_peer_id": short_peer_id(server.peer_id),
        "peer_id": server.peer_id,
        "peer_ip_info": _peer_ip_info(server) if show_addresses and server.multiaddrs else "unknown",
        "show_public_name": server.show_public_name,
        "state": str(server.state),
        "span": {
            "peer_id": server.peer_id,
            "start": server.span.start,
            "end": server.span.end,
            "server_info": {
                "state": str(server.announced),
                "throughput": _finite(server.throughput),
                "start_block": server.span.start,
                "end_block": server.span.end,
                "public_name": server.public_name,
                "version": server.version,
                "network_rps": server.network_rps,
                "forward_rps": server.forward_rps,
                "inference_rps": server.inference_rps,
                "adapters": list(server.adapters),
                "torch_dtype": server.torch_dtype,
                "quant_type": server.quant_type,
                "using_relay": server.using_relay,
                "cache_tokens_left": server.cache_tokens_left,
                "next_pings": None
                if server.next_pings is None
                else {peer_id: _finite(seconds) for peer_id, seconds in server.next_pings.items()},
            },
        },
        "adapters": [{"name": name, "short_name": name.rpartition("/")[2]} for name in server.adapters],
        "pings_to_me": pings_to_me,
        "reachability": {
            "verdict": str(server.verdict),
            "error": server.error,
            "dialled_at": None,  # of each server in each crawl: kept for readers of earlier versions
            "relayed": server.relayed,
            "relay": server.relay,
            "rtt": server.rtt,
        },
        "conflict": server.conflict,
        "inference": inference_document(server.inference),
    }
    if server.cache_tokens_left is not None:
        row["cache_tokens_left_per_block"] = server.cache_tokens_left_per_block
    return row


def _peer_ip_info(server: ServerReport) -> dict[str, Any]:
    location = server.location
    return {
        "location": {}
        if location is None
        else {"country": location.country, "region": location.region, "city": location.city},
        "multiaddrs": list(server.multiaddrs),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
