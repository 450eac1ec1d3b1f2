"""Fields of answers that are JSON: values, places, certainty; answers that end anywhere."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rave_mlx.documents.extraction.json_fields import read_json, with_tokens
from rave_mlx.documents.extraction.json_text import scan
from rave_mlx.documents.extraction.schema import ExtractionSchema

TEXT = {"type": "string"}
SCHEMA = ExtractionSchema.of({
    "type": "object",
    "properties": {
        "total": {"type": "number"},
        "näme": TEXT,
        "kind": {"const": "bill"},
        "items": {"items": {"properties": {"what": TEXT, "tags": {"items": TEXT, "maxItems": 5}}}},
        "payer": {"type": ["object", "null"], "properties": {"name": TEXT, "ids": {"items": TEXT}}},
        "pair": {"items": {"properties": {"x": {"type": "integer"}}}, "minItems": 2, "maxItems": 2},
        "paid": {"type": "boolean"},
    },
})  # fmt: skip
VALUE = {
    "total": 12.5, "näme": 'Zoë "Q"\n😀', "kind": "bill",
    "items": [{"what": "a", "tags": ["t", ""]}, {"what": None, "tags": []}],
    "payer": {"name": "p", "ids": ["1"]}, "pair": [{"x": 1}, {"x": -20}], "paid": True,
}  # fmt: skip
WHOLE = json.dumps(VALUE, ensure_ascii=False)
BLANK = {
    "total": None, "näme": None, "kind": "bill", "items": [], "payer": None,
    "pair": [{"x": None}, {"x": None}], "paid": None,
}  # fmt: skip


def test_a_whole_answer():
    answer = SCHEMA.complete(WHOLE)
    assert (answer.value, answer.text, answer.whole) == (VALUE, WHOLE, True)
    found = {leaf.path: (leaf.value, WHOLE[slice(*leaf.span)]) for leaf in answer.leaves}
    assert found == {
        ("total",): (12.5, "12.5"), ("näme",): ('Zoë "Q"\n😀', 'Zoë \\"Q\\"\\n😀'), ("kind",): ("bill", "bill"),
        ("items", 0, "what"): ("a", "a"), ("items", 0, "tags", 0): ("t", "t"), ("items", 0, "tags", 1): ("", ""),
        ("items", 1, "what"): (None, "null"), ("payer", "name"): ("p", "p"), ("payer", "ids", 0): ("1", "1"),
        ("pair", 0, "x"): (1, "1"), ("pair", 1, "x"): (-20, "-20"), ("paid",): (True, "true"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("", {}),
        ("{", {}),
        ('{"tot', {}),
        ('{"total": 12', {}),
        ('{"total": 12.', {}),
        ('{"total": 12, ', {"total": 12}),
        ('{"total": -', {}),
        ('{"total": nul', {}),
        ('{"total": 12.5, "näme": "Zo', {"total": 12.5}),
        ('{"total": 12.5, "näme": "Zo\\', {"total": 12.5}),
        ('{"total": 12.5, "näme": "Zo\\u00', {"total": 12.5}),
        ('{"total": 12.5, "näme": "Zo"', {"total": 12.5, "näme": "Zo"}),
        ('{"total": null, "näme": "", "kind": "bill", "items": [', {"näme": ""}),
        ('{"total": null, "näme": "", "kind": "bill", "items": [{"what": "a', {"näme": ""}),
        (
            '{"total": null, "näme": "", "kind": "bill", "items": [{"what": "a"',
            {"näme": "", "items": [{"what": "a", "tags": []}]},
        ),
        (
            '{"total": null, "näme": "", "kind": "bill", "items": [{"what": null, "tags": ["x", "y',
            {"näme": "", "items": [{"what": None, "tags": ["x"]}]},
        ),
        (WHOLE[: WHOLE.index('"name"') + 10], {k: VALUE[k] for k in ("total", "näme", "items")}
            | {"payer": {"name": None, "ids": []}}),
        (WHOLE[: WHOLE.index("-20")], {k: VALUE[k] for k in ("total", "näme", "items", "payer")}
            | {"pair": [{"x": 1}, {"x": None}]}),
        (WHOLE[:-1], {k: VALUE[k] for k in VALUE}),
    ],
)  # fmt: skip
def test_an_answer_that_was_cut(text, changes):
    answer = SCHEMA.complete(text)
    assert answer.value == BLANK | changes
    assert json.loads(answer.text) == answer.value
    assert not answer.whole


def test_cut_anywhere_it_follows_the_schema_and_nothing_is_invented():
    for stop in range(len(WHOLE)):
        answer = SCHEMA.complete(WHOLE[:stop])
        jsonschema.validate(json.loads(answer.text), SCHEMA.grammar)
        assert SCHEMA.problems(answer.value) == []
        whole = {leaf.path: leaf.value for leaf in SCHEMA.complete(WHOLE).leaves}
        for leaf in answer.leaves:
            assert leaf.span is None or (leaf.value == whole[leaf.path] and leaf.span[1] <= stop)
            assert leaf.span is not None or leaf.value is None or leaf.field.constant


def test_null_in_place_of_an_object_is_null_for_its_fields():
    text = WHOLE.replace('{"name": "p", "ids": ["1"]}', "null")
    leaves = {leaf.path: leaf for leaf in SCHEMA.complete(text).leaves}
    assert text[slice(*leaves["payer", "name"].span)] == "null"
    assert ("payer", "ids", 0) not in leaves


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Sure! {", "not JSON from character 0"), ('{"total": 1} thanks', "more text behind"), ('{"total" 1', "colon"),
        ('{"total": 1 "näme"', "comma or }"), ('{"totals": 1, ', "no field 'totals'"),
        ('{"total": {}, ', "not of the kind number"),
        ('{"total": [1], ', "not of the kind number"), ('{"items": "a", ', "not of the kind array"),
        ('{"items": null, ', "not of the kind array"), ('{"total": 01, ', "not JSON"), ('{"total": NaN, ', "not JSON"),
        ('{"näme": "a\nb", ', "control character"), ('{"total": 1}', "lacks properties"), ("[1]", "the answer is not"),
        ("{total: 1}", "a name is missing"),
    ],
)  # fmt: skip
def test_what_no_constraint_wrote(text, reason):
    with pytest.raises(ValueError, match=reason):
        SCHEMA.complete(text)


def plain(piece):
    if isinstance(piece.value, dict):
        return {name: plain(inner) for name, inner in piece.value.items()}
    return [plain(inner) for inner in piece.value] if isinstance(piece.value, list) else piece.value


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values.filter(lambda v: isinstance(v, dict | list | str)), st.sampled_from([None, 2]), st.booleans())
def test_texts_are_read_as_the_json_module_reads_them(value, indent, ascii_only):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    piece = scan(text)
    assert piece.finished
    assert plain(piece) == value == json.loads(text)


def certainties(text: str, tokens: list[str], probabilities: list[float]):
    assert "".join(tokens) == text
    leaves = with_tokens(
        read_json(text, SCHEMA.root), text, [t.encode() for t in tokens], np.array(probabilities, np.float32)
    )
    return {leaf.path: (leaf.tokens, round(leaf.certainty, 3)) for leaf in leaves if leaf.span}


def test_tokens_and_certainty():
    text = '{"total": 12.5, "näme": "Zoë", "kind": "bill", "items": [{"what": "", "tags": [null'
    tokens = [
        '{"',
        "total",
        '":',
        " ",
        "1",
        "2.",
        '5, "',
        "näme",
        '": "Z',
        "oë",
        '", "kind": "',
        "bi",
        'll"',
        ', "items": [{"what": ',
    ]
    tokens += ['""', ', "tags"', ": [", "null"]
    probabilities = [0.01, 0.02, 0.03, 0.04, 0.9, 0.6, 0.7, 0.05, 0.8, 0.95, 0.06, 0.1, 0.2, 0.07, 0.5, 0.08, 0.09, 0.4]
    assert certainties(text, tokens, probabilities) == {
        ("total",): ((4, 7), 0.6), ("näme",): ((8, 10), 0.8), ("kind",): ((11, 13), 1.0),
        ("items", 0, "what"): ((14, 15), 0.5),
        ("items", 0, "tags", 0): ((17, 18), 0.4),
    }  # fmt: skip


def test_characters_that_are_cut_between_tokens():
    text = '{"total": null, "näme": "é😀", '
    tokens = [bytes([b]) for b in text.encode()]
    probabilities = np.linspace(0.1, 0.9, len(tokens)).astype(np.float32)
    leaves = {leaf.path: leaf for leaf in with_tokens(read_json(text, SCHEMA.root), text, tokens, probabilities)}
    first, last = leaves["näme",].tokens
    assert b"".join(tokens[first:last]).decode() == "é😀"
    assert leaves["näme",].certainty == probabilities[first]
    assert (leaves["paid",].tokens, leaves["paid",].certainty, leaves["kind",].certainty) == (None, 0.0, 1.0)
