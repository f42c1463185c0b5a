"""This module prepares the API's documentation page from the OpenAPI document and examples of this swarm."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ITEMS = 2
MAX_TEXT = 120
_GROUPS = (
    ("Now", "The newest snapshot.", re.compile(r"/api/v1/(state|models|servers)\b")),
    ("Checks", "A look at one peer, made when it is asked for.", re.compile(r"/api/v1/is_reachable")),
    ("The past", "What earlier crawls saw.", re.compile(r"/api/v1/(history|incidents)|/incidents.atom")),
    ("Pictures, text and events", "To show or to follow elsewhere.", re.compile(r"/(badge|swarm|events|og|embed)")),
    ("The monitor itself", "For Prometheus, supervisors and generators of clients.", re.compile(r"/")),
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One address, and how to try it."""

    anchor: str
    path: str
    told: Mapping[str, Any]
    """What the OpenAPI document says of it."""
    href: str
    """A real address to try; empty where this swarm has none."""
    curl: str
    python: str
    example: str
    """A shortened answer of this swarm; empty where there is none."""


def operations(
    description: Mapping[str, Any], examples: Mapping[str, Any], fill: Mapping[str, str], base: str
) -> list[tuple[str, str, list[Operation]]]:
    """Return (title, words, operations) of each group of the addresses that are for programs.

    `examples` holds documents by path, `fill` what stands for a path's parameters, `base` the monitor's own address.
    """
    groups: list[tuple[str, str, list[Operation]]] = [(title, words, []) for title, words, _ in _GROUPS]
    for path, item in description["paths"].items():
        told = item["get"]
        if "text/html" in told["responses"].get("200", {}).get("content", {}):
            continue
        number = next(number for number, (_, _, paths) in enumerate(_GROUPS) if paths.match(path))
        groups[number][2].append(_operation(path, told, examples.get(path), fill, base))
    return [group for group in groups if group[2]]


def kind_of(schema: Mapping[str, Any]) -> str:
    """Return a schema in few words: `number or null`, `list of ServerEntry`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(map(kind_of, schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {kind_of(schema['items'])}" if schema.get("items") else "list"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"{kind_of(schema['additionalProperties'])} by key"
    return str(schema.get("type", "anything"))


def shortened(value: Any) -> Any:
    """Return a document of which a page can show an example: the first of many, the beginning of long text."""
    if isinstance(value, dict):
        return {key: shortened(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shortened(one) for one in value[:MAX_ITEMS]]
    return value[:MAX_TEXT] + "…" if isinstance(value, str) and len(value) > MAX_TEXT else value


def _operation(path: str, told: Mapping[str, Any], example: Any, fill: Mapping[str, str], base: str) -> Operation:
    names = re.findall(r"{(\w+)}", path)
    ready = all(fill.get(name) for name in names)
    href = re.sub(r"{(\w+)}", lambda match: quote(fill.get(match[1], ""), safe=""), path) if ready else ""
    address = base + (href or path)
    is_json = "application/json" in told["responses"].get("200", {}).get("content", {})
    return Operation(
        anchor="get-" + re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-"),
        path=path,
        told=told,
        href=href,
        curl=f"curl -s{'N' * (path == '/events')} '{address}'",
        python=_python(address, is_json=is_json),
        example="" if example is None else json.dumps(shortened(example), indent=2, ensure_ascii=False),
    )


def _python(address: str, *, is_json: bool) -> str:
    read = "json.load(answer)" if is_json else "answer.read().decode()"
    imports = "import json\n" * is_json + "import urllib.request\n\n"
    return f"{imports}with urllib.request.urlopen({address!r}) as answer:\n    print({read})"


def references(described: Any) -> list[str]:
    """Return the names of the documents to which a part of the description refers."""
    return sorted(set(re.findall(r"#/components/schemas/(\w+)", str(described))))
