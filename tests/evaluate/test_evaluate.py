"""Evaluation: figures by hand, tasks that are what they say, the command line."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from command import rave
from PIL import Image

import rave_mlx
from rave_mlx.errors import UsageError
from rave_mlx.evaluate import Item, anls, answer_all, character_errors, exact, summarize
from rave_mlx.evaluate.report import by_tags, table
from rave_mlx.evaluate.runner import Result
from rave_mlx.evaluate.tasks import open_task
from rave_mlx.evaluate.tasks.generated_documents import SHUFFLED, SPLITS, docs, is_unseen
from rave_mlx.synthetic import PageConfig, Question
from rave_mlx.synthetic.pages import draw_page

RECEIPT = Path(__file__).parents[2] / "examples" / "documents" / "receipt.png"


@pytest.mark.parametrize(
    ("answer", "truths", "right", "similarity", "errors"),
    [
        ("13.60", ("13.60",), True, 1.0, (0, 5)),
        (" 13.60\n", ("13.60",), True, 1.0, (0, 5)),
        ("13.50", ("13.60",), False, 0.8, (1, 5)),
        ("TOTAL", ("total",), False, 1.0, (5, 5)),
        ("abc", ("xyz",), False, 0.0, (3, 3)),
        ("kitten", ("sitting",), False, 1 - 3 / 7, (3, 7)),
        ("ab", ("abcd",), False, 0.0, (2, 4)),
        ("", ("a",), False, 0.0, (1, 1)),
        ("blue", ("azure", "blue"), True, 1.0, (0, 4)),
        ("1,250 EUR", ("1250 EUR",), False, 1 - 1 / 9, (1, 8)),
    ],
)
def test_figures_of_one_answer(answer, truths, right, similarity, errors):
    assert exact(answer, truths) is right
    assert anls(answer, truths) == pytest.approx(similarity)
    assert character_errors(answer, truths) == errors


def result(right, errors=0, length=10, seconds=1.0, certainty=0.5, **tags):
    return Result("?", ("x",), "x", tags, right, float(right), errors, length, seconds, certainty)


def test_figures_of_many_answers():
    found = summarize([result(True), result(True), result(False, 5, 20, 3.0), result(False, 1, 10, 2.0)])
    assert (found.count, found.exact, found.anls) == (4, 0.5, 0.5)
    assert found.error == pytest.approx(0.25)
    assert found.cer == pytest.approx(6 / 50)
    assert found.seconds == 1.75
    assert (found.sure, found.sure_exact) == (0.0, None)


def test_figures_of_sure_answers():
    found = summarize([result(True, certainty=0.9), result(False, certainty=0.95), result(True), result(False)])
    assert (found.sure, found.sure_exact) == (0.5, 0.5)
    assert "0.500 of 50%" in table([result(True, certainty=1.0, kind="a"), result(False, certainty=0.99, kind="a"),
                                    result(True, kind="a"), result(True, kind="a")], ["kind"])  # fmt: skip


def test_breakdown_by_tags():
    results = [result(True, kind="a", font="x"), result(False, kind="a", font="y"), result(True, kind="b")]
    assert {k: f.exact for k, f in by_tags(results, ["kind"]).items()} == {("a",): 0.5, ("b",): 1.0}
    assert set(by_tags(results, ["kind", "font"])) == {("a", "x"), ("a", "y")}


def test_generated_documents_hold_out_what_they_say_and_are_the_same_every_time():
    first, again = list(docs(2)), list(docs(2))
    assert [(i.question, i.answers, i.tags) for i in first] == [(i.question, i.answers, i.tags) for i in again]
    assert {i.tags["split"] for i in first} == {*SPLITS, SHUFFLED}
    assert all(set(i.tags) == {"split", "kind", "layout", "font"} for i in first)


def test_one_split_alone_is_the_same_and_more_pages_add_to_fewer():
    def asked(items):
        return [(i.question, i.answers, i.tags) for i in items]

    alone, _ = open_task("docs:all", 3)
    found = asked(alone)
    assert found == asked(i for i in docs(3) if i.tags["split"] == "all")
    assert asked(docs(2, "all")) == found[: len(asked(docs(2, "all")))] != found
    with pytest.raises(UsageError, match="docs:al: no such split; splits: values, values\\+fonts"):
        open_task("docs:al", 3)


def test_the_control_asks_the_questions_of_another_page():
    items = [i for i in docs(3) if i.tags["split"] in ("values", SHUFFLED)]
    asked = {i.question: i.image for i in items if i.tags["split"] == "values"}
    control = [i for i in items if i.tags["split"] == SHUFFLED]
    assert control
    assert all(i.question in asked and i.image is not asked[i.question] for i in control)


def test_what_is_asked_for_is_on_no_training_page():
    """Answers of the held-out pages against those of training pages: none is there."""
    asked = {"value": set(), "cell": set(), "title": set()}
    for item in docs(150, "all"):
        if item.tags["kind"] in asked:
            asked[item.tags["kind"]].add(item.answers[0])
    assert all(len(answers) > 20 for answers in asked.values()), {k: len(v) for k, v in asked.items()}
    known = set()
    for seed in range(1000):
        page, _ = draw_page(Random(seed), PageConfig(width=320, height=300))  # what `make` puts on paper
        known |= {field.value for field in page.fields} | {cell.value for cell in page.cells} | {page.title}
    assert known & asked["value"] == set()
    assert known & asked["cell"] == set()
    assert known & asked["title"] == set()


@pytest.mark.parametrize(
    ("kind", "answer", "unseen"),
    [
        ("quantity", "17", False),
        ("title", "INVOICE", False),
        ("title", "Delivery Note", False),
        ("title", "Zorvika Trading", True),
        ("field", "Red", False),
        ("field", "12", False),
        ("field", "45.0%", False),
        ("line", "INVOICE", True),
    ],
)
def test_answers_from_lists_of_the_training_are_told_apart(kind, answer, unseen):
    assert is_unseen(Question(kind, "?", answer)) is unseen


def test_the_built_in_model_answers_items():
    items = [
        Item(RECEIPT, "What is the total?", ("13.60",), {"kind": "value"}),
        Item(RECEIPT, "What is the total?", ("13,60", "13.60"), {"kind": "value"}),
        Item(Image.new("RGB", (200, 100), "white"), "What is the total?", ("13.60",), {"kind": "blank"}),
    ]
    first, second, blank = answer_all(rave_mlx.load(), items)
    assert (first.answer, first.exact, second.exact, blank.exact) == ("13.60", True, True, False)
    assert first.seconds > 0


def write(folder, *rows):
    file = folder / "questions.jsonl"
    file.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return str(file)


GOOD = {"image": str(RECEIPT), "question": "What is the total?", "answer": "13.60"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2: not JSON"),
        ([1], "line 2: expected an object"),
        (GOOD | {"image": "none.png"}, "line 2: no image none.png"),
        (GOOD | {"question": ""}, "line 2: question is missing"),
        (GOOD | {"answer": ""}, "line 2: answer should be text"),
        (GOOD | {"answer": []}, "line 2: answer should be text"),
        (GOOD | {"max_tokens": 0}, "line 2: max_tokens"),
    ],
)
def test_malformed_questions_are_named_with_file_and_line(tmp_path, row, message):
    with pytest.raises(UsageError, match=message):
        list(open_task(write(tmp_path, GOOD, row), 1)[0])


def test_tasks_that_do_not_exist(tmp_path):
    with pytest.raises(UsageError, match="no such task or file; tasks: docs, browser, large"):
        open_task("dogs", 1)
    with pytest.raises(UsageError, match="no questions in it"):
        list(open_task(write(tmp_path, ""), 1)[0])


def test_the_command_line_on_a_file_of_ones_own(tmp_path):
    task = write(tmp_path, GOOD, GOOD | {"answers": ["13,60", "13.60"], "kind": "total"}, GOOD | {"answer": "14"})
    done = rave("evaluate", "--task", task, "--json", "--out", tmp_path / "answers.jsonl")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["all"]
    assert figures["count"] == 3
    assert figures["exact"] == pytest.approx(2 / 3)
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [a["answer"] for a in answers] == ["13.60"] * 3
    assert answers[1]["tags"] == {"kind": "total"}
    assert all(0.5 < a["certainty"] <= 1 for a in answers)


def test_the_command_line_on_generated_documents():
    done = rave("evaluate", "--task", "docs", "--pages", 2, "--attention", "none", "--image-tokens", 100)
    assert done.returncode == 0, done.stderr
    assert "values, another page / value" in done.stdout
    assert "all: exact" in done.stdout


def test_large_pages_are_larger_than_the_built_in_model_sees():
    from rave_mlx.evaluate.tasks.large_pages import large

    items = list(large(5))
    assert {item.tags["split"] for item in items} == {"block", "close", "page"}
    assert {item.tags["kind"] for item in items} == {"value", "cell", "title"}
    sizes = {split: [i.image.size for i in items if i.tags["split"] == split] for split in ("block", "close", "page")}
    assert set(sizes["block"]) == {(1600, 2200)}
    assert all(w * h > 512 * 512 for found in sizes.values() for w, h in found)
    # The block on the page is the one that is enlarged: the same questions.
    asked = [{i.question for i in items if i.tags["split"] == split} for split in ("block", "close")]
    assert asked[0] == asked[1]


def test_headings_of_a_pdf_come_from_its_text_layer(tmp_path):
    pytest.importorskip("pypdfium2")
    from rave_mlx.evaluate.tasks.pdf_headings import headings

    items = list(headings(_pdf(tmp_path / "manual.pdf"), 5))
    assert [i.answers for i in items] == [("2.1 Opening the box",), ("2.2 Closing it again",)]
    assert all(i.image.width == 400 and i.image.height <= 280 for i in items)
    assert all(i.tags == {"split": "manual", "kind": "title"} for i in items)


def _pdf(path):
    """Two pages with a heading of 16 points over text of 10 points, and one without heading."""
    pages = [
        [("2.1 Opening the box", 16, 700), ("Take a knife and cut the tape along the edge.", 10, 670)],
        [("2.2 Closing it again", 16, 700), ("Fold the flaps, small ones first, and press.", 10, 670)],
        [("Nothing but plain text stands on this page, twice.", 10, 700), ("And here once more, to the end.", 10, 680)],
    ]
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    for lines in pages:
        text = "".join(f"BT /F1 {size} Tf 72 {y} Td ({line}) Tj ET\n" for line, size, y in lines)
        objects.append(f"<< /Length {len(text)} >>\nstream\n{text}endstream")
        font = "<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
        box = f"/Parent 2 0 R /MediaBox [0 0 612 792] /Resources {font}"
        objects.append(f"<< /Type /Page {box} /Contents {len(objects)} 0 R >>")
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    out, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    start = len(out)
    out += (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer << /Size {len(objects) + 1} /Root 1 0 R >>\n"
    )
    path.write_bytes((out + f"startxref\n{start}\n%%EOF\n").encode("latin-1"))
    return path
