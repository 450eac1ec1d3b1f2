"""Markdown with places as DeepSeek-OCR writes it, whole and cut; and how it is asked for."""

from __future__ import annotations

import json

import pytest
from families import cases, write_checkpoint
from support import picture

import rave_mlx
from rave_mlx.documents.pages import open_document
from rave_mlx.documents.sources import find_documents
from rave_mlx.documents.transcription.answer_formats import read_answer
from rave_mlx.documents.transcription.grounded import read_grounded
from rave_mlx.documents.transcription.page_questions import Asker, ReadOptions
from rave_mlx.documents.transcription.prompt_file import page_prompts

PAGE = """<|ref|>title<|/ref|><|det|>[[100, 50, 899, 90]]<|/det|>
# A report

<|ref|>text<|/ref|><|det|>[[100, 100, 899, 200], [100, 210, 450, 300]]<|/det|>
First words
and more.

<|ref|>sub_title<|/ref|><|det|>[[100, 310, 400, 330]]<|/det|>
## Numbers

<|ref|>table<|/ref|><|det|>[[100, 340, 899, 500]]<|/det|>
<table><tr><td>a</td><td>b</td></tr></table>

<|ref|>table_caption<|/ref|><|det|>[[100, 505, 899, 520]]<|/det|>
<center>Table 1: numbers</center>

<|ref|>image<|/ref|><|det|>[[100, 530, 899, 700]]<|/det|>

<|ref|>equation<|/ref|><|det|>[[100, 710, 899, 740]]<|/det|>
\\[ x^2 \\]

<|ref|>text<|/ref|><|det|>[[100, 750, 899, 900]]<|/det|>
- one
- two

<|ref|>footer<|/ref|><|det|>[[480, 960, 520, 980]]<|/det|>
7
"""


def test_a_page():
    blocks = read_grounded(PAGE)
    assert [(b.kind, b.level, b.text) for b in blocks] == [
        ("heading", 1, "A report"), ("paragraph", 0, "First words\nand more."), ("heading", 2, "Numbers"),
        ("table", 0, "a\tb"), ("caption", 0, "Table 1: numbers"), ("picture", 0, ""), ("formula", 0, "x^2"),
        ("list item", 0, "one"), ("list item", 0, "two"), ("page footer", 0, "7"),
    ]  # fmt: skip
    assert blocks[4].markdown == "Table 1: numbers"
    assert blocks[1].box == (100, 100, 899, 300)  # around both
    assert blocks[7].box == blocks[8].box == (100, 750, 899, 900)
    for block in blocks:
        assert block.text.split("\n")[0].split("\t")[0] in PAGE[slice(*block.span)]
    placed = read_answer(PAGE, "grounded", "999ths")
    assert placed[5].box == pytest.approx((100 / 999, 530 / 999, 899 / 999, 700 / 999))


def test_what_has_no_mark_is_markdown():
    blocks = read_grounded("# Only\n\nwords <|/det|>\n\n<|ref|>text<|/ref|><|det|>nowhere<|/det|>\nMore")
    assert [(b.kind, b.text, b.box) for b in blocks] == [
        ("heading", "Only", None), ("paragraph", "words", None), ("paragraph", "More", None)
    ]  # fmt: skip


@pytest.mark.parametrize("stop", range(0, len(PAGE), 5))
def test_an_answer_that_was_cut_is_read_as_far_as_it_goes(stop):
    for block in read_grounded(PAGE[:stop]):
        assert 0 <= block.span[0] <= block.span[1] <= stop
        assert "<|" not in block.text and "[[" not in block.text


def test_the_question_has_its_control_token(tmp_path):
    """In the package's own words a control token counts; in those of a user it is text."""
    folder = write_checkpoint(cases()["deepseek_ocr2"], tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    added = tokenizer["added_tokens"]
    added.append(added[-1] | {"id": 273, "content": "<|grounding|>"})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    lmm = rave_mlx.load(folder)
    prompt = page_prompts()["deepseek_ocr2"]
    text = prompt.page.text
    own = lmm.tokenizer.encode_own(text)
    assert own[0] == 273 and lmm.tokenizer.decode(own[1:]) == text.removeprefix("<|grounding|>")
    assert lmm.tokenizer.encode_own("no control token") is None
    assert 273 not in lmm.prepare([{"role": "user", "content": text}]).ids[0]
    picture(60, 40).save(tmp_path / "page.png")
    (source,) = find_documents([tmp_path / "page.png"]).documents
    with open_document(source) as document:
        asker = Asker(lmm, prompt, ReadOptions())
        (job,) = asker.jobs(asker.page(document.pages[0]))
        ids = job.prompt.ids[0].tolist()
    last = max(i for i, token in enumerate(ids) if token == 272)
    assert 273 in ids[last:] and lmm.tokenizer.decode(ids[ids.index(273) :]).startswith("Convert the document")
