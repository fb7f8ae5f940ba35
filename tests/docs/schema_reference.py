"""The public JSON Schemas as one Markdown page: `python tests/docs/schema_reference.py > docs/schemas.md`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

_MADE = "<!-- Made by `python tests/docs/schema_reference.py > docs/schemas.md`: change the schemas, not this page. -->"
_INTRO = """\
What vlmed reads and writes for others is fixed by JSON Schemas (2020-12), which lie in the package under
`vlmed/schemas`. An unknown key is refused everywhere. Fields marked * must be there."""


def reference() -> str:
    """The page."""
    schemas = sorted(entry for entry in files("vlmed").joinpath("schemas").iterdir() if entry.name.endswith(".json"))
    parts = [_MADE, "# Schemas", _INTRO]
    for entry in schemas:
        schema = json.loads(entry.read_text("utf-8"))
        parts += [f"## {schema['title']}", f"`{entry.name}`. {schema.get('description', '')}".rstrip()]
        parts += _objects(schema)
    return "\n\n".join(parts) + "\n"


def _objects(schema: Mapping[str, Any]) -> Iterator[str]:
    yield _table(schema)
    for name, inner in schema.get("$defs", {}).items():
        if "properties" in inner:
            yield f"**{name}**"
            yield _table(inner)


def _table(schema: Mapping[str, Any]) -> str:
    rows = ["| field | value | meaning |", "|---|---|---|"]
    for path, field, needed in _fields(schema):
        rows.append(f"| `{path}`{'*' if needed else ''} | {_kind(field)} | {_cell(field.get('description', ''))} |")
    return "\n".join(rows)


def _fields(schema: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any, bool]]:
    """Every field, those of objects within objects and lists by their path; NAME stands for any name."""
    for name, field in schema.get("properties", {}).items():
        yield above + name, field, name in schema.get("required", ())
        yield from _fields(field, f"{above}{name}.")
        yield from _fields(field.get("items", {}), f"{above}{name}[].")
    inner = schema.get("additionalProperties")
    if isinstance(inner, dict):
        yield from _fields(inner, f"{above}NAME.")


def _kind(field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field or "oneOf" in field:
        return " or ".join(map(_kind, field.get("anyOf") or field["oneOf"]))
    if "const" in field or "enum" in field:
        return ", ".join(f"`{_cell(json.dumps(value))}`" for value in field.get("enum", [field.get("const")]))
    kind = field.get("type", "any")
    if kind == "array":
        return f"list of {_kind(field.get('items', {}))}"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"object of {_kind(field['additionalProperties'])}"
    return f"{kind if isinstance(kind, str) else ' or '.join(kind)}{_range(field)}"


def _range(field: Mapping[str, Any]) -> str:
    if "minimum" in field and "maximum" in field:
        return f" from {field['minimum']} to {field['maximum']}"
    return f" from {field['minimum']}" if "minimum" in field else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


if __name__ == "__main__":
    sys.stdout.write(reference())
