"""This module reads settings from environment variables: one class per service, all mistakes reported at once.

A service's class extends `Settings`; its fields' names in upper case are the variables. `load` is the one way in, for
the service, its health check and the launcher: it prints what is wrong, names each variable, and exits with 2. What
a service cannot use is refused here, by trying it: an address is bound, a file opened, a URL read by who will use it.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import socket
import sys
from collections.abc import Callable  # noqa: TC003 - pydantic evaluates this module's annotations
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared import exit_codes
from shared.store.connection import parse_redis_url

__all__ = [
    "CommaSeparated", "Field", "OwnAddress", "SecretUrl", "Settings", "begin", "checked_by", "command_line", "load",
    "settings_table",
]  # fmt: skip

CommaSeparated = NoDecode
"""Marks a list field that is written `a,b,c` (or as a JSON list) in its variable."""

NEAR = 0.85
"""Least similarity (`difflib`) at which an unknown variable counts as mistyped: about one letter of ten differs."""
MAX_SHOWN = 120


def checked_by(check: Callable[[Any], object]) -> AfterValidator:
    """Return a validator for a field's type: `check` raises `ValueError` for a bad value. None is not checked."""

    def validate(value: Any) -> Any:
        if value is not None:
            check(value)
        return value

    return AfterValidator(validate)


@dataclass(frozen=True)
class SecretUrl:
    """Marks a field whose URL may hold a secret: only parts that cannot be secret are shown."""

    path: bool = False
    """Whether its path is shown; a webhook's often is the secret."""


def http_url(text: str) -> None:
    """Raise `ValueError` where the text is no http(s) address."""
    try:
        parts = urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return
    except ValueError:  # a port that is none, a bracket that is left open
        pass
    raise ValueError("expected http://HOST:PORT or https://HOST:PORT")


def own_address(host: str) -> None:
    """Raise `ValueError` where this machine cannot listen on an address or name."""
    try:
        (family, kind, _, _, place), *_ = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        with socket.socket(family, kind) as trial:
            trial.bind(place)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"expected an address of this machine ({error})") from None


OwnAddress = Annotated[str, checked_by(own_address)]
"""The type of a field that names an address of this machine."""


