"""Reading whole documents: every family, loops, lines of the built-in model, what Python gets."""

from __future__ import annotations

import json
from itertools import pairwise

import mlx.core as mx
import pytest
from families import cases, write_checkpoint
from PIL import Image
from support import form, tiny_model

import rave_mlx
from rave_mlx.config import ImageConfig
from rave_mlx.documents.pages import open_document
from rave_mlx.documents.sources import find_documents
from rave_mlx.documents.transcription.answer_formats import Shown, read_answer
from rave_mlx.documents.transcription.page_reader import PageReader
from rave_mlx.errors import PromptError, UsageError
from rave_mlx.inputs.images.tiling import least_tokens

WITH_IMAGES = {name: case for name, case in cases().items() if case.processor}
LINES = ["Invoice 2291", "Date: 3 May 2024", "Total: 13.60"]


@pytest.fixture(scope="module")
def two_pages(tmp_path_factory):
    """A PDF with two pages of pictures, the second of which is empty."""
    file = tmp_path_factory.mktemp("documents") / "two.pdf"
    form(LINES).save(file, "PDF", save_all=True, append_images=[Image.new("RGB", (256, 128), "white")])
    return file


@pytest.fixture(scope="module")
def built_in():
    return rave_mlx.load()


@pytest.mark.parametrize("name", sorted(WITH_IMAGES))
def test_every_family_reads_two_pages(name, tmp_path, two_pages):
    lmm = rave_mlx.load(write_checkpoint(WITH_IMAGES[name], tmp_path / name))
    image = lmm.config.image
    least = 0 if isinstance(image, ImageConfig) else least_tokens(image)
    (found,) = rave_mlx.read(two_pages, lmm, max_tokens=8, image_tokens=max(64, least))
    assert [page.page for page in found.pages] == [1, 2]
    assert all(page.ending in ("stop", "length") for page in found.pages)
    row = json.loads(found.as_json())
    assert row["file"] == str(two_pages)
    assert len(row["sha256"]) == 64
    assert {"page", "text", "markdown", "blocks", "certainty", "ending", "error"} <= set(row["pages"][0])
    assert all(page["certainty"] is None or 0 < page["certainty"] <= 1 for page in row["pages"])


def test_built_in_model_reads_lines(two_pages, built_in):
    (found,) = rave_mlx.read(two_pages, built_in)
    first, second = found.pages
    assert first.text.splitlines() == LINES
    assert (second.text, second.blocks, second.ending, second.error) == ("", (), "stop", None)
    assert found.error is None
    assert found.text == "\n".join(LINES) + "\f"
    assert found.markdown.startswith("<!-- page 1 -->\n\nInvoice 2291")
    assert found.markdown.endswith("<!-- page 2 -->")
    for number, block in enumerate(first.blocks):
        # `form` writes lines of 14 pixels 24 apart, from (10, 8).
        left, top, right, bottom = (side * (256, 128)[i % 2] for i, side in enumerate(block.box))
        assert abs(left - 10) < 4
        assert 8 + 24 * number - 2 < top < bottom < 8 + 24 * number + 20
        assert right > 80
        assert block.certainty > 0.8


def test_row_has_boxes_in_points(two_pages, built_in):
    (found,) = rave_mlx.read(two_pages, built_in, pages="1")
    (page,) = found.as_row()["pages"]
    assert (page["width"], page["height"], page["unit"]) == (256, 128, "point")
    assert page["blocks"][0]["box"][0] == pytest.approx(10, abs=4)
    assert [block["text"] for block in page["blocks"]] == LINES


def test_pictures_and_several_documents(built_in, tmp_path):
    picture = form(["Coffee 2.40"])
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.7\nnothing")
    found = list(rave_mlx.read([picture, broken, tmp_path / "missing.png", form(["Tea 1.10"])], built_in))
    assert [document.text for document in found] == ["Coffee 2.40", "", "", "Tea 1.10"]
    assert found[0].pages[0].size == (256, 128)
    assert "damaged" in found[1].error
    assert "no such file" in found[2].error
    assert [document.error is None for document in found] == [True, False, False, True]


