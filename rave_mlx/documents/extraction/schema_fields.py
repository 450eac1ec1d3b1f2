"""From the nodes of a schema to the tree of fields, with what the schema asks for checked on the way."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from rave_mlx.documents.extraction.field_checks import problem_of
from rave_mlx.documents.extraction.fields import ITEM, Field, Kind, Limits, Scalar
from rave_mlx.documents.extraction.schema_keywords import FORMATS, REFUSED_FORMATS, SchemaError
from rave_mlx.documents.extraction.schema_nodes import Node, Part, node_of

MOST_FIELDS = 2000
"""Fields of a schema, each `$ref` counted where it is used."""
MOST_LEVELS = 32
MOST_ITEMS = 2000
MOST_CHARACTERS = 20_000
"""Of lists and texts whatever a schema allows: no answer is as long."""
_DATES: dict[str, Kind] = {"date": "date", "time": "time", "date-time": "date-time"}
_LEAVES = ("string", "number", "integer", "boolean")
_LOOK_AROUND = re.compile(r"\(\?(?:<?[=!])")
_OF_TYPE = {
    "object": ("required", "minProperties", "maxProperties", "additionalProperties"),
    "array": ("minItems", "maxItems"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "string": ("minLength", "maxLength", "pattern", "format"),
}


def field_of(schema: Mapping[str, Any]) -> Field:
    """The tree of fields that a JSON Schema describes.

    Raises:
        SchemaError: for a schema that is invalid, recursive, contradictory or not supported, naming the place.
    """
    root = _Builder(schema).build([Part(schema, "#")], "", ())
    if root.kind != "object":
        raise SchemaError("#", f"describes a value of the kind {root.kind}; the whole of a document is an object")
    return replace(root, nullable=False)


class _Builder:
    """Builds the tree of one schema and counts its fields: references can multiply a small schema beyond measure."""

    def __init__(self, schema: Mapping[str, Any]):
        self._schema = schema
        self._count = 0

    def build(self, parts: list[Part], name: str, path: tuple[str, ...]) -> Field:
        """The field that all of `parts` describe."""
        self._count += 1
        if self._count > MOST_FIELDS:
            raise SchemaError(parts[0].where, f"the schema has more than {MOST_FIELDS} fields; extract them in parts")
        if len(path) > MOST_LEVELS:
            raise SchemaError(parts[0].where, f"the schema is more than {MOST_LEVELS} levels deep")
        node = node_of(parts, self._schema)
        return self._field(node, name, path)

    def _field(self, node: Node, name: str, path: tuple[str, ...]) -> Field:
        base = Field(name, path, "string", node.title, node.description, node.null and node.says_null)
        if node.options:
            return self._union(node, base)
        types = sorted(node.types) if node.types is not None else [_implied_type(node)]
        if not types and node.null:
            raise SchemaError(node.where, "allows null and nothing else: there is nothing to extract")
        if node.values is not None:
            return _enum(node, base, types)
        if len(types) > 1:
            return self._union(
                Node(node.where, options=[replace(node, types=frozenset({t}), null=False) for t in types]), base
            )
        if types[0] == "object":
            return self._object(node, base)
        if types[0] == "array":
            return self._array(node, base)
        return _leaf(node, base, types[0])

    def _object(self, node: Node, base: Field) -> Field:
        where, words = node.where, node.keywords
        if not node.properties:
            raise SchemaError(where, "is an object without properties; name what to extract")
        unknown = next((n for n in node.required if n not in node.properties), None)
        if unknown is not None:
            raise SchemaError(where, f"requires {unknown!r}, which properties does not describe")
        count = len(node.properties)
        if count < max(words.get("minProperties", [0])) or count > min(words.get("maxProperties", [count])):
            raise SchemaError(
                where, f"all its {count} properties are written, which minProperties or maxProperties forbids"
            )
        for part, rule in words.get("additionalProperties", []):
            for name in node.properties.keys() - part.schema.get("properties", {}).keys():
                if rule is False:
                    raise SchemaError(
                        part.where, f"additionalProperties is false, which forbids {name!r} from beside it"
                    )
                node.properties[name].append(part.child(rule, "additionalProperties"))
        fields = []
        for name, parts in node.properties.items():
            _check_text(where, name)
            fields.append(self.build(parts, name, (*base.path, name)))
        return replace(base, kind="object", fields=tuple(fields))

    def _array(self, node: Node, base: Field) -> Field:
        least, most = _lengths(node, "minItems", "maxItems", MOST_ITEMS)
        if most == 0:
            raise SchemaError(node.where, "maxItems is 0: there is nothing to extract")
        parts = node.items or [Part({}, f"{node.where}/items")]
        item = self.build(parts, "", (*base.path, ITEM))
        return replace(base, kind="array", item=item, limits=Limits(min_items=least, max_items=most))

    def _union(self, node: Node, base: Field) -> Field:
        """A value of one of several kinds; where each of them is one of some values, it is one of all these."""
        # A pattern with look-around is followed by no grammar. pydantic writes one beside a number for each Decimal.
        kept = [o for o in node.options if not any(map(_LOOK_AROUND.search, o.keywords.get("pattern", ())))]
        options = [
            replace(self._field(o, base.name, base.path), title="", description="") for o in kept or node.options
        ]
        large = next((o for o in options if not o.is_leaf), None)
        if large is not None:
            raise SchemaError(
                node.where,
                f"is a choice with an {large.kind} in it; write one object with the properties of every case",
            )
        if node.exclusive and not _disjoint(options):
            raise SchemaError(node.where, "oneOf has options that a value may fit together; use anyOf")
        flat = tuple(replace(inner, constant=False) for o in options for inner in (o.options or (o,)))
        base = replace(base, nullable=base.nullable or any(o.nullable for o in options))
        if all(inner.kind == "enum" for inner in flat):
            return replace(base, kind="enum", choices=_distinct(c for inner in flat for c in inner.choices))
        return replace(flat[0], **_own(base)) if len(flat) == 1 else replace(base, kind="union", options=flat)


def _own(field: Field) -> dict[str, Any]:
    return {"title": field.title, "description": field.description, "nullable": field.nullable}


def _implied_type(node: Node) -> str:
    """The type of a schema that names none: that of its keywords; text where nothing tells."""
    if node.properties:
        return "object"
    if node.items:
        return "array"
    return next((kind for kind, words in _OF_TYPE.items() if any(w in node.keywords for w in words)), "string")


def _enum(node: Node, base: Field, types: list[str]) -> Field:
    """One of the values that fit everything else which is said."""
    assert node.values is not None
    if any(isinstance(value, list | dict) for value in node.values):
        raise SchemaError(node.where, "enum or const with lists or objects is not supported")
    fits = [
        _leaf(node, base, t)
        for t in (types if node.types is not None else ("string", "number", "boolean"))
        if t in _LEAVES
    ]
    values = [v for v in node.values if any(problem_of(field, v) is None for field in fits)]
    if not values:
        raise SchemaError(node.where, "no value of its enum or const fits what else is said about it")
    for value in values:
        _check_text(node.where, value if isinstance(value, str) else "")
    return replace(base, kind="enum", choices=_distinct(values), constant=node.constant)


def _distinct(values: Iterable[Scalar]) -> tuple[Scalar, ...]:
    return tuple({(isinstance(v, bool), v): v for v in values}.values())


def _leaf(node: Node, base: Field, kind: str) -> Field:
    """A text, a number, a date, true or false."""
    if kind == "string":
        return _text(node, base)
    if kind == "boolean":
        return replace(base, kind="boolean")
    limits = _number_limits(node)
    if not _has_number(limits, whole=kind == "integer"):
        raise SchemaError(node.where, "its bounds and multipleOf leave no number that fits")
    return replace(base, kind="integer" if kind == "integer" else "number", limits=limits)


def _text(node: Node, base: Field) -> Field:
    least, most = _lengths(node, "minLength", "maxLength", MOST_CHARACTERS)
    patterns = tuple(dict.fromkeys(node.keywords.get("pattern", ())))
    for pattern in patterns:
        _check_text(node.where, pattern)
        if _LOOK_AROUND.search(pattern):
            raise SchemaError(node.where, f"pattern {pattern!r} has look-around, which no grammar follows")
    formats = set(node.keywords.get("format", ()))
    refused = sorted(formats & REFUSED_FORMATS)
    if refused:
        raise SchemaError(node.where, f"format {refused[0]} is not supported; describe it with pattern")
    known = sorted(formats & (FORMATS | _DATES.keys()))
    if len(known) > 1:
        raise SchemaError(node.where, f"has the formats {' and '.join(known)}: no text fits both")
    form = known[0] if known else None
    if form in _DATES:
        return replace(base, kind=_DATES[form], limits=Limits(min_length=least, max_length=most, patterns=patterns))
    return replace(base, limits=Limits(min_length=least, max_length=most, patterns=patterns, format=form))


def _lengths(node: Node, least_word: str, most_word: str, bound: int) -> tuple[int, int | None]:
    """The least and the largest length that is said, the latter no larger than `bound`."""
    least = int(max(node.keywords.get(least_word, [0])))
    most = min(node.keywords.get(most_word, [math.inf]))
    if least > most:
        raise SchemaError(node.where, f"{least_word} is {least} and {most_word} is {int(most)}: nothing fits")
    if least > bound:
        raise SchemaError(node.where, f"{least_word} is {least}; no answer is as long: at most {bound:,}")
    return least, None if most == math.inf else min(int(most), bound)


def _number_limits(node: Node) -> Limits:
    words = node.keywords
    multiples = {float(m) for m in words.get("multipleOf", [])}
    if len(multiples) > 1:
        raise SchemaError(node.where, "has several multipleOf; write their least common multiple")
    return Limits(
        minimum=max(words.get("minimum", ()), default=None),
        maximum=min(words.get("maximum", ()), default=None),
        above=max(words.get("exclusiveMinimum", ()), default=None),
        below=min(words.get("exclusiveMaximum", ()), default=None),
        multiple_of=next(iter(words.get("multipleOf", ())), None),
    )


def _has_number(limits: Limits, *, whole: bool) -> bool:
    """Whether there is a number within the bounds."""
    low = max((b for b in (limits.minimum, limits.above) if b is not None), default=-math.inf)
    high = min((b for b in (limits.maximum, limits.below) if b is not None), default=math.inf)
    open_ends = (limits.above is not None and limits.above >= low) + (limits.below is not None and limits.below <= high)
    step = limits.multiple_of
    if whole and step is None:
        step = 1
    if step is None:
        return low < high or (low == high and not open_ends)
    if low == -math.inf or high == math.inf:
        return True
    first = math.ceil(low / step)
    first += limits.above is not None and first * step <= limits.above
    return first * step < high or (first * step == high and (limits.below is None or high < limits.below))


def _disjoint(options: list[Field]) -> bool:
    """Whether no value fits two of these fields: they are of different JSON types, or of different values."""
    if all(option.kind == "enum" for option in options):
        return len(_distinct(c for o in options for c in o.choices)) == sum(len(o.choices) for o in options)
    types = [{_json_type(i, v) for i in (o.options or (o,)) for v in i.choices or (None,)} for o in options]
    return sum(map(len, types)) == len(set().union(*types))


def _json_type(field: Field, value: Any) -> str:
    """The type of a field's values; of one of its choices, where it is an enum."""
    if field.kind == "enum":
        return "boolean" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
    return {"integer": "number", "number": "number", "boolean": "boolean"}.get(field.kind, "string")


def _check_text(where: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise SchemaError(where, f"{text[:40]!r} is no Unicode text") from None
