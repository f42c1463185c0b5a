"""JSON schemas of the public documents, made from their types."""

from __future__ import annotations

import ast
import inspect
import textwrap
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def schemas(documents: Iterable[type[msgspec.Struct]], ref_template: str) -> dict[str, Any]:
    """Return the schema of each document and of what it is made of, by name, with the fields' docstrings."""
    listed = list(documents)
    _, found = msgspec.json.schema_components(listed, ref_template=ref_template)
    for struct in _structs(listed):
        for field, words in _field_docs(struct).items():
            found[struct.__name__]["properties"][field].setdefault("description", words)
    return {name: _plain(schema) for name, schema in found.items()}


def _plain(schema: Any) -> Any:
    """Leave out `"items": false` of tuples, which `maxItems` says too: not all generators of clients can read it."""
    if isinstance(schema, dict):
        return {
            key: _plain(value)
            for key, value in schema.items()
            if not (key == "items" and value is False and "maxItems" in schema)
        }
    return [_plain(one) for one in schema] if isinstance(schema, list) else schema


def _structs(documents: Iterable[type[msgspec.Struct]]) -> Iterator[type[msgspec.Struct]]:
    """Yield the documents and the structs in their fields, at any depth."""
    seen: set[Any] = set()
    waiting: list[Any] = [msgspec.inspect.type_info(document) for document in documents]
    while waiting:
        info = waiting.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in seen:
                continue
            seen.add(info.cls)
            yield info.cls
            waiting += [field.type for field in info.fields]
        else:
            waiting += [getattr(info, name) for name in ("type", "item_type", "value_type") if hasattr(info, name)]
            waiting += getattr(info, "types", ())


def _field_docs(struct: type) -> dict[str, str]:
    """Return the strings that stand below a class's fields, its bases' included."""
    docs: dict[str, str] = {}
    for cls in reversed(struct.__mro__):
        if cls.__module__.partition(".")[0] != "shared":
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
        for field, below in pairwise(body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(words))):
                    docs[name] = " ".join(inspect.cleandoc(words).split())
    return docs
