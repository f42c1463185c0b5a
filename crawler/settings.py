"""This module defines the crawler's settings, read from environment variables."""

from __future__ import annotations

import os
import tempfile
from functools import cached_property
from pathlib import Path  # noqa: TC003 - pydantic reads the annotation
from typing import Annotated, Any, Literal

import msgspec
from pydantic import SecretStr, ValidationInfo, field_validator

from crawler.geoip import GeoDatabase
from crawler.models import DEFAULT_PUBLIC_MODELS, MAX_BLOCKS, Model
from crawler.notify.digest import parse_quiet_hours
from crawler.notify.services import check_url, split_urls
from crawler.notify.webhook import is_private_literal, parse_target
from crawler.text import bad_prefix
from shared.changes import Severity
from shared.export_files import ExportSettings
from shared.p2p.swarm_settings import SwarmSettings
from shared.peer_id import parse_peer_id
from shared.settings import CommaSeparated, Field, SecretUrl, checked_by, http_url, read_json, split_list

MAX_DIAL_TIMEOUT = MAX_LOOKUP_TIMEOUT = 20.0
"""Seconds. A crawl gives all its lookups 40 s and all its dials 60: with longer ones most would never begin."""


def _prefixes(given: frozenset[str]) -> None:
    for prefix in given:
        if reason := bad_prefix(prefix):
            raise ValueError(f"{prefix!r}: {reason}")


def _can_be_kept(file: Path) -> None:
    if not os.access(file if file.exists() else file.parent, os.R_OK | os.W_OK):
        raise ValueError(f"cannot read and write {file}")
    if file.exists():
        from shared.p2p.hivemind import PeerID  # noqa: PLC0415 - megabytes that few need

        try:
            PeerID.from_identity(file.read_bytes())
        except Exception:  # noqa: BLE001 - those of OSError, protobuf and cryptography have no common class
            raise ValueError(f"{file} is no private key of libp2p: name a file that does not exist") from None


