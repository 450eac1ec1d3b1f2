"""One place of a JSON Schema as one plain description: references followed, `allOf` merged, null set apart.

What applies to a value may be written in many places: beside a `$ref`, behind it, in each part of an `allOf`. All of it
together is a `Node`. What may be written in several ways (`anyOf`, `oneOf`, a list of types) stays as `options`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from rave_mlx.documents.extraction.schema_keywords import (
    ANNOTATIONS,
    CONSTRAINTS,
    STRUCTURE,
    UNSUPPORTED,
    SchemaError,
    check_keyword,
)

_TYPES = frozenset({"object", "array", "string", "number", "boolean"})


@dataclass(frozen=True)
class Part:
    """A schema that applies to a value, with its place and the references that led to it."""

    schema: Any
    where: str
    behind: tuple[str, ...] = ()

    def child(self, schema: Any, *steps: str) -> Part:
        """A schema inside this one."""
        names = (step.replace("~", "~0").replace("/", "~1") for step in steps)
        return Part(schema, "/".join((self.where, *names)), self.behind)


@dataclass
class Node:
    """All that a schema says about one value.

    Attributes:
        where: its place in the schema, as "#/properties/total".
        types: JSON types that the value may have, null apart; "integer" stands for numbers without a fraction.
        null: whether it may be null.
        says_null: whether null is named anywhere, rather than left possible by saying nothing.
        values: the only values it may have, or None.
        constant: whether `values` comes from a `const`.
        keywords: every other keyword with all that is said with it.
        properties: for each name, what applies to its value.
        required: names that must be there.
        items: what applies to every item of a list.
        options: nodes of which one must hold; empty where there is no choice.
        exclusive: whether exactly one option may hold (`oneOf`).
        title, description: the first ones.
    """

    where: str
    types: frozenset[str] | None = None
    null: bool = True
    says_null: bool = False
    values: list[Any] | None = None
    constant: bool = False
    keywords: dict[str, list[Any]] = field(default_factory=dict)
    properties: dict[str, list[Part]] = field(default_factory=dict)
    required: list[str] = field(default_factory=list)
    items: list[Part] = field(default_factory=list)
    options: list[Node] = field(default_factory=list)
    exclusive: bool = False
    title: str = ""
    description: str = ""


def node_of(parts: Sequence[Part], root: Mapping[str, Any]) -> Node:
    """Everything that `parts`, all of which apply to one value, say about it.

    Args:
        parts: schemas, at least one.
        root: the whole schema, in which references are looked up.

    Raises:
        SchemaError: for what is invalid, recursive, contradictory or not supported.
    """
    plain = [p for part in parts for p in _expand(part, root)]
    node, choices = Node(parts[0].where), []
    for part in plain:
        _add(node, part)
        choices += [(part, name) for name in ("anyOf", "oneOf") if name in part.schema]
    single: list[Part] = []
    groups: list[tuple[str, list[Part]]] = []
    for part, name in choices:
        options = [part.child(option, name, str(i)) for i, option in enumerate(part.schema[name])]
        if name == "anyOf" and all(isinstance(o.schema, dict) and set(o.schema) == {"required"} for o in options):
            continue  # one of several sets of properties must be there, and all of them always are
        values = [option for option in options if not _only_null(option, root)]
        inner = [node_of([value], root) for value in values]
        node.null &= len(values) < len(options) or any(option.null for option in inner)
        node.says_null |= len(values) < len(options) or any(option.says_null for option in inner)
        if len(values) == 1:
            single.append(values[0])
        elif values:
            groups.append((name, values))
    if len(groups) > 1:
        raise SchemaError(node.where, "has two choices (anyOf, oneOf) side by side; write them as one")
    rest = [Part({k: v for k, v in p.schema.items() if k not in ("anyOf", "oneOf")}, p.where, p.behind) for p in plain]
    if single:
        null, says_null = node.null, node.says_null
        kept = [Part({name: [v.schema for v in values]}, values[0].where, values[0].behind) for name, values in groups]
        node = node_of([*rest, *single, *kept], root)
        node.null, node.says_null = null, says_null
    elif groups:
        name, values = groups[0]
        node.options = [node_of([*rest, value], root) for value in values]
        node.exclusive = name == "oneOf"
    return node


def _expand(part: Part, root: Mapping[str, Any]) -> list[Part]:
    """A part without `$ref` and `allOf`: what they stand for as parts of their own."""
    schema = part.schema
    if schema is True:
        return [Part({}, part.where, part.behind)]
    if schema is False:
        raise SchemaError(part.where, "is false: no value fits")
    if not isinstance(schema, dict):
        raise SchemaError(part.where, f"is {type(schema).__name__}; a schema is an object or true")
    for keyword, value in schema.items():
        _check_known(part.where, keyword)
        check_keyword(part.where, keyword, value)
    found = [Part({k: v for k, v in schema.items() if k not in ("$ref", "allOf")}, part.where, part.behind)]
    if "$ref" in schema:
        found += _expand(_follow(part, root), root)
    for i, inner in enumerate(schema.get("allOf", [])):
        found += _expand(part.child(inner, "allOf", str(i)), root)
    return found


def _check_known(where: str, keyword: str) -> None:
    if keyword in ANNOTATIONS or keyword in CONSTRAINTS or keyword in STRUCTURE or keyword.startswith("x-"):
        return
    if keyword in UNSUPPORTED:
        raise SchemaError(where, f"{keyword} is not supported: {UNSUPPORTED[keyword]}")
    near = difflib.get_close_matches(keyword, [*ANNOTATIONS, *CONSTRAINTS, *STRUCTURE], 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise SchemaError(where, f"{keyword} is no keyword that is known here{hint}")


def _follow(part: Part, root: Mapping[str, Any]) -> Part:
    """What a `$ref` refers to."""
    reference = part.schema["$ref"]
    if reference != "#" and not reference.startswith("#/"):
        raise SchemaError(part.where, f"$ref {reference!r} is not a place in this schema, as #/$defs/name")
    if reference in ("#", part.where, *part.behind):
        raise SchemaError(
            part.where,
            f"$ref {reference!r} is recursive: an answer might never end; write out as many levels as needed",
        )
    target: Any = root
    for step in filter(None, reference[1:].split("/")):
        key = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(target, list) and key.isdecimal() and int(key) < len(target):
            target = target[int(key)]
        elif isinstance(target, dict) and key in target:
            target = target[key]
        else:
            raise SchemaError(part.where, f"$ref {reference!r} leads nowhere")
    return Part(target, reference, (*part.behind, reference))


def _only_null(part: Part, root: Mapping[str, Any]) -> bool:
    """Whether null is all that a schema allows."""
    if part.schema is False:
        return True  # an option that nothing fits is no option
    plain = _expand(part, root)
    return any(
        p.schema.get("type") in ("null", ["null"])
        or ("const" in p.schema and p.schema["const"] is None)
        or p.schema.get("enum") == [None]
        for p in plain
    )


def _add(node: Node, part: Part) -> None:
    """Put one plain part to what is known of a value."""
    for keyword, value in part.schema.items():
        if keyword == "type":
            _add_types(node, part, [value] if isinstance(value, str) else value)
        elif keyword in ("enum", "const"):
            values = [value] if keyword == "const" else value
            node.null &= None in values
            node.says_null |= None in values
            kept = [v for v in values if v is not None]
            before = node.values
            node.values = kept if before is None else [v for v in before if any(same(v, other) for other in kept)]
            node.constant |= keyword == "const"
        elif keyword == "properties":
            for name, schema in value.items():
                node.properties.setdefault(name, []).append(part.child(schema, "properties", name))
        elif keyword == "required":
            node.required += [name for name in value if name not in node.required]
        elif keyword == "items":
            node.items.append(part.child(value, "items"))
        elif keyword in ("title", "description"):
            if not getattr(node, keyword):
                setattr(node, keyword, " ".join(value.split()))
        elif keyword in CONSTRAINTS or keyword == "additionalProperties":
            node.keywords.setdefault(keyword, []).append((part, value) if keyword == "additionalProperties" else value)
    if part.schema.get("nullable") is True and "type" in part.schema:
        node.null = node.says_null = True  # OpenAPI 3.0 writes null so


def _add_types(node: Node, part: Part, names: Sequence[str]) -> None:
    node.null &= "null" in names
    node.says_null |= "null" in names
    found = frozenset(names) - {"null"}
    if "number" in found:
        found -= {"integer"}
    if node.types is None:
        node.types = found
        return
    both = node.types & found
    if "integer" in node.types | found and "number" in node.types | found:
        both |= {"integer"}
    if not both:
        raise SchemaError(
            part.where, f"asks for {_words(found)} where {_words(node.types)} is asked for: no value fits"
        )
    node.types = both


def same(first: Any, second: Any) -> bool:
    """Whether two values are the same JSON value: true is not 1, but 1.0 is."""
    return isinstance(first, bool) == isinstance(second, bool) and bool(first == second)


def _words(names: frozenset[str]) -> str:
    return " or ".join(sorted(names)) or "null"
