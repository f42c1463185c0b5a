"""How every service reaches Redis: with time-outs, few retries, and a name that `CLIENT LIST` shows.

A URL names one server, or with `sentinel://` the Sentinels that know which one leads now: each new connection
asks them, so a fail-over is an outage like any other, which callers wait out. With `sentinels://` both are asked
over TLS, as with `rediss://`.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import redis as sync_redis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff
from redis.retry import Retry as SyncRetry
from redis.sentinel import Sentinel as SyncSentinel

SOCKET_TIMEOUT = 5.0
CONNECT_TIMEOUT = 2.0
RETRIES = 2
"""redis-py's own ten would make one lost command take a minute; callers here try again by themselves."""
SENTINEL_TIMEOUT = 1.0
"""Seconds that one Sentinel gets to say who leads, before the next one is asked."""
SENTINEL_PORT = 26379
_SENTINEL_OPTIONS: dict[str, Any] = {"socket_timeout": SENTINEL_TIMEOUT, "socket_connect_timeout": SENTINEL_TIMEOUT}

POOL_TIMEOUT = 3.0
"""Seconds that a command waits for a free connection: many callers share few."""


class SentinelPlace(NamedTuple):
    """What `sentinel://user:password@host:port,host:port/service/db` says. The password is Redis's."""

    sentinels: list[tuple[str, int]]
    service: str
    options: dict[str, Any]
    """For Redis."""
    tls: dict[str, Any]
    """For Redis and the Sentinels."""


class _BlockingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to whoever leads; callers wait for a free one."""


def connect(url: str, name: str, *, max_connections: int = 8) -> Redis:
    """Return a client; nothing is connected yet. Commands raise `redis.RedisError` or `OSError`."""
    options: dict[str, Any] = {
        "client_name": name.replace(" ", "_"),
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "health_check_interval": 15,
        "max_connections": max_connections,
        "timeout": POOL_TIMEOUT,
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), RETRIES),
    }
    place = sentinel_place(url)
    if place is None:
        return Redis.from_pool(BlockingConnectionPool.from_url(url, **options))
    sentinel = Sentinel(place.sentinels, sentinel_kwargs=_SENTINEL_OPTIONS | place.tls)  # type: ignore[no-untyped-call]
    client: Redis = sentinel.master_for(
        place.service, connection_pool_class=_BlockingSentinelPool, **options, **place.options, **place.tls
    )
    return client


def connect_sync(url: str) -> sync_redis.Redis:
    """Return a client for what RQ does synchronously, in threads: a Redis that says nothing holds one for 5 s.

    A lost connection is tried anew once. A time-out is not: a process that is told to stop waits for its threads.
    """
    place = sentinel_place(url)
    options: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "retry": SyncRetry(ExponentialBackoff(cap=0.5, base=0.05), 1, supported_errors=(sync_redis.ConnectionError,)),
    }
    if place is None:
        return sync_redis.Redis.from_url(url, **options)
    sentinel = SyncSentinel(place.sentinels, sentinel_kwargs=_SENTINEL_OPTIONS | place.tls)  # type: ignore[no-untyped-call]
    client: sync_redis.Redis = sentinel.master_for(  # type: ignore[no-untyped-call]
        place.service,
        **options,
        **place.options,
        **place.tls,
    )
    return client


def sentinel_place(url: str) -> SentinelPlace | None:
    """Return what a `sentinel(s)://` URL says, None for another one. Raises `ValueError` that says what is wrong."""
    parts = urlsplit(url)
    if parts.scheme not in ("sentinel", "sentinels"):
        return None
    service, _, db = parts.path.strip("/").partition("/")
    if not service or not (db.isdigit() or not db):
        raise ValueError(f"expected {parts.scheme}://HOST:PORT,HOST:PORT/SERVICE/DB")
    sentinels = []
    for address in parts.netloc.rpartition("@")[2].split(","):
        host, _, port = address.rpartition(":") if ":" in address else (address, "", str(SENTINEL_PORT))
        if not host or not port.isdigit():
            raise ValueError(f"{address!r} is no Sentinel: expected HOST:PORT")
        sentinels.append((host.strip("[]"), int(port)))
    options: dict[str, Any] = {"db": int(db or 0)}
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    tls: dict[str, Any] = {"ssl": True} if parts.scheme == "sentinels" else {}
    for name, value in parse_qsl(parts.query):
        if not tls or name != "ssl_ca_certs":
            raise ValueError(f"unknown option {name!r}: sentinels:// takes ssl_ca_certs")
        tls[name] = value
    return SentinelPlace(sentinels, service, options, tls)