class CrawlerSettings(SwarmSettings, ExportSettings):
    models: Annotated[tuple[Model, ...] | None, CommaSeparated] = Field(
        None,
        description="The official models, shown first even while nobody serves them: "
        '`PREFIX:NUM_BLOCKS,…` or JSON `[{"dht_prefix", "num_blocks", "repository", "limited"}]`; '
        "default: those of the public swarm, none in a private one. Announced models are found automatically.",
        examples=["my-model:32,owner/other-model:80"],
    )
    crawl_period: float = Field(60.0, ge=1, le=3600, description="Seconds from the start of one crawl to the next.")
    dial_timeout: float = Field(
        5.0, gt=0.1, le=MAX_DIAL_TIMEOUT, description="Seconds that a server has to answer a dial."
    )
    lookup_timeout: float = Field(
        10.0, gt=0.1, le=MAX_LOOKUP_TIMEOUT, description="Seconds that one batch of DHT lookups may take."
    )
    geoip_database: Annotated[Path | None, checked_by(GeoDatabase.open)] = Field(
        None,
        description="A file in MaxMind's format (.mmdb) with locations of IP addresses; default: no locations.",
        examples=["/data/GeoLite2-City.mmdb"],
    )
    incident_webhook_url: Annotated[str | None, SecretUrl(), checked_by(parse_target)] = Field(
        None,
        description="http(s) address that receives JSON when an incident opens or ends; default: none.",
        examples=["https://HOST/PATH"],
    )
    incident_webhook_secret: SecretStr | None = Field(
        None,
        description="Signs each notice: X-Petals-Signature is HMAC-SHA256 over `TIMESTAMP.BODY`.",
        examples=["SECRET"],
    )
    incident_webhook_models: Literal["official", "all"] = Field(
        "official", description="Whose incidents are sent; anyone can announce a model that is not official."
    )
    incident_webhook_allow_private: bool = Field(
        False,
        description="Whether the webhook may have a private address, for example of a service on this network.",
        examples=["yes"],
        validate_default=True,
    )
    export_days: int = Field(
        1_096, ge=30, le=36_525, description="Days for which files of the export are kept; older ones are deleted."
    )
    inference_checks: bool = Field(
        True,
        description="Whether the crawler asks servers for one short step of inference, and models for two tokens.",
        examples=["no"],
    )
    inference_period: float = Field(
        600.0,
        ge=5,
        le=86400,
        description="Seconds from one inference check of a server or a model to the next.",
    )
    inference_models: Annotated[frozenset[str] | None, CommaSeparated, checked_by(_prefixes)] = Field(
        None,
        description="DHT prefixes of the models that are checked, comma-separated; default: all.",
        examples=["StableBeluga2-hf"],
    )
    inference_identity: Annotated[Path | None, checked_by(_can_be_kept)] = Field(
        None,
        description="A file that keeps the peer id of inference checks, and is written if it is missing; "
        "default: a new id with each start.",
        examples=["inference.id"],
    )
    notify_urls: Annotated[tuple[SecretStr, ...], CommaSeparated] = Field(
        (),
        description="Services that receive changes, as addresses of apprise (https://appriseit.com/services/); "
        "needs apprise: docs/following.md.",
        examples=["mailto://USER:PASSWORD@example.org?to=me@example.org"],
    )
    notify_models: Annotated[tuple[str, ...] | Literal["official", "all"], CommaSeparated] = Field(
        "official",
        description="Models whose changes are sent: `official`, `all`, or DHT prefixes.",
        examples=["PREFIX,PREFIX"],
    )
    notify_servers: Annotated[tuple[str, ...], CommaSeparated] = Field(
        (), description="Servers whose changes are sent too, by peer id."
    )
    notify_contributors: Annotated[tuple[str, ...], CommaSeparated] = Field(
        (), description="Public names whose servers' changes are sent too; anyone can claim a name."
    )
    notify_severity: Severity = Field(
        Severity.CRITICAL,
        description="Lowest severity sent: `critical` (a model broke), `warning` (also: a server is down), `info`.",
    )
    notify_quiet_hours: Annotated[str | None, checked_by(parse_quiet_hours)] = Field(
        None,
        description="Hours of each day without messages; one message after them reports their changes.",
        examples=["22:00-07:00 Europe/Berlin"],
    )
    notify_digest: float = Field(
        120.0, ge=0, le=86400, description="Seconds for which changes are collected into one message."
    )
    notify_monitor_url: Annotated[str | None, checked_by(http_url)] = Field(
        None, description="Address of the monitor's pages, for links in messages.", examples=["https://HOST"]
    )
    crawler_metrics_port: int = Field(
        0, ge=0, le=65535, description="Private port of the crawler's own metrics; 0: none."
    )

    @field_validator("models", mode="before")
    @classmethod
    def _parse_models(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return parse_models(value)

    @field_validator("notify_urls", mode="before")
    @classmethod
    def _split_urls(cls, value: Any) -> Any:
        urls = split_urls(value) if isinstance(value, str) else value
        for url in urls:
            check_url(url.get_secret_value() if isinstance(url, SecretStr) else url)
        return urls

    @field_validator("notify_models", "notify_servers", "notify_contributors", mode="before")
    @classmethod
    def _split_choice(cls, value: Any) -> Any:
        return value if value in ("official", "all") else split_list(value)

    @field_validator("notify_models")
    @classmethod
    def _are_prefixes(cls, value: Any) -> Any:
        if not isinstance(value, str):
            if alone := {"official", "all"}.intersection(value):
                raise ValueError(f"`{alone.pop()}` stands alone")
            _prefixes(frozenset(value))
        return value

    @field_validator("notify_servers")
    @classmethod
    def _are_peer_ids(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(parse_peer_id(each) for each in value)

    @field_validator("export_folder")
    @classmethod
    def _can_be_written(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                tempfile.TemporaryFile(dir=value).close()
            except OSError as error:
                raise ValueError(f"expected a folder that can be written ({error.strerror})") from None
        return value

    _split_models = field_validator("inference_models", mode="before")(split_list)

    @cached_property
    def geo_database(self) -> GeoDatabase | None:
        return None if self.geoip_database is None else GeoDatabase.open(self.geoip_database)

    @field_validator("incident_webhook_allow_private")
    @classmethod
    def _can_be_reached(cls, value: bool, info: ValidationInfo) -> bool:
        url = info.data.get("incident_webhook_url")
        if not value and url is not None and is_private_literal(parse_target(url)):
            raise ValueError("INCIDENT_WEBHOOK_URL is a private address, which this forbids")
        return value

    @property
    def official_models(self) -> tuple[Model, ...]:
        if self.models is not None:
            return self.models
        return () if self.private_swarm else DEFAULT_PUBLIC_MODELS


def parse_models(text: str) -> tuple[Model, ...]:
    """Read `MODELS`. Raises `ValueError` that says what is wrong."""
    if text.lstrip().startswith("["):
        try:
            models = msgspec.convert(read_json(text), tuple[Model, ...])
        except msgspec.ValidationError as error:
            raise ValueError(f"not a JSON list of models: {error}") from error
    else:
        models = tuple(_parse_short_form(item.strip()) for item in text.split(",") if item.strip())
    for model in models:
        if reason := bad_prefix(model.dht_prefix):
            raise ValueError(f"model {model.dht_prefix!r}: {reason}")
        if model.repository is not None:
            http_url(model.repository)
            if not model.name:
                raise ValueError(f"model {model.dht_prefix!r}: its repository is https://HOST/OWNER/NAME")
        if not model.official:
            raise ValueError(f"model {model.dht_prefix!r}: all models that are named here are official")
    if len({model.dht_prefix for model in models}) < len(models):
        raise ValueError("a model's prefix is given twice")
    return models


def _parse_short_form(item: str) -> Model:
    prefix, _, blocks = item.rpartition(":")
    if not prefix or not (blocks.isascii() and blocks.isdecimal() and 0 < len(blocks) <= len(str(MAX_BLOCKS))):
        raise ValueError(f"{item!r}: expected PREFIX:NUM_BLOCKS")
    try:
        return msgspec.convert({"dht_prefix": prefix, "num_blocks": int(blocks)}, Model)
    except msgspec.ValidationError:
        raise ValueError(f"{item!r}: expected 1 to {MAX_BLOCKS} blocks") from None
