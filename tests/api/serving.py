"""The api through a real uvicorn, on a port of its own, in the test's loop."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import uvicorn

from api.app import create_app
from api.settings import ApiSettings


@asynccontextmanager
async def serve(redis_url, **settings):
    """Yield the base URL; `serve.services` are those of its app."""
    app = create_app(ApiSettings(redis_url=redis_url, **settings))
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, lifespan="on", timeout_graceful_shutdown=1,
        proxy_headers=bool(settings.get("trusted_proxies")), forwarded_allow_ips=settings.get("trusted_proxies"),
    )  # fmt: skip
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done(), running
        await asyncio.sleep(0.01)
    serve.services = app.state.services
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await running
