"""How models that write JSON are asked for fields: in plain words, or with the template that NuExtract was taught."""

from __future__ import annotations

import json
from typing import Any

from rave_mlx.documents.extraction.fields import Field
from rave_mlx.documents.extraction.schema import ExtractionSchema

_KINDS = {
    "string": "text", "number": "number", "integer": "whole number", "boolean": "true or false",
    "date": "date as YYYY-MM-DD", "time": "time as HH:MM:SS", "date-time": "date and time in ISO 8601",
}  # fmt: skip
_TEMPLATE_KINDS = {
    "string": "verbatim-string", "number": "number", "integer": "integer", "boolean": "boolean", "date": "date",
    "time": "time", "date-time": "date-time",
}  # fmt: skip
"""Types of NuExtract's templates (https://huggingface.co/numind/NuExtract-2.0-2B)."""

WORDS = (
    "Extract these fields from the document and answer with one JSON object that has exactly them:\n"
    "{fields}\n"
    "Copy values as they are printed; write numbers without currency and grouping. Use null for a field that the "
    "document does not have. Do not guess."
)
PART = "These are pages {first} to {last} of {count}."


def instruction(schema: ExtractionSchema, *, template: bool) -> str:
    """The text that goes with the pages.

    Args:
        schema: what is asked for.
        template: whether the model takes NuExtract's template instead of words.
    """
    if template:
        shape = json.dumps(_template(schema.root), ensure_ascii=False, indent=4)
        return f"# Template:\n{shape}\n# Context:\n"
    return WORDS.format(fields="\n".join(_lines(schema.root, "")))


def _lines(field: Field, indent: str) -> list[str]:
    """One line for each field, those of objects and lists below it."""
    lines = []
    for inner in field.fields:
        item = inner.item if inner.kind == "array" else None
        kind = _kind(inner) if item is None else f"list of {_kind(item)}"
        note = inner.description or inner.title
        lines.append(f"{indent}- {inner.name} ({kind})" + (f": {' '.join(note.split())}" if note else ""))
        lines += _lines(inner if item is None else item, indent + "  ")
    return lines


def _kind(field: Field) -> str:
    if field.kind == "enum":
        return "one of " + ", ".join(json.dumps(choice, ensure_ascii=False) for choice in field.choices)
    if field.kind == "union":
        return " or ".join(dict.fromkeys(_kind(option) for option in field.options))
    if field.kind == "array":
        return "list"
    return _KINDS.get(field.kind, "object")


def _template(field: Field) -> Any:
    if field.kind == "object":
        return {inner.name: _template(inner) for inner in field.fields}
    if field.kind == "array":
        assert field.item is not None
        return [_template(field.item)]
    if field.kind == "enum":
        return [str(choice) for choice in field.choices]
    return _TEMPLATE_KINDS.get(field.kind, "verbatim-string")
