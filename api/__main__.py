"""`python -m api`: serve the snapshot and the reachability check over HTTP."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress

import uvicorn

from api.app import create_app
from api.http_limits import BoundedHttp
from api.settings import ApiSettings
from shared import logs, tracing
from shared.settings import begin, command_line

SHUTDOWN_GRACE = 12
"""Seconds that open requests get after SIGTERM: a check takes up to nine. Event streams are cut."""
KEEP_ALIVE = 65
"""Seconds; longer than a usual proxy keeps its side, so that the proxy closes first."""
_M_ARENA_MAX = -8
"""In malloc.h."""


def main() -> int:
    _, settings = begin(command_line("api", __doc__, ApiSettings), ApiSettings)
    logs.configure(settings, "api")
    tracing.start(settings.otel_exporter_otlp_endpoint, "api")
    app = create_app(settings)
    _settle_memory()
    uvicorn.run(
        app,
        host=settings.api_host,
        port=settings.api_port,
        loop="uvloop",
        http=BoundedHttp,
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


def _settle_memory() -> None:
    """Spare requests the collector's walks over all that was imported, and the process a heap for each thread."""
    gc.collect()
    gc.freeze()
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


if __name__ == "__main__":
    sys.exit(main())
