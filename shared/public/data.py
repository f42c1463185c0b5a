"""The daily export: the columns of its files (docs/data.md), and `GET /api/v1/data`, which lists them."""

from __future__ import annotations

import csv
import gzip
import io
from typing import TYPE_CHECKING

import msgspec

from shared.export_files import Form, Kind
from shared.incidents import summary
from shared.public.document import Document
from shared.spreadsheet import cell
from shared.store.rings import HOUR
from shared.words import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from shared.incidents import Incident
    from shared.store.inference_history import Proof
    from shared.store.rings import ModelSlot
    from shared.store.server_history import ServerHour, ServerRecord

GZIP_LEVEL = 6


class CrawlRow(Document):
    """One model in one hour, as the crawls of that hour found it. An hour without a row: nobody could look."""

    hour: str
    dht_prefix: str
    crawls: int
    healthy_crawls: int
    num_blocks: int
    covered_blocks: int
    min_redundancy: int
    servers_online: float
    servers_joining: float
    servers_unreachable: float
    servers_offline: float
    slowest_block_throughput: float


class ServerRow(Document):
    """One server in one hour in which a crawl saw the swarm."""

    hour: str
    peer_id: str
    first_seen: str
    looked_minutes: int
    online_minutes: int


class IncidentRow(Document):
    """One outage that was recorded as ended on this day."""

    id: str
    dht_prefix: str
    name: str
    official: bool
    start: str
    end: str
    duration_seconds: int
    outcome: str
    num_blocks: int
    covered_blocks: int
    summary: str


class InferenceRow(Document):
    """The inference checks of one model, or of one server, in one hour. An hour without a row: nobody asked it."""

    hour: str
    dht_prefix: str
    """Empty where the row is a server's."""
    peer_id: str
    """Empty where the row is a model's."""
    checks: int
    computed: int
    outcome: str
    seconds_per_token: float | None


Row = CrawlRow | ServerRow | IncidentRow | InferenceRow
ROWS: dict[Kind, type[Row]] = {
    Kind.CRAWLS: CrawlRow,
    Kind.SERVERS: ServerRow,
    Kind.INCIDENTS: IncidentRow,
    Kind.INFERENCE: InferenceRow,
}


class DataFile(Document):
    """One file of the export."""

    name: str
    url: str
    kind: Kind
    day: str
    form: Form
    bytes: int


class DataDocument(Document):
    """The files of the daily export."""

    files: tuple[DataFile, ...]
    """The newest day first."""


def crawl_row(dht_prefix: str, slot: ModelSlot) -> CrawlRow:
    """Return one hour of a model."""
    return CrawlRow.of(
        slot,
        hour=rfc3339(slot.slot * HOUR),
        dht_prefix=dht_prefix,
        crawls=slot.crawls,
        healthy_crawls=slot.healthy,
        servers_online=round(slot.online, 2),
        servers_joining=round(slot.joining, 2),
        servers_unreachable=round(slot.unreachable, 2),
        servers_offline=round(slot.offline, 2),
        slowest_block_throughput=round(slot.slowest_block, 2),
    )


def server_row(peer_id: str, record: ServerRecord, hour: ServerHour) -> ServerRow:
    """Return one hour of a server."""
    return ServerRow(
        hour=rfc3339(hour.hour * HOUR),
        peer_id=peer_id,
        first_seen=rfc3339(record.first_seen),
        looked_minutes=hour.crawled,
        online_minutes=hour.online,
    )


def incident_row(incident: Incident) -> IncidentRow:
    """Return an outage that has ended."""
    end = incident.end if incident.end is not None else incident.start
    return IncidentRow.of(
        incident,
        start=rfc3339(incident.start),
        end=rfc3339(end),
        duration_seconds=max(0, round(end - incident.start)),
        outcome=incident.outcome.value if incident.outcome is not None else "",
        summary=summary(incident),
    )


def inference_row(proof: Proof, *, dht_prefix: str = "", peer_id: str = "") -> InferenceRow:
    """Return one hour of a model's or of a server's checks."""
    return InferenceRow(
        hour=rfc3339(proof.hour * HOUR),
        dht_prefix=dht_prefix,
        peer_id=peer_id,
        checks=proof.checks,
        computed=proof.computed,
        outcome=proof.outcome,
        seconds_per_token=round(proof.seconds, 6) if proof.computed else None,
    )


def packed(kind: Kind, form: Form, rows: Sequence[Row]) -> bytes:
    """Return a whole file. The same rows give the same bytes. Takes a second for 100,000 rows: for a thread."""
    content = _csv(kind, rows) if form is Form.CSV else _ndjson(rows)
    return gzip.compress(content, GZIP_LEVEL, mtime=0)


def _ndjson(rows: Iterable[Row]) -> bytes:
    return msgspec.json.Encoder().encode_lines(rows)


def _csv(kind: Kind, rows: Iterable[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(ROWS[kind].__struct_fields__)
    writer.writerows([cell(value) for value in msgspec.structs.astuple(row)] for row in rows)
    return text.getvalue().encode()
