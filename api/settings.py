"""This module defines the settings of the api, read from environment variables."""

from __future__ import annotations

import ipaddress
import re
from functools import cached_property
from typing import Annotated, Literal

from pydantic import ValidationInfo, field_validator

from shared.export_files import ExportSettings
from shared.reachability import ANSWER_WITHIN, MAX_QUEUED
from shared.settings import CommaSeparated, Field, OwnAddress, checked_by, http_url, split_list

_WEB_ADDRESS = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]{1,253}")
Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]


def _network(text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"not a network: {error}") from None


def _web_address(text: str) -> None:
    if text and _WEB_ADDRESS.fullmatch(text) is None:
        raise ValueError("not an address like https://health.example.org, without a path")
    if text:
        http_url(text)


class ApiSettings(ExportSettings):
    """One field per environment variable."""

    api_host: OwnAddress = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 in a container.")
    api_port: int = Field(8000, ge=0, le=65535, description="Public port.")
    api_metrics_port: int = Field(0, ge=0, le=65535, description="Private port of the process's own metrics; 0: none.")
    trusted_proxies: Annotated[list[Annotated[str, checked_by(_network)]], CommaSeparated] = Field(
        [],
        description="Networks of proxies before the api, comma-separated; only their X-Forwarded-For is believed.",
        examples=["10.0.0.0/8"],
    )
    peer_addresses: Literal["public", "hidden"] = Field(
        "public", description="Whether servers' IP addresses and locations are shown; existing clients read them."
    )
    public_url: Annotated[str, checked_by(_web_address)] = Field(
        "",
        description="The monitor's own address; previews of links to it then have a picture.",
        examples=["https://health.example.org"],
    )
    public_pages: Literal["public", "private"] = Field(
        "public",
        description="`private`: lists, feeds, changes, exports, pictures, previews are for TRUSTED_NETWORKS only.",
    )
    stale_after_periods: float = Field(
        3.0,
        ge=1.5,
        le=1000,
        description="Crawl periods after which a snapshot is shown as stale and its metrics end; where a crawl takes "
        "longer than its period, its duration counts instead.",
    )
    reachability_deadline: float = Field(
        ANSWER_WITHIN, gt=0.5, le=ANSWER_WITHIN, description="Seconds within which is_reachable answers."
    )
    max_queued_checks: int = Field(
        MAX_QUEUED, ge=1, description="Checks that may wait for a worker; further ones get a 503 at once."
    )
    rate_limit: int = Field(
        120, ge=0, description="is_reachable requests per minute and IPv4 address or IPv6 /64; 0: no limit."
    )
    on_demand_inference: Literal["on", "off"] = Field(
        "on", description="Whether clients can request inference checks, by `?inference=1` or on the page of a check."
    )
    inference_rate_limit: int = Field(
        6, ge=1, description="Inference checks on demand per minute and IPv4 address or IPv6 /64."
    )
    per_server_metrics: Literal["off", "on"] = Field(
        "off", description="Whether /metrics/servers has series for each server: thousands in a large swarm."
    )
    probe_endpoint: Literal["off", "on"] = Field(
        "off", description="Whether /probe?target=PEER_ID checks a peer in blackbox_exporter's form."
    )
    trusted_networks: Annotated[list[Annotated[str, checked_by(_network)]], CommaSeparated] = Field(
        ["127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"],
        description="Networks without a rate limit, which may request a fresh check (`?fresh=1`).",
    )

    _split = field_validator("trusted_proxies", "trusted_networks", mode="before")(split_list)

    @field_validator("api_metrics_port")
    @classmethod
    def _is_another_port(cls, value: int, info: ValidationInfo) -> int:
        if value and value == info.data.get("api_port"):
            raise ValueError("expected another port than API_PORT's, which is public")
        return value

    @cached_property
    def trusted(self) -> Networks:
        """TRUSTED_NETWORKS, parsed."""
        return tuple(map(ipaddress.ip_network, self.trusted_networks))

    @property
    def show_addresses(self) -> bool:
        """Whether servers' IP addresses and locations may be shown."""
        return self.peer_addresses == "public"
