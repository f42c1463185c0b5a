"""An OpenTelemetry collector for tests: takes OTLP/HTTP as any would, and keeps the spans."""

import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}


class Received(NamedTuple):
    """A span. Ids are hex; `links` are (trace id, span id); times are seconds."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict
    links: list
    failed: bool
    start: float
    end: float


class Collector(ThreadingHTTPServer):
    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.spans = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def close(self):
        self.shutdown()
        self.server_close()

    def wait_for(self, condition, what, seconds=20):
        """Return the spans that meet a condition, once there are some."""
        deadline = time.monotonic() + seconds
        while not (found := [span for span in tuple(self.spans) if condition(span)]):
            assert time.monotonic() < deadline, (what, [(span.service, span.name) for span in self.spans])
            time.sleep(0.05)
        return found

    def keep(self, request):
        for resource in request.resource_spans:
            service = _attributes(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.spans += [_read(service, span) for span in scope.spans]


def _read(service, span):
    return Received(
        service, span.name, KINDS[span.kind], span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
        _attributes(span.attributes), [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        span.status.code == 2, span.start_time_unix_nano / 1e9, span.end_time_unix_nano / 1e9,
    )  # fmt: skip


def _attributes(pairs):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        right = self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
        if right:
            self.server.keep(ExportTraceServiceRequest.FromString(body))
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200 if right else 400)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass
