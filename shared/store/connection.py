"""This module connects to Redis with timeouts, few retries, and a client name that `CLIENT LIST` shows.

A URL names one server, or with `sentinel://` the Sentinels that know the current master. Each new connection asks them,
so callers wait a fail-over out like any other outage. `sentinels://` uses TLS for both, as `rediss://` does.
`parse_redis_url` validates each URL as a whole: redis-py itself reads any malformed database as 0, and finds an unknown
option only at the first connection, in a background task.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import redis as sync_redis
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialBackoff
from redis.retry import Retry as SyncRetry
from redis.sentinel import Sentinel as SyncSentinel

SOCKET_TIMEOUT = 5.0
CONNECT_TIMEOUT = 2.0
RETRIES = 2
"""With redis-py's default of ten, one lost command takes a minute; callers here retry by themselves."""
SENTINEL_TIMEOUT = 1.0
"""Seconds for one Sentinel to name the master, before the next one is asked."""
REDIS_PORT, SENTINEL_PORT = 6379, 26379
_SENTINEL_OPTIONS: dict[str, Any] = {"socket_timeout": SENTINEL_TIMEOUT, "socket_connect_timeout": SENTINEL_TIMEOUT}

POOL_TIMEOUT = 3.0
"""Seconds that a command waits for a free connection of the pool."""


class RedisPlace(NamedTuple):
    """A parsed Redis URL."""

    sentinels: list[tuple[str, int]]
    """Host and port of each; empty where `options` has Redis's own host and port, or path."""
    service: str
    """The Sentinels' name for the master."""
    options: dict[str, Any]
    """For connections to Redis: host and port, or path; db, username, password."""
    tls: dict[str, Any]
    """TLS options for connections to Redis and the Sentinels; empty without TLS."""