class Settings(BaseSettings):
    """Settings that every service has."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="forbid", hide_input_in_errors=True)

    redis_url: Annotated[str, SecretUrl(path=True), checked_by(parse_redis_url)] = Field(
        "redis://127.0.0.1:6379/0",
        description="Redis: `redis://`, `rediss://` (TLS) or `unix://`, with user and password if needed; "
        "`sentinel://HOST:PORT,HOST:PORT/SERVICE/DB` follows a fail-over (`sentinels://`: over TLS).",
        examples=["redis://USER:PASSWORD@HOST:6379/0"],
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="`console` for people, `json` for machines; `auto`: `console` on a terminal, else `json`."
    )

    metrics_host: OwnAddress = Field(
        "127.0.0.1",
        description="Address on which the process serves its own metrics; 0.0.0.0 in a container.",
    )
    otel_exporter_otlp_endpoint: Annotated[str | None, SecretUrl(), checked_by(http_url)] = Field(
        None,
        description="http(s) address of an OpenTelemetry collector (OTLP/HTTP) for traces; default: no "
        "traces. Needs the extra [tracing]. OpenTelemetry's other OTEL_… variables apply too.",
        examples=["http://collector:4318"],
    )

    @model_validator(mode="before")
    @classmethod
    def _tidy(cls, values: Any) -> Any:
        """Strip white space around values (a file may have Windows' line ends), and drop values that are empty then."""
        if not isinstance(values, dict):
            return values
        stripped = {name: value.strip() if isinstance(value, str) else value for name, value in values.items()}
        return {name: value for name, value in stripped.items() if value != ""}

    def __repr_args__(self) -> Any:
        """Return the settings with secrets masked, for tracebacks and logs."""
        return [(name, shown(type(self), name, getattr(self, name))) for name in type(self).model_fields]


def split_list(value: Any) -> Any:
    """Turn `a, b` or a JSON list into a list of strings; for a `mode="before"` validator."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return read_json(value)
    return [item.strip() for item in value.split(",") if item.strip()]


def read_json(text: str) -> Any:
    """Raise `ValueError` for what is no JSON, and for what is nested too deep to be read."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None


S = TypeVar("S", bound=Settings)


def load(settings_class: type[S]) -> S:
    """Read the environment. On any mistake print one message that names each variable, and exit with 2."""
    try:
        return settings_class()
    except ValidationError as error:
        lines = [_describe(settings_class, problem) for problem in error.errors()]
        print("Bad settings:\n" + "\n".join(f"  {line}" for line in lines), file=sys.stderr)
        sys.exit(exit_codes.BAD_SETTINGS)


def _describe(settings_class: type[Settings], problem: Any) -> str:
    """Return one line: variable, what was expected, what was given, an example."""
    name, *within = problem["loc"] or ("settings",)
    place = "".join(f"[{item}]" for item in within if isinstance(item, int))
    message = " ".join(problem["msg"].removeprefix("Value error, ").split())
    given = shown(settings_class, name, problem["input"])
    line = f"{name.upper()}{place}: {message}, got {given!r}"
    example = _example(settings_class, name)
    return f"{line}; for example {name.upper()}={example}" if example else line


def _example(settings_class: type[Settings], name: str) -> str:
    field = settings_class.model_fields.get(name)
    if field is None:
        return ""
    if field.examples:
        return str(field.examples[0])
    return shown(settings_class, name, field.get_default(call_default_factory=True))


def unknown_variables(settings_class: type[Settings]) -> list[str]:
    """Return a warning for each variable whose name is nearly that of a setting."""
    known = [name.upper() for name in settings_class.model_fields]
    near = {name: difflib.get_close_matches(name.upper(), known, n=1, cutoff=NEAR) for name in sorted(os.environ)}
    return [f"{name} is not known: {found[0]}?" for name, found in near.items() if found and name.upper() not in known]


def shown(settings_class: type[Settings], name: str, value: Any) -> str:
    """Return a setting's value as anyone may see it."""
    field = settings_class.model_fields.get(name)
    secret = next((mark for mark in field.metadata if isinstance(mark, SecretUrl)), None) if field else None
    if value is None or value is PydanticUndefined:
        return ""
    if isinstance(value, SecretStr) or (field is not None and SecretStr in (field.annotation, *_parts(field))):
        return "***"
    if secret is not None:
        return masked_url(str(value), path=secret.path)[:MAX_SHOWN]
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    return str(value)[:MAX_SHOWN] if isinstance(value, str) else str(value)


def _parts(field: Any) -> tuple[Any, ...]:
    return getattr(field.annotation, "__args__", ())


_HOST = r"(?:[\w.\-]+|\[[0-9a-fA-F:.%]*\])(?::\d{1,5})?"
_PLACE = re.compile(rf"(?P<user>[^/?#]*@)?(?P<hosts>(?:{_HOST}(?:,{_HOST})*)?)(?P<path>(?:/[\w.\-/%]*)?)")


def masked_url(url: str, *, path: bool) -> str:
    """Return a URL without what may be secret: user, password, query, and the path unless it is known to be none.

    Of a URL that is not well formed only the scheme is left: the password may stand anywhere in it.
    """
    scheme, mark, rest = url.partition("://")
    if not mark or not re.fullmatch(r"[a-z]+", scheme):
        return "***"
    place, query, _ = rest.partition("?")
    found = _PLACE.fullmatch(place)
    if found is None or "@" in rest[len(place) :] or "#" in rest:
        return f"{scheme}://***"
    user = "***@" if found["user"] else ""
    where = found["path"] if path or found["path"] in ("", "/") else "/***"
    return f"{scheme}://{user}{found['hosts']}{where}{'?***' if query else ''}"


def command_line(service: str, description: str | None, settings_class: type[Settings]) -> argparse.ArgumentParser:
    """Return the parser that every service begins with: `--help` with its settings, and `--print-config`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {service}",
        description=description,
        epilog="settings, from environment variables:\n" + settings_table(settings_class),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--print-config", action="store_true", help="print the settings in force, and exit")
    return parser


def begin(parser: argparse.ArgumentParser, settings_class: type[S]) -> tuple[argparse.Namespace, S]:
    """Read the command line and the environment. `--print-config` is answered here, and ends the process."""
    arguments = parser.parse_args()
    for line in unknown_variables(settings_class):
        print(f"warning: {line}", file=sys.stderr)
    settings = load(settings_class)
    if arguments.print_config:
        print(settings_table(settings_class, settings))
        sys.exit(0)
    return arguments, settings


def settings_table(settings_class: type[Settings], values: Settings | None = None) -> str:
    """Return variables, values and meanings as text: for `--help`, and for `--print-config` with `values`."""
    rows = []
    for name, field in settings_class.model_fields.items():
        value = field.get_default(call_default_factory=True) if values is None else getattr(values, name)
        rows.append((name.upper(), shown(settings_class, name, value), field.description or ""))
    width = max(len(name) for name, _, _ in rows)
    lines = []
    for name, text, description in rows:
        lines.append(f"  {name:<{width}}  {description}")
        lines.append(f"  {'':<{width}}  {'default' if values is None else 'is'}: {text or '(none)'}")
    return "\n".join(lines)
