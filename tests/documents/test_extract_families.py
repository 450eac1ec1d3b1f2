"""A tiny checkpoint of every family extracts from a document of several pages: rows that follow the schema."""

from __future__ import annotations

import jsonschema
import pytest
from families import aki, cases, write_checkpoint
from support import form

import rave_mlx
from rave_mlx.documents.extraction.plan import Options
from rave_mlx.documents.extraction.schema import ExtractionSchema
from rave_mlx.errors import UsageError

FAMILIES = [*sorted({case.config["model_type"]: name for name, case in reversed(cases().items())}.values()), "aki"]
SCHEMA = {
    "type": "object",
    "properties": {
        "vendor": {"type": "string", "maxLength": 6, "description": "who sends it"},
        "paid": {"type": "boolean"},
        "total": {"type": "number"},
        "items": {
            "type": "array",
            "maxItems": 2,
            "items": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}}},
        },
    },
}
WRITTEN = {
    "type": "object",
    "additionalProperties": False,
    "required": ["vendor", "paid", "total", "items"],
    "properties": {
        "vendor": {"type": ["string", "null"], "maxLength": 6},
        "paid": {"type": ["boolean", "null"]},
        "total": {"type": ["number", "null"]},
        "items": {
            "type": "array",
            "maxItems": 2,
            "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": ["string", "null"]}}},
        },
    },
}
"""The same as results have it: everything is there, and a value that is not found is null."""


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """Two scanned pages in one file."""
    path = tmp_path_factory.mktemp("paper") / "bill.tiff"
    pages = [form(["Acme Ltd", "Total: 13.60"], (160, 96)), form(["Thank you"], (160, 96))]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return path


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_a_row(name, paper, tmp_path):
    folder = aki.write_released(tmp_path / name) if name == "aki" else write_checkpoint(cases()[name], tmp_path / name)
    lmm = rave_mlx.load(folder)
    schema = ExtractionSchema.of(SCHEMA)
    if lmm.config.image is None:
        with pytest.raises(UsageError, match="reads text only; choose a vision-language model"):
            rave_mlx.extract(paper, SCHEMA, lmm)
        return
    (found,) = rave_mlx.extract(paper, SCHEMA, lmm, options=Options(max_tokens=80))
    row = found.as_row()
    assert (row["pages"], row["unit"]) == (2, "pixel")
    assert schema.problems(found.values) == []
    jsonschema.validate(found.values, WRITTEN)
    assert list(row["fields"]) == ["vendor", "paid", "total", "items"]
    # A random model does not stop by itself: what was cut says so, and is a row all the same.
    assert row["error"] is None or "cut at" in row["error"] or "repeated itself" in row["error"]
    for _, value in found.fields.leaves():
        assert 0 <= value.certainty <= 1
        if value.value is not None and value.box is not None:
            left, top, right, bottom = value.box
            assert 0 <= left < right <= 160
            assert 0 <= top < bottom <= 96
            assert value.page in (1, 2)