class _BlockingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the current master; callers wait for a free one."""


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
    place = parse_redis_url(url)
    if not place.sentinels:
        kind: type[Connection | UnixDomainSocketConnection] = Connection
        if place.tls:
            kind = SSLConnection
        elif "path" in place.options:
            kind = UnixDomainSocketConnection
        tls = {name: value for name, value in place.tls.items() if name != "ssl"}
        return Redis.from_pool(BlockingConnectionPool(connection_class=kind, **options, **place.options, **tls))
    sentinel = Sentinel(place.sentinels, sentinel_kwargs=_SENTINEL_OPTIONS | place.tls)  # type: ignore[no-untyped-call]
    client: Redis = sentinel.master_for(
        place.service, connection_pool_class=_BlockingSentinelPool, **options, **place.options, **place.tls
    )
    return client


def connect_sync(url: str, *, timeout: float = SOCKET_TIMEOUT) -> sync_redis.Redis:
    """Return a synchronous client, for RQ in threads and for the health check.

    A command to a Redis that does not answer takes `timeout` seconds. A lost connection is retried once; a timeout is
    not, because a process that stops waits for its threads.
    """
    place = parse_redis_url(url)
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": min(CONNECT_TIMEOUT, timeout),
        "retry": SyncRetry(ExponentialBackoff(cap=0.5, base=0.05), 1, supported_errors=(sync_redis.ConnectionError,)),
        **place.options,
        **place.tls,
    }
    if not place.sentinels:
        if "path" in options:
            options["unix_socket_path"] = options.pop("path")
        return sync_redis.Redis(**options)
    sentinel = SyncSentinel(place.sentinels, sentinel_kwargs=_SENTINEL_OPTIONS | place.tls)  # type: ignore[no-untyped-call]
    client: sync_redis.Redis = sentinel.master_for(place.service, **options)  # type: ignore[no-untyped-call]
    return client


def parse_redis_url(url: str) -> RedisPlace:
    """Return a parsed URL. Raises `ValueError` whose message does not quote the URL, which may hold a password."""
    parts = _split(url)
    if parts.scheme not in _FORMS:
        raise ValueError(f"expected {', '.join(f'{scheme}://' for scheme in _FORMS)}")
    form = _FORMS[parts.scheme]
    hosts, path = parts.netloc.rpartition("@")[2], parts.path.strip("/")
    sentinels, service = [], ""
    options: dict[str, Any] = {
        name: unquote(value) for name in ("username", "password") if (value := getattr(parts, name))
    }
    if parts.scheme == "unix":
        if hosts or not path:
            raise ValueError(f"expected {form}")
        options["path"] = unquote(parts.path)
    elif parts.scheme in ("redis", "rediss"):
        options["host"], options["port"] = _address(hosts or "localhost", REDIS_PORT, form)
        options |= {"db": path} if path else {}
    else:
        service, _, db = path.partition("/")
        sentinels = [_address(address, SENTINEL_PORT, form) for address in hosts.split(",")]
        if not service:
            raise ValueError(f"expected {form}")
        options |= {"db": db} if db else {}
    tls: dict[str, Any] = {"ssl": True} if parts.scheme in ("rediss", "sentinels") else {}
    known = _OPTIONS if not tls else _OPTIONS | (_TLS_OPTIONS if not sentinels else {"ssl_ca_certs"})
    _take_options(parts.query, known, options, tls)
    db = options.get("db", "0")
    if not re.fullmatch(r"\d{1,5}", db, re.ASCII):
        raise ValueError(f"the database is a number: expected {form}")
    return RedisPlace(sentinels, service, {**options, "db": int(db)}, _tried(tls))


def _take_options(query: str, known: set[str], options: dict[str, Any], tls: dict[str, Any]) -> None:
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            named = f" {name!r}" if value else ""  # else it may be the rest of a password that contains a ?
            raise ValueError(f"unknown option{named}: there are {', '.join(sorted(known))}")
        target = tls if name in _TLS_OPTIONS else options
        if name in target:
            raise ValueError(f"{name} is given twice")
        target[name] = value


_FORMS = {
    "redis": "redis://HOST:PORT/DB",
    "rediss": "rediss://HOST:PORT/DB",
    "unix": "unix:///PATH?db=DB",
    "sentinel": "sentinel://HOST:PORT,HOST:PORT/SERVICE/DB",
    "sentinels": "sentinels://HOST:PORT,HOST:PORT/SERVICE/DB",
}
_OPTIONS = {"db", "username", "password"}
_TLS_OPTIONS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"}


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:  # its message quotes the URL
        raise ValueError("not a URL: an IPv6 address stands in [ ]") from None
    if "#" in url or "@" in parts.path + parts.query:
        raise ValueError("percent-encode / ? # and @ in user and password (%2F, %3F, %23, %40)")
    return parts


def _address(text: str, default_port: int, form: str) -> tuple[str, int]:
    """Read HOST, HOST:PORT, [IPV6] or [IPV6]:PORT."""
    found = re.fullmatch(r"(?:\[(?P<ip>[^\[\]]+)\]|(?P<name>[\w.\-]+))(?::(?P<port>\d{1,5}))?", text, re.ASCII)
    port = int(found["port"] or default_port) if found else 0
    if found is None or not 0 < port < 65536:  # noqa: PLR2004 - 16 bits
        raise ValueError(f"expected {form}, a PORT from 1 to 65535, an IPv6 address in [ ]")
    if found["ip"]:
        try:
            ipaddress.IPv6Address(found["ip"])
        except ValueError:
            raise ValueError("what stands in [ ] is no IPv6 address") from None
    return found["ip"] or found["name"], port


def _tried(options: dict[str, Any]) -> dict[str, Any]:
    """Return the TLS options after trying them: redis-py would read the files only at the first connection."""
    if not options:
        return options
    if (check := options.get("ssl_check_hostname")) is not None:
        if check.lower() not in ("true", "false"):
            raise ValueError("ssl_check_hostname is true or false")
        options["ssl_check_hostname"] = check.lower() == "true"
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if name in options:
            try:
                with open(options[name]):  # noqa: PTH123 - a name may be empty, which a Path takes for the folder
                    pass
            except OSError as error:
                raise ValueError(f"{name} cannot be read: {error.strerror}") from None
    try:
        SSLConnection(**{name: value for name, value in options.items() if name != "ssl"}).ssl_context.get()
    except (sync_redis.RedisError, ssl.SSLError, OSError, ValueError) as error:
        raise ValueError(f"the TLS options do not fit: {error}") from None
    return options
