"""Settings from environment variables: one class a service, all mistakes told at once, before any work.

A service's class extends `Settings`; its fields' names in upper case are the variables. `load` is the one
way in: it prints what is wrong, names each variable, and exits with 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, RedisDsn, ValidationError, field_validator
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.redis_client import sentinel_place

__all__ = ["CommaSeparated", "Field", "Settings", "begin", "command_line", "load", "settings_table"]

CommaSeparated = NoDecode
"""Marks a list field that is written `a,b,c` (or as a JSON list) in its variable."""

EXIT_BAD_SETTINGS = 2


class Settings(BaseSettings):
    """What every service is told."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="ignore")

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="Redis: `redis://`, `rediss://` (TLS) or `unix://`, with user and password if it asks for them; "
        "`sentinel://HOST:PORT,HOST:PORT/SERVICE/DB` follows a fail-over (`sentinels://`: all over TLS).",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="How much is logged.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="`auto` writes for people on a terminal and JSON elsewhere."
    )

    otel_exporter_otlp_endpoint: str | None = Field(
        None,
        description="http(s) address of an OpenTelemetry collector (OTLP/HTTP) that takes traces; none: nothing is "
        "traced. Needs the extra [tracing]; OpenTelemetry's other OTEL_… variables hold too.",
    )

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, value: str) -> str:
        scheme = urlsplit(value).scheme
        if scheme == "unix":
            return value
        if sentinel_place(value) is not None:
            return value
        if scheme not in ("redis", "rediss"):
            raise ValueError("expected redis://, rediss://, unix://, sentinel:// or sentinels://")
        RedisDsn(value)
        return value

    @field_validator("otel_exporter_otlp_endpoint")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is not None and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
            raise ValueError("expected http://HOST:PORT or https://HOST:PORT")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: Any) -> Any:
        return value.strip() if isinstance(value, str) else value


def split_list(value: Any) -> Any:
    """Turn `a, b` or a JSON list into a list of strings; for a `mode="before"` validator."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [item.strip() for item in value.split(",") if item.strip()]


S = TypeVar("S", bound=Settings)


def load(settings_class: type[S]) -> S:
    """Read the environment. On any mistake print one message that names each variable, and exit with 2."""
    try:
        return settings_class()
    except ValidationError as error:
        lines = [_describe(problem) for problem in error.errors()]
        print("Bad settings:\n" + "\n".join(f"  {line}" for line in lines), file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_BAD_SETTINGS)


def _describe(problem: Any) -> str:
    name = str(problem["loc"][0]).upper() if problem["loc"] else "settings"
    place = "".join(f"[{item}]" for item in problem["loc"][1:] if isinstance(item, int))
    message = problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    shown = repr(without_password(given)) if isinstance(given, str) else type(given).__name__
    return f"{name}{place}: {message}, got {shown[:120]}"


def without_password(url: str) -> str:
    """Return a URL with its password masked; anything else as it is."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))


def command_line(service: str, description: str | None, settings_class: type[Settings]) -> argparse.ArgumentParser:
    """Return the parser that every service begins with: `--help` with its settings, and `--print-config`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {service}",
        description=description,
        epilog="settings, from environment variables:\n" + settings_table(settings_class),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--print-config", action="store_true", help="print the settings in force and end")
    return parser


def begin(parser: argparse.ArgumentParser, settings_class: type[S]) -> tuple[argparse.Namespace, S]:
    """Read the command line and the environment. `--print-config` is answered here, and ends the process."""
    arguments = parser.parse_args()
    settings = load(settings_class)
    if arguments.print_config:
        print(settings_table(settings_class, settings))  # noqa: T201
        sys.exit(0)
    return arguments, settings


def settings_table(settings_class: type[Settings], values: Settings | None = None) -> str:
    """Return variables, values and meanings as text: for `--help`, and for `--print-config` with `values`."""
    rows = []
    for name, field in settings_class.model_fields.items():
        value = field.get_default(call_default_factory=True) if values is None else getattr(values, name)
        shown = "" if value is PydanticUndefined or value is None else _show(value)
        rows.append((name.upper(), shown, field.description or ""))
    width = max(len(name) for name, _, _ in rows)
    lines = []
    for name, shown, description in rows:
        lines.append(f"  {name:<{width}}  {description}")
        lines.append(f"  {'':<{width}}  {'default' if values is None else 'is'}: {shown or '(none)'}")
    return "\n".join(lines)


def _show(value: Any) -> str:
    if isinstance(value, str):
        return without_password(value)
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    return str(value)
