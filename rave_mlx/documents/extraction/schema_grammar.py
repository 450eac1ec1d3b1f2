"""The schema that answers are written by: a user's fields, each of which may be missing, and all of which end."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from rave_mlx.documents.extraction.field_checks import DATE_PATTERNS
from rave_mlx.documents.extraction.fields import Field

DEFAULT_CHARACTERS = 500
"""Longest text of a field without `maxLength`."""
DEFAULT_ITEMS = 200
"""Most items of a list without `maxItems`."""
_INTEGERS = 10**18 - 1
_NUMBERS = 10**15
"""Bounds of numbers without a bound: what 64 bits hold, and what a float holds with two decimals at least."""
_DECIMALS = 6


def grammar_schema(field: Field) -> dict[str, Any]:
    """JSON Schema of what may be written for a field: the user's schema, with fewer values and null.

    Every value that is no object, no list and no constant may be null; objects and lists only where the schema itself
    says so. All properties are written, in the schema's order, and no others. Texts, lists and numbers without a bound
    get one (500 characters, 200 items, 18 digits, 6 decimals), so that every answer ends.
    """
    if field.kind == "object":
        written: dict[str, Any] = {
            "type": "object",
            "properties": {inner.name: grammar_schema(inner) for inner in field.fields},
            "required": [inner.name for inner in field.fields],
            "additionalProperties": False,
        }
        return _or_null(written) if field.nullable else written
    if field.kind == "array":
        assert field.item is not None
        limits = field.limits
        most = limits.max_items if limits.max_items is not None else max(DEFAULT_ITEMS, limits.min_items)
        written = {
            "type": "array", "items": grammar_schema(field.item), "minItems": limits.min_items, "maxItems": most,
        }  # fmt: skip
        return _or_null(written) if field.nullable else written
    if field.constant:
        return {"const": field.choices[0]}
    options = [_leaf_schema(option) for option in field.options or (field,)]
    return _or_null(*options)


def leaf_schemas(field: Field) -> list[tuple[Field, dict[str, Any]]]:
    """The schemas of all single values without null, with their fields: each must be one that something fits."""
    return [(leaf, _leaf_schema(option)) for leaf in field.leaves() for option in leaf.options or (leaf,)]


def blank(field: Field) -> Any:
    """The value of a field of which nothing is known: null, or an object or a list of such."""
    if field.constant:
        return field.choices[0]
    if field.kind == "object" and not field.nullable:
        return {inner.name: blank(inner) for inner in field.fields}
    if field.kind == "array" and not field.nullable:
        assert field.item is not None
        return [blank(field.item) for _ in range(field.limits.min_items)]
    return None


def _or_null(*schemas: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [*schemas, {"type": "null"}]}


def _leaf_schema(field: Field) -> dict[str, Any]:
    if field.kind == "enum":
        return {"enum": list(field.choices)}
    if field.kind == "boolean":
        return {"type": "boolean"}
    if field.kind in ("number", "integer"):
        return {"type": field.kind, **_number_bounds(field)}
    return _text_schema(field)


def _text_schema(field: Field) -> dict[str, Any]:
    limits = field.limits
    patterns = list(limits.patterns)
    schema: dict[str, Any] = {"type": "string"}
    most = limits.max_length if limits.max_length is not None else max(DEFAULT_CHARACTERS, limits.min_length)
    if field.kind in DATE_PATTERNS:
        patterns.insert(0, DATE_PATTERNS[field.kind])
    if field.kind not in DATE_PATTERNS or limits.min_length or limits.max_length is not None:
        schema |= {"minLength": limits.min_length, "maxLength": most}
    if limits.format is not None:
        schema["format"] = limits.format
    if len(patterns) == 1:
        schema["pattern"] = patterns[0]
    elif patterns:
        schema["allOf"] = [{"pattern": pattern} for pattern in patterns]
    return schema


def _number_bounds(field: Field) -> dict[str, Any]:
    """Bounds of a number, those of the user first: with both ends, and with a last decimal."""
    limits, most = field.limits, _INTEGERS if field.kind == "integer" else _NUMBERS
    given = {
        "minimum": limits.minimum, "exclusiveMinimum": limits.above,
        "maximum": limits.maximum, "exclusiveMaximum": limits.below, "multipleOf": limits.multiple_of,
    }  # fmt: skip
    bounds: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    ends = [bounds[name] for name in given if name != "multipleOf" and name in bounds]
    if limits.minimum is None and limits.above is None:
        bounds["minimum"] = min([-most, *(10 * value for value in ends if value < 0)])
    if limits.maximum is None and limits.below is None:
        bounds["maximum"] = max([most, *(10 * value for value in ends if value > 0)])
    if field.kind == "number" and limits.multiple_of is None:
        bounds["multipleOf"] = float(f"1e-{min(max(_DECIMALS, *(2 + _decimals(value) for value in [0, *ends])), 9)}")
    return bounds


def _decimals(value: float) -> int:
    """Digits behind the decimal point of a number as it is written."""
    exponent = Decimal(str(value)).normalize().as_tuple().exponent
    return max(0, -int(exponent))
