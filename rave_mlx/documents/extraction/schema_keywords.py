"""The keywords of JSON Schema: those that extraction follows, those that say nothing about values, and the others."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rave_mlx.errors import UsageError


class SchemaError(UsageError):
    """A schema that cannot be followed; the message names the place in it."""

    def __init__(self, where: str, problem: str):
        super().__init__(f"{where}: {problem}")


ANNOTATIONS = frozenset({
    "$schema", "$id", "id", "$comment", "$defs", "definitions", "$anchor", "$vocabulary", "title", "description",
    "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "contentMediaType", "contentEncoding",
    "discriminator", "nullable", "unevaluatedProperties", "unevaluatedItems",
})  # fmt: skip
"""Keywords without influence: nothing is written that the schema does not name, which leaves nothing unevaluated."""

STRUCTURE = frozenset({
    "$ref", "allOf", "anyOf", "oneOf", "type", "enum", "const", "properties", "required", "items",
    "additionalProperties",
})  # fmt: skip

CONSTRAINTS = frozenset({
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern",
    "format", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties",
})  # fmt: skip

UNSUPPORTED = {
    "not": "say what fits instead of what does not",
    "if": "write the fields of every case; those that are not on the page become null",
    "then": "write the fields of every case; those that are not on the page become null",
    "else": "write the fields of every case; those that are not on the page become null",
    "prefixItems": "give the places names: an object instead of a list",
    "additionalItems": "give the places names: an object instead of a list",
    "contains": "bound the list with minItems and maxItems",
    "minContains": "bound the list with minItems and maxItems",
    "maxContains": "bound the list with minItems and maxItems",
    "patternProperties": "name every property, or use a list of objects with a name and a value",
    "propertyNames": "name every property, or use a list of objects with a name and a value",
    "dependentRequired": "every field is asked for anyway",
    "dependentSchemas": "write the fields of every case; those that are not on the page become null",
    "dependencies": "write the fields of every case; those that are not on the page become null",
    "$dynamicRef": "use $ref",
    "$recursiveRef": "use $ref",
    "contentSchema": "describe the content itself",
}  # fmt: skip
"""Keywords of JSON Schema that are refused, with what to write instead."""

FORMATS = frozenset({"email", "uri", "uuid", "ipv4", "ipv6", "hostname", "duration"})
"""Formats of texts that llguidance knows, beside dates and times."""
REFUSED_FORMATS = frozenset({
    "idn-email", "idn-hostname", "uri-reference", "uri-template", "iri", "iri-reference", "json-pointer",
    "relative-json-pointer", "regex",
})  # fmt: skip
"""Formats of JSON Schema that nothing here can hold a text to; names that JSON Schema does not know say nothing."""

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_type(value: Any) -> bool:
    names = [value] if isinstance(value, str) else value
    return _is_names(names) and bool(names) and all(name in TYPES for name in names)


def _is_pattern(value: Any) -> bool:
    try:
        re.compile(value)
    except (re.error, TypeError):
        return False
    return True


_Check = tuple[Callable[[Any], bool], str]
_NUMBER: _Check = (_is_number, "a number")
_COUNT: _Check = (_is_count, "a whole number, 0 or more")
_SCHEMAS: _Check = (lambda v: isinstance(v, list) and bool(v), "a list with at least one schema")
_CHECKS: dict[str, _Check] = {
    "type": (_is_type, f"one of {', '.join(TYPES)}, or a list of them"),
    "enum": (lambda v: isinstance(v, list) and bool(v), "a list with at least one value"),
    "required": (_is_names, "a list of names"),
    "properties": (lambda v: isinstance(v, dict), "an object"),
    "items": (lambda v: isinstance(v, dict | bool), "one schema for all items; lists of schemas are not supported"),
    "additionalProperties": (lambda v: isinstance(v, dict | bool), "a schema"),
    "$ref": (lambda v: isinstance(v, str), "a text"),
    "title": (lambda v: isinstance(v, str), "a text"),
    "description": (lambda v: isinstance(v, str), "a text"),
    "format": (lambda v: isinstance(v, str), "a text"),
    "pattern": (_is_pattern, "a regular expression that can be read"),
    "multipleOf": (lambda v: _is_number(v) and v > 0, "a number above 0"),
    "uniqueItems": (lambda v: v is False, "false; no writer is held to items that all differ"),
    "allOf": _SCHEMAS, "anyOf": _SCHEMAS, "oneOf": _SCHEMAS,
    "minimum": _NUMBER, "maximum": _NUMBER, "exclusiveMinimum": _NUMBER, "exclusiveMaximum": _NUMBER,
    "minLength": _COUNT, "maxLength": _COUNT, "minItems": _COUNT, "maxItems": _COUNT,
    "minProperties": _COUNT, "maxProperties": _COUNT,
}  # fmt: skip


def check_keyword(where: str, keyword: str, value: Any) -> None:
    """Refuse a keyword whose value is not what JSON Schema wants there.

    Args:
        where: the place of the schema that has it, for the message.
        keyword: its name.
        value: what it says.

    Raises:
        SchemaError: naming the place, the keyword and what it must be.
    """
    if keyword not in _CHECKS:
        return
    check, wanted = _CHECKS[keyword]
    if not check(value):
        shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
        raise SchemaError(where, f"{keyword} is {shown}; it must be {wanted}")
