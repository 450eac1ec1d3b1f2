"""Users' schemas: the fields that they describe, what answers may be, and what is refused."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from typing import Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field

from rave_mlx.documents.extraction.schema import ExtractionSchema
from rave_mlx.errors import UsageError

TEXT = {"type": "string"}


def of(**properties):
    return ExtractionSchema.of({"type": "object", "properties": properties})


def kinds(schema: ExtractionSchema) -> dict[str, str]:
    return {field.dotted: field.kind for field in schema.root.leaves()}


def test_every_kind_of_value():
    schema = of(
        s=TEXT, n={"type": "number"}, i={"type": "integer"}, b={"type": "boolean"}, e={"enum": ["a", 1]},
        c={"const": "v1"},
        d={"type": "string", "format": "date"}, t={"format": "time"}, m={"format": "date-time"},
        mail={"type": "string", "format": "email"}, any={}, o={"properties": {"x": TEXT}},
        l={"items": {"properties": {"y": {"minimum": 0}}}}, u={"type": ["string", "number"]},
    )  # fmt: skip
    assert kinds(schema) == {
        "s": "string", "n": "number", "i": "integer", "b": "boolean", "e": "enum", "c": "enum", "d": "date",
        "t": "time",
        "m": "date-time", "mail": "string", "any": "string", "o.x": "string", "l[].y": "number", "u": "union",
    }  # fmt: skip
    schema.check_grammar()
    assert [f.dotted for f in schema.root.leaves() if f.constant] == ["c"]
    assert schema.blank == {
        "s": None, "n": None, "i": None, "b": None, "e": None, "c": "v1", "d": None, "t": None, "m": None, "mail": None,
        "any": None, "o": {"x": None}, "l": [], "u": None,
    }  # fmt: skip


def test_names_become_text_fields_as_they_are_written():
    schema = ExtractionSchema.of_names(" total,  due   date ,Vendor, ")
    assert [f.name for f in schema.fields] == ["total", "due date", "Vendor"]
    assert kinds(schema) == {"total": "string", "due date": "string", "Vendor": "string"}
    for names, reason in (("", "names nothing"), (" , ", "names nothing"), ("a, b,a", "'a' is named twice")):
        with pytest.raises(UsageError, match=reason):
            ExtractionSchema.of_names(names)


def test_labels():
    schema = of(due_date=TEXT, dueDate=TEXT, IBAN=TEXT, x={"title": "VAT rate", **TEXT}, tags={"items": TEXT})
    assert [f.label for f in schema.root.leaves()] == ["due date", "due date", "IBAN", "VAT rate", "tags"]


def test_references_all_of_and_null():
    schema = ExtractionSchema.of({
        "$defs": {
            "money": {"type": "number", "minimum": 0, "description": "an amount"},
            "party": {"type": "object", "properties": {"name": TEXT, "owes": {"$ref": "#/$defs/money"}}},
            "a/b~c": {"type": "boolean"},
        },
        "type": "object",
        "properties": {
            "total": {"$ref": "#/$defs/money", "maximum": 100, "description": "the sum"},
            "seller": {"anyOf": [{"$ref": "#/$defs/party"}, {"type": "null"}]},
            "buyer": {"allOf": [{"$ref": "#/$defs/party"}, {"properties": {"vat": {"type": ["string", "null"]}}}]},
            "paid": {"$ref": "#/$defs/a~1b~0c"},
            "kind": {"oneOf": [{"const": "bill"}, {"const": "receipt"}, {"type": "null"}]},
            "level": {"enum": ["low", "high", None]},
        },
        "required": ["total"],
    })  # fmt: skip
    assert kinds(schema) == {
        "total": "number", "seller.name": "string", "seller.owes": "number", "buyer.name": "string",
        "buyer.owes": "number", "buyer.vat": "string", "paid": "boolean", "kind": "enum", "level": "enum",
    }  # fmt: skip
    total, seller, buyer, _, kind, level = schema.fields
    assert (total.limits.minimum, total.limits.maximum, total.description) == (0, 100, "the sum")
    assert (seller.nullable, buyer.nullable, buyer.fields[2].nullable) == (True, False, True)
    assert (kind.choices, kind.nullable, level.choices, level.nullable) == (
        ("bill", "receipt"),
        True,
        ("low", "high"),
        True,
    )
    assert schema.blank["seller"] is None
    assert schema.blank["buyer"] == {"name": None, "owes": None, "vat": None}
    schema.check_grammar()


class Line(BaseModel):
    what: str = Field(description="what was sold", max_length=40)
    price: Decimal = Field(ge=0)


class Invoice(BaseModel):
    """An invoice."""

    number: str
    due: datetime.date | None = None
    kind: Literal["invoice", "credit note"]
    lines: list[Line] = Field(min_length=1, max_length=5)
    payer: Line | None = None


def test_pydantic_models():
    schema = ExtractionSchema.of(Invoice)
    assert kinds(schema) == {
        "number": "string", "due": "date", "kind": "enum", "lines[].what": "string", "lines[].price": "number",
        "payer.what": "string", "payer.price": "number",
    }  # fmt: skip
    what, price = schema.fields[3].item.fields
    assert (what.description, what.limits.max_length, price.limits.minimum) == ("what was sold", 40, 0)
    value = {"number": "1", "due": None, "kind": "invoice", "lines": [{"what": "a", "price": 1.5}], "payer": None}
    assert schema.problems(value) == []
    assert Invoice.model_validate(value).lines[0].price == Decimal("1.5")
    schema.check_grammar()


def test_from_a_file(tmp_path):
    file = tmp_path / "s.json"
    file.write_text('{"type": "object", "properties": {"größe": {"type": "number"}}}', "utf-8")
    assert kinds(ExtractionSchema.of(file)) == kinds(ExtractionSchema.of(str(file))) == {"größe": "number"}
    for text, reason in (
        ('{"type": "object",\n oops', r"s\.json, line 2: not JSON"),
        ("[]", "a schema is a JSON object"),
        ("", "not JSON"),
        ('{"type": "object", "properties": {"a": {}, "a": {}}}', "'a' comes twice"),
        ('{"properties": {"a": {"maximum": NaN}}}', "NaN is no JSON number"),
        (
            '{"properties": {"a": {"type": "strin"}}}',
            r"s\.json, #/properties/a: type is 'strin'; it must be one of object",
        ),
        ("[" * 100_000, r"not (JSON|a usable schema)"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=reason) as caught:
            ExtractionSchema.of(file)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read"):
        ExtractionSchema.of(tmp_path / "none.json")
    for source, what in ((5, "not int"), (int, "not int"), (None, "not NoneType")):
        with pytest.raises(UsageError, match=what):
            ExtractionSchema.of(source)


NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "array", "items": TEXT}, "#: describes a value of the kind array; the whole"),
        ({"type": "object"}, "#: is an object without properties"),
        ({"properties": {"a": {"type": "object", "additionalProperties": TEXT}}}, "#/properties/a: is an object w"),
        ({"properties": {"a": NODE}, "$defs": {"node": NODE}}, "#/properties/a/properties/next|recursive"),
        ({"properties": {"a": {"$ref": "#"}}}, "recursive"),
        ({"properties": {"a": {"$ref": "#/properties/a"}}}, "recursive"),
        ({"properties": {"a": {"$ref": "#/properties/b"}, "b": {"$ref": "#/properties/a"}}}, "recursive"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "leads nowhere"),
        ({"properties": {"a": {"$ref": "https://example.com/s.json"}}}, "is not a place in this schema"),
        ({"properties": {"a": {"enum": []}}}, "enum is \\[\\]; it must be a list with at least one value"),
        ({"properties": {"a": {"type": "string", "enum": [1, 2]}}}, "no value of its enum or const fits"),
        ({"properties": {"a": {"enum": [1, 2], "minimum": 3}}}, "no value of its enum or const fits"),
        ({"properties": {"a": {"enum": [[1]]}}}, "lists or objects is not supported"),
        ({"properties": {"a": {"type": "number", "minimum": 3, "maximum": 2}}}, "leave no number"),
        ({"properties": {"a": {"type": "number", "exclusiveMinimum": 3, "maximum": 3}}}, "leave no number"),
        ({"properties": {"a": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 4}}}, "leave no number"),
        ({"properties": {"a": {"type": "integer", "minimum": 1, "maximum": 4, "multipleOf": 5}}}, "leave no number"),
        ({"properties": {"a": {"type": "string", "minLength": 3, "maxLength": 2}}}, "minLength is 3 and max"),
        ({"properties": {"a": {"items": TEXT, "minItems": 3, "maxItems": 2}}}, "minItems is 3 and maxItems is 2"),
        ({"properties": {"a": {"items": TEXT, "minItems": 5000}}}, "minItems is 5000; no answer is as long"),
        ({"properties": {"a": {"items": TEXT, "maxItems": 0}}}, "nothing to extract"),
        ({"properties": {"a": False}}, "#/properties/a: is false: no value fits"),
        ({"properties": {"a": {"type": "null"}}}, "nothing to extract"),
        ({"properties": {"a": {"type": "string", "allOf": [{"type": "number"}]}}}, "no value fits"),
        ({"properties": {"a": {"format": "date", "allOf": [{"format": "email"}]}}}, "no text fits both"),
        ({"properties": {"a": TEXT}, "required": ["b"]}, "requires 'b', which properties does not describe"),
        ({"properties": {"a": TEXT}, "minProperties": 2}, "minProperties or maxProperties"),
        ({"properties": {"a": {"not": TEXT}}}, "not is not supported: say what fits"),
        ({"properties": {"a": {"if": TEXT}}}, "if is not supported"),
        ({"properties": {"a": {"items": TEXT, "uniqueItems": True}}}, "uniqueItems is True"),
        ({"properties": {"a": {"prefixItems": [TEXT]}}}, "prefixItems is not supported"),
        ({"properties": {"a": {"items": [TEXT]}}}, "items is"),
        ({"properties": {"a": TEXT}, "patternProperties": {"x": TEXT}}, "patternProperties is not supported"),
        ({"properties": {"a": {"type": "string", "maxlength": 3}}}, "maxlength is no keyword.*did you mean maxLength"),
        ({"properties": {"a": {"type": "string", "maxLength": "3"}}}, "maxLength is '3'; it must be a whole number"),
        ({"properties": {"a": {"type": "string", "pattern": "("}}}, "pattern is '\\('; it must be a regular"),
        ({"properties": {"a": {"type": "string", "pattern": "(?=a)b"}}}, "look-around"),
        ({"properties": {"a": {"type": "string", "format": "regex"}}}, "format regex is not supported"),
        ({"properties": {"a": {"anyOf": [{"properties": {"x": TEXT}}, TEXT]}}}, "a choice with an object in it"),
        ({"properties": {"a": {"oneOf": [TEXT, {"type": "string", "maxLength": 3}]}}}, "may fit together; use anyOf"),
        ({"properties": {"a": {"oneOf": [{"const": 1}, {"enum": [1, 2]}]}}}, "may fit together; use anyOf"),
        ({"properties": {"a\ud800": TEXT}}, "is no Unicode text"),
        (
            {"allOf": [{"properties": {"a": TEXT}, "additionalProperties": False}, {"properties": {"b": TEXT}}]},
            "forbids 'b'",
        ),
        ({"properties": {"a": {"$ref": "#/$defs/9"}}, "$defs": {
            "0": TEXT,
            **{str(i): {"properties": {n: {"$ref": f"#/$defs/{i - 1}"} for n in "abcdefgh"}} for i in range(1, 10)}
        }}, "more than 2000 fields"),
    ],
)  # fmt: skip
def test_what_is_refused(schema, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        ExtractionSchema.of(schema)
    assert "\n" not in str(caught.value)


def test_patterns_that_no_text_matches_are_found_before_a_run():
    schema = of(a={"type": "string", "pattern": "^a{20}$", "maxLength": 5})
    with pytest.raises(UsageError, match=r"schema, field 'a': the schema cannot be followed: .*"):
        schema.check_grammar()


def test_large_schemas():
    schema = of(**{f"field number {i}": {"type": ["string", "number"]} for i in range(1100)})
    schema.check_grammar()


def test_what_says_nothing_about_values_is_let_pass():
    schema = of(
        a={"type": "string", "format": "password", "default": "x", "examples": ["y"], "x-order": 3, "title": "A"}
    )
    assert kinds(schema) == {"a": "string"}
    loose = ExtractionSchema.of({"properties": {"a": TEXT}, "additionalProperties": True, "$schema": "x", "$id": "y"})
    assert loose.grammar["additionalProperties"] is False
    assert ExtractionSchema.of({"type": ["object", "null"], "properties": {"a": TEXT}}).blank == {"a": None}


@pytest.mark.parametrize(
    ("schema", "fits", "fails"),
    [
        ({"type": "number"}, [0, 1.5, -1e15, None, 0.000001], [1e16, 0.0000001, "x"]),
        ({"type": "integer", "minimum": 3}, [3, 10, None], [2, 3.5]),
        ({"type": "number", "multipleOf": 0.5}, [0.5, 3], [0.3]),
        ({"type": "string"}, ["", "x" * 500, None], ["x" * 501, 1]),
        ({"type": "string", "maxLength": 600}, ["x" * 600], ["x" * 601]),
        ({"type": "string", "format": "date"}, ["2024-02-29", None], ["2025-02-29", "2025-13-01", "x"]),
        ({"type": "array", "items": {"type": "boolean"}}, [[], [True, None], [None] * 200], [None, [None] * 201, [1]]),
        ({"type": ["array", "null"], "items": TEXT, "minItems": 1}, [None, ["a"]], [[]]),
        ({"const": 5}, [5], [None, 6]),
    ],
)  # fmt: skip
def test_what_answers_may_be(schema, fits, fails):
    grammar = of(a=schema).grammar
    for value in fits:
        jsonschema.validate({"a": value}, grammar)
    for value in fails:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"a": value}, grammar)
    for value in ({}, {"a": fits[0], "b": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(value, grammar)


def test_problems_name_the_place():
    schema = of(n={"type": "integer"}, l={"items": {"properties": {"d": {"format": "date"}}}, "maxItems": 2}, t=TEXT)
    value = {"n": 1.5, "l": [{"d": "2026-01-01"}, {"d": "1.1.2026"}], "x": 1}
    assert schema.problems(value) == [
        "the whole: 't' is missing",
        "the whole: 'x' is not in the schema",
        "n: 1.5 is not a whole number",
        "l[1].d: '1.1.2026' is no date as ISO 8601 writes it",
    ]
    assert schema.problems({"n": None, "l": None, "t": None}) == ["l: is no list"]
    assert schema.problems({"n": None, "l": [{"d": None}] * 3, "t": None}) == ["l: has 3 items"]


def test_a_schema_is_read_once():
    source = {"type": "object", "properties": {"a": {"type": "string"}}}
    schema = ExtractionSchema.of(source)
    source["properties"]["a"]["type"] = "number"
    assert kinds(ExtractionSchema.of(schema)) == {"a": "string"}
    assert json.loads(json.dumps(schema.schema)) == {"type": "object", "properties": {"a": {"type": "string"}}}
