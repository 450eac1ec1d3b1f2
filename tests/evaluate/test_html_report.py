"""The page of a run: what it says, that it asks for nothing, and the wrong answers that it keeps."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pytest
from command import rave
from PIL import Image
from published_layouts import PICTURE, TEXTS, write

from rave_mlx.errors import PromptError
from rave_mlx.evaluate import Item
from rave_mlx.evaluate.failures import Failures
from rave_mlx.evaluate.html_report import Report, page
from rave_mlx.evaluate.result import Result

PAGE = Image.new("RGB", (1600, 800), "white")


def result(certainty, right, answer="x", **more):
    return Result("What <b>?", ("truth",), answer, {"kind": "a&b"}, right, float(right), 0, 1, 1.0, certainty, **more)


def test_the_surest_wrong_answers_are_kept_in_order():
    failures = Failures(2)
    items = [Item(PAGE, str(n), ("truth",)) for n in range(6)]
    for item, (certainty, right) in zip(
        failures.watch(items),
        [(0.5, False), (0.9, False), (0.99, True), (0.9, False), (0.2, False), (0.1, False)],
        strict=True,
    ):
        assert item.image is PAGE
        failures.add(result(certainty, right))
    assert [(f.number, f.item.question) for f in failures.kept] == [(2, "1"), (4, "3")]
    assert failures.count == 5
    none = Failures(0)
    list(none.watch(items[:1]))
    none.add(result(0.5, False))
    assert (none.kept, none.count) == ([], 1)


def no_map(failure):
    raise PromptError("there is no image to look at")


def made(results, failures, look, **more):
    known = {"title": "T: ANLS", "settings": {"model": "m"}, "breakdowns": (("kind",),), "columns": None, "wrong": 3}
    return page(Report(results=results, failures=failures, **known | more), look)


def test_what_the_page_says_is_escaped_and_asks_for_nothing():
    wrong = result(0.93, False, "</script><img src=x onerror=alert(1)>" + "y" * 700, score=0.0)
    failures = Failures(1)
    list(failures.watch([Item(PAGE, "What <b>?", ("truth",))]))
    failures.add(wrong)
    drawn = Image.new("RGB", (50, 40), "red")
    text = made([wrong, result(0.5, True, score=1.0)], failures.kept, lambda failure: drawn)
    assert "What &lt;b&gt;?" in text
    assert "<img src=x" not in text
    assert '<p class="figure">0.500</p>' in text
    assert "a&amp;b" in text
    assert "737 characters" in text
    assert "No. 1 · certainty 0.93 · score 0.00" in text
    assert re.findall(r'(?:src|href)="([^"]{0,22})', text) == ["data:image/jpeg;base64"] * 2
    assert 'width="1000" height="500"' in text
    assert 'width="50" height="40"' in text
    unseen = made([wrong], failures.kept, no_map)
    assert "No map: there is no image to look at" in unseen
    assert "the 1 of 3 that the model was surest of" in unseen
    assert "<p>None.</p>" in made([result(0.5, True)], [], no_map, wrong=0)


@pytest.fixture(scope="module")
def receipts(tmp_path_factory):
    """An OCRBench of two questions about a receipt that the built-in model can read, the second with a wrong truth."""
    from test_evaluate import RECEIPT

    folder = tmp_path_factory.mktemp("ocrbench")
    image = {"bytes": RECEIPT.read_bytes(), "path": "receipt.png"}
    columns = {
        "dataset": pa.string(), "question": pa.string(), "question_type": pa.string(), "answer": TEXTS,
        "image": PICTURE,
    }  # fmt: skip
    answers = {"Doc-oriented VQA": "13.60", "Digit String Recognition": "99"}
    rows = [["x", "What is the total?", kind, [truth], image] for kind, truth in answers.items()]
    write(folder / "data/test-00000-of-00001.parquet", columns, rows)
    return folder


def test_a_run_of_the_command_with_its_page(receipts, tmp_path):
    arguments = ("evaluate", "--task", "ocrbench", "--data", receipts, "--out", tmp_path / "a.jsonl")
    done = rave(*arguments, "--report", tmp_path / "report.html", "--report-failures", "1")
    assert done.returncode == 0, done.stderr
    assert "OCRBench: accuracy 0.500, 95 % interval" in done.stdout
    assert re.search(r"^Doc-oriented VQA +1\.000 ", done.stdout, re.MULTILINE)
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["score"] for row in rows] == [1.0, 0.0]
    text = (tmp_path / "report.html").read_text()
    assert text.count("<figure>") == 2
    assert "where the model looked" in text
    # A run that goes on from its file shows the same page.
    again = rave(*arguments, "--report", tmp_path / "again.html", "--report-failures", "1", "--json")
    assert "2 answers are there" in again.stderr
    assert json.loads(again.stdout)["all"]["score"] == 0.5
    assert (tmp_path / "again.html").read_text() == text
