"""Question files as other programs write them: read as they are meant, or refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support import picture, tiny_model, write_image

from rave_mlx.api import generate
from rave_mlx.errors import UsageError
from rave_mlx.evaluate import answer_all
from rave_mlx.evaluate.tasks.question_files import read_lines

ROW = {"image": "page.png", "question": "Wie groß?\u2028", "answer": "13.60"}


@pytest.fixture
def file(tmp_path):
    write_image(picture(30, 20), tmp_path / "page.png")
    write_image(picture(20, 30), tmp_path / "other.png")
    return tmp_path / "questions.jsonl"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings(file, encoding):
    file.write_bytes((json.dumps(ROW, ensure_ascii=False) + "\r\n").encode(encoding))
    (item,) = read_lines(file)
    assert (item.question, item.answers, item.image) == (ROW["question"], ("13.60",), file.parent / "page.png")


@pytest.mark.parametrize(
    "row",
    [
        {"file_name": "page.png", "query": "Total?", "answers": ["13.60", "$13.60"]},
        {"images": ["page.png"], "prompt": "Total?", "label": "13.60"},
        {"img": "page.png", "question": "<image>\nTotal?", "ground_truth": "13.60"},
        {"Image Path": "page.png", "Question": "Total?", "Answer": "13.60"},
    ],
)
def test_columns(file, row):
    file.write_text(json.dumps(row))
    (item,) = read_lines(file)
    assert (item.image, item.question, item.answers[0]) == (file.parent / "page.png", "Total?", "13.60")


@pytest.mark.parametrize("places", ["", "<image><image>", "<image>\n<image>\n"])
def test_several_images_are_asked_about_together(file, places):
    file.write_text(json.dumps({"images": ["page.png", "other.png"], "question": f"{places}Which?", "answer": "1"}))
    (item,) = read_lines(file)
    assert (item.image, item.more, item.question) == (file.parent / "page.png", (file.parent / "other.png",), "Which?")
    lmm = tiny_model()
    together, alone = answer_all(lmm, [replace(item, longest=6), replace(item, longest=6, more=())])
    assert together.certainty != alone.certainty
    content = [{"type": "image", "image": image} for image in (item.image, *item.more)]
    content.append({"type": "text", "text": "Which?"})
    assert together.answer == generate(lmm, [{"role": "user", "content": content}], max_tokens=6)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "page.png", "second_page": "other.png"}, "the column second_page holds an image that is not read"),
        ({"scan": "page.png"}, "image is missing; there are question, answer, scan"),
        (
            {"images": ["page.png", "other.png"], "question": "<image> or <image>?"},
            "question: 2 images go before the question; write <image> for each of them there",
        ),
        ({"image": "page.png", "file_name": "other.png"}, "both image and file_name are there"),
        ({"image": "page.png", "question": "Total? <image>"}, "question: the image goes before the question"),
        (
            {"image": "page.png", "question": "<|image|> Total?"},
            r"question: <\|image\|> looks like a place for an image",
        ),
        ({"image": "page.png", "query": "Sum?"}, "both question and query are there"),
        ({"image": "page.png", "choices": ["1", "2"]}, "nothing is read from the column choices"),
    ],
)
def test_rows_that_would_be_asked_otherwise_than_they_are_meant(file, row, message):
    file.write_text(f"{json.dumps(ROW)}\n\n{json.dumps({'question': 'Total?', 'answer': '13.60', **row})}\n")
    with pytest.raises(UsageError, match=f"questions.jsonl, line 3: {message}"):
        list(read_lines(file))


def test_what_is_no_unicode_is_named_with_its_line(file):
    file.write_bytes(b"\n" + json.dumps(ROW, ensure_ascii=False).replace("\u2028", "").encode("latin-1"))
    with pytest.raises(UsageError, match=r"questions.jsonl, line 2: not UTF-8 \(byte 0xdf\); it looks like Latin-1"):
        list(read_lines(file))