def test_pages_that_are_not_there(two_pages, built_in):
    (found,) = rave_mlx.read(two_pages, built_in, pages="1,9")
    assert [page.page for page in found.pages] == [1]
    assert "page 9" in found.error


def test_answers_do_not_depend_on_the_batch_or_on_drafts(two_pages, tmp_path):
    lmm = rave_mlx.load(write_checkpoint(WITH_IMAGES["qwen2_5_vl"], tmp_path / "model"))
    runs = [
        [page.text for page in next(rave_mlx.read(two_pages, lmm, max_tokens=12, image_tokens=64, **options)).pages]
        for options in ({"batch_size": 1, "drafts": False}, {"batch_size": 4, "drafts": False}, {"batch_size": 4})
    ]
    assert runs[0] == runs[1] == runs[2]


def test_wrong_options(two_pages, built_in):
    with pytest.raises(UsageError, match="batch_size is 0"):
        rave_mlx.read(two_pages, built_in, batch_size=0)
    with pytest.raises(UsageError, match="open one with rave_mlx.load"):
        rave_mlx.read(two_pages, "model")
    with pytest.raises(UsageError, match="exchange the two pages"):
        rave_mlx.read(two_pages, built_in, pages="3-1")


def test_a_model_that_reads_text_only(two_pages, tmp_path):
    name = next(name for name, case in sorted(cases().items()) if not case.processor)
    lmm = rave_mlx.load(write_checkpoint(cases()[name], tmp_path / name))
    with pytest.raises(PromptError, match="reads text only"):
        rave_mlx.read(two_pages, lmm)


def looping_model(seed):
    """A model whose every token depends on the one before alone, so that its answers run in a circle."""
    lmm = tiny_model(seed=seed, num_layers=1)
    layer = lmm.decoder.layers[0]
    layer.attention.o_proj.weight = mx.zeros_like(layer.attention.o_proj.weight)
    layer.mlp.down_proj.weight = mx.zeros_like(layer.mlp.down_proj.weight)
    return lmm


def read_page(lmm, **options):
    (found,) = rave_mlx.read(form(LINES), lmm, image_tokens=16, **options)
    return found, found.pages[0]


def test_a_loop_that_a_penalty_ends():
    found, page = read_page(looping_model(5), max_tokens=900)
    assert (page.ending, page.retried, page.error, found.error) == ("stop", 1, None, None)


def test_a_loop_that_nothing_ends_is_said():
    found, page = read_page(looping_model(0), max_tokens=600)
    assert (page.ending, page.retried) == ("repetition", 2)
    assert page.error == "the answer repeats itself and is cut"
    assert found.error == "page 1: the answer repeats itself and is cut"
    assert len(page.text) < 20


def test_no_loop_without_room_for_one():
    found, page = read_page(looping_model(0), max_tokens=20)
    assert (page.ending, page.retried) == ("length", 0)
    assert found.error == "page 1: the answer is cut at the limit of its length; raise --max-tokens"


def test_strips_cover_the_page_between_its_lines(tmp_path):
    lines = [f"Line number {number}" for number in range(1, 21)]
    form(lines, (256, 520)).save(tmp_path / "page.png")
    asker = PageReader(tiny_model()).asker
    with open_document(find_documents(tmp_path / "page.png").documents[0]) as document:
        strips = asker.strips(document.pages[0])
        parts = [question.part for question in strips.questions]
        assert len(parts) == 3
        assert (parts[0][1], parts[-1][3]) == (0, 1)
        assert all(before[3] == after[1] for before, after in pairwise(parts))
        for part in parts[1:]:
            # Lines stand 24 pixels apart from 8 on, 14 high: a cut is in the white between.
            assert (part[1] * 520 - 8) % 24 > 12
        heights = [question.picture.height for question in strips.questions]
        assert sum(heights) == 520


def test_boxes_of_a_strip_lie_on_the_page():
    shown = Shown((100, 50), (0.0, 0.5, 1.0, 1.0))
    (block,) = read_answer('<p data-bbox="10 10 90 20">x</p>', "html", "read_pixels", shown)
    assert block.box == pytest.approx((0.1, 0.6, 0.9, 0.7))
