"""Random JSON Schemas of documents, each with the schema of its answers: the same with null for whatever is missing.

Both are written side by side and share no code with the package.
"""

from __future__ import annotations

import random
from typing import Any

Pair = tuple[dict[str, Any], dict[str, Any]]
NAMES = (
    "total", "due date", "vendor_name", "größe", "IBAN", "品名", "цена", "a.b", "a/b", "a~b", 'say "hi"', "back\\slash",
    "emoji 😀", "café", "cafe\u0301", "block ▁", "two  spaces", "[]", "null", "1", "line\nbreak", "مبلغ", "name",
)  # fmt: skip
WORDS = ("EUR", "paid", "überfällig", "未払い", "x y", 'q"q', "", "a\\b", "ja/nein", "null", "12", "▁")
PATTERNS = (
    "^[A-Z]{2}[0-9]{2,6}$",
    "^(DE|FR)\\d+$",
    "[a-z]",
    "^\\S+ \\S+$",
    "^[0-9]{1,3}(,[0-9]{3})*\\.[0-9]{2}$",
    "é|ü",
)
FORMATS = ("date", "date-time", "time", "email", "uuid", "ipv4", "uri", "hostname", "duration")


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


class Draw:
    """One random schema and that of its answers."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.definitions: dict[str, Pair] = {}

    def document(self) -> Pair:
        schema, answers = self.object(0)
        if self.definitions:
            schema["$defs"] = {name: pair[0] for name, pair in self.definitions.items()}
        if self.rng.random() < 0.3:
            schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        return schema, answers

    def object(self, depth: int) -> Pair:
        rng = self.rng
        names = rng.sample(NAMES, rng.randint(1, 5 if depth == 0 else 3))
        pairs = {name: self.value(depth + 1) for name in names}
        answers = {
            "type": "object", "properties": {name: pair[1] for name, pair in pairs.items()},
            "required": names, "additionalProperties": False,
        }  # fmt: skip
        properties = {name: pair[0] for name, pair in pairs.items()}
        if rng.random() < 0.15 and len(names) > 1:
            parts = [{"properties": {n: properties[n]}, "required": [n]} for n in names]
            return {"type": "object", "allOf": parts}, answers
        schema = {"type": "object", "properties": properties}
        if rng.random() < 0.5:
            schema["required"] = rng.sample(names, rng.randint(0, len(names)))
        if rng.random() < 0.3:
            schema["additionalProperties"] = rng.choice([False, True])
        return schema, answers

    def value(self, depth: int) -> Pair:
        rng, kind = self.rng, self.rng.random()
        if kind < 0.15 and depth < 4:
            return self.referred(self.object(depth))
        if kind < 0.35 and depth < 4:
            return self.array(depth)
        if kind < 0.42:
            schema, answers = self.object(depth) if depth < 4 and rng.random() < 0.5 else self.leaf()
            choice = [schema, {"type": "null"}]
            rng.shuffle(choice)
            return {rng.choice(["anyOf", "oneOf"]): choice}, or_null(answers)
        schema, answers = self.leaf()
        if rng.random() < 0.4:
            schema = schema | {"description": rng.choice(["what is owed", "größer als 0", '"quoted"\n'])}
        return self.referred((schema, answers))

    def referred(self, pair: Pair) -> Pair:
        """The pair itself, or a reference to it."""
        if self.rng.random() > 0.15:
            return pair
        name = f"d{len(self.definitions)}"
        self.definitions[name] = pair
        return {"$ref": f"#/$defs/{name}"}, pair[1]

    def array(self, depth: int) -> Pair:
        item, answers = self.value(depth + 1)
        bounds: dict[str, Any] = {}
        if self.rng.random() < 0.5:
            bounds["minItems"] = self.rng.randint(0, 2)
        if self.rng.random() < 0.5:
            bounds["maxItems"] = self.rng.randint(2, 5)
        return {"type": "array", "items": item, **bounds}, {"type": "array", "items": answers, **bounds}

    def leaf(self) -> Pair:
        rng = self.rng
        match rng.choice(
            ("string", "pattern", "format", "number", "integer", "boolean", "enum", "const", "types", "any")
        ):
            case "string":
                schema: dict[str, Any] = {"type": "string"}
                if rng.random() < 0.5:
                    schema["maxLength"] = rng.randint(1, 30)
                if rng.random() < 0.3:
                    schema["minLength"] = rng.randint(0, 1)
            case "pattern":
                schema = {"type": "string", "pattern": rng.choice(PATTERNS)}
            case "format":
                schema = {"type": "string", "format": rng.choice(FORMATS)}
            case "number" | "integer" as kind:
                schema = {"type": kind, **self.bounds()}
            case "boolean":
                schema = {"type": "boolean"}
            case "enum":
                values = rng.sample([*WORDS, 0, 1, -2.5, True, 10**12], rng.randint(1, 5))
                schema = {"enum": values} if rng.random() < 0.6 else {"oneOf": [{"const": v} for v in values]}
            case "const":
                schema = {"const": rng.choice([*WORDS, 3, 0.5, False])}
                return schema, schema
            case "types":
                types = rng.sample(["string", "number", "boolean", "null"], rng.randint(2, 3))
                schema = {"type": types}
            case _:
                schema = {}
        return schema, or_null(schema)

    def bounds(self) -> dict[str, Any]:
        rng = self.rng
        low, high = rng.choice([0, -10, 0.5, -1e6]), rng.choice([1, 100, 7.25, 1e9])
        found: dict[str, Any] = {}
        if rng.random() < 0.5:
            found[rng.choice(["minimum", "exclusiveMinimum"])] = low
        if rng.random() < 0.5:
            found["maximum"] = high
        if rng.random() < 0.2:
            found["multipleOf"] = rng.choice([1, 0.5, 0.25])
        return found
