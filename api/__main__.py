"""`python -m api`: serve the snapshot and the reachability check over HTTP."""

from __future__ import annotations

import gc
import sys

import uvicorn

from api.app import create_app
from api.http.connection_limits import BoundedHttp
from api.settings import ApiSettings
from shared import heap, logs, tracing
from shared.settings import begin, command_line

SHUTDOWN_GRACE = 12
"""Seconds that open requests get after SIGTERM: a check takes up to nine. Event streams end at once."""
SWITCH_INTERVAL = 0.0005
"""Seconds after which a rendering thread yields the interpreter to the event loop: with Python's default of 0.005 each
request would wait several times."""
GC_THRESHOLDS = (700, 10, 100)
"""The last is ten times Python's. A full collection looks at 130 objects of each event stream, which stops all requests
for 0.3 s with 5,000 streams, and finds nothing: streams and requests are freed without it when they end."""
KEEP_ALIVE = 65
"""Seconds; longer than the idle time of usual proxies (60), so that the proxy closes the connection first."""


def main() -> int:
    _, settings = begin(command_line("api", __doc__, ApiSettings), ApiSettings)
    logs.configure(settings, "api")
    tracing.start(settings.otel_exporter_otlp_endpoint, "api")
    app = create_app(settings)
    heap.freeze_imports()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL)
    uvicorn.run(
        app,
        host=settings.api_host,
        port=settings.api_port,
        loop="uvloop",
        http=BoundedHttp,
        ws="none",  # where its library is installed, "auto" would take upgraded connections out of BoundedHttp's bounds
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or None,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=SHUTDOWN_GRACE,
        backlog=4096,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
