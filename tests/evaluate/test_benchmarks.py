"""Published benchmarks from their published layouts: what is asked, what is right, and runs from data to figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from published_layouts import LAYOUTS, docvqa, picture, pictured, write
from support import tiny_model

from rave_mlx.errors import UsageError
from rave_mlx.evaluate import answer_all
from rave_mlx.evaluate.benchmark_score import COLUMNS
from rave_mlx.evaluate.benchmarks import benchmark, benchmark_items, names
from rave_mlx.evaluate.benchmarks.questions import questions_of
from rave_mlx.evaluate.output import as_json, as_tables
from rave_mlx.evaluate.task import find_task

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "benchmark_scores.json").read_text(encoding="utf-8"))
WORD = "\nAnswer the question using a single word or phrase."


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder for every benchmark with ten questions in it."""
    folder = tmp_path_factory.mktemp("data")
    for name, make in LAYOUTS.items():
        (folder / name).mkdir()
        make(folder / name)
    return folder


@pytest.fixture(scope="module")
def lmm():
    return tiny_model()


def items_of(name, data, most=None):
    # With a limit, what needs WordNet is refused where it is asked, not at once.
    return list(benchmark_items(benchmark(name), most or (10 if name == "ocrbench_v2" else None), str(data / name)))


def test_every_benchmark_has_a_layout_here():
    assert set(names()) == set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_ten_samples_from_data_to_figures(name, data, lmm):
    items = items_of(name, data)
    assert len(items) == 10
    assert items[-1].progress == 1.0
    assert {item.longest for item in items} == {benchmark(name).max_tokens}
    results = list(answer_all(lmm, [replace(item, longest=6) for item in items]))
    assert all(result.score is not None and 0 <= result.score <= 1 for result in results)
    chosen = benchmark(name)
    columns = COLUMNS[chosen.extra] if chosen.extra else None
    figures = json.loads(as_json(results, chosen.breakdowns, columns))
    assert 0 <= figures["all"]["interval"][0] <= figures["all"]["score"] <= figures["all"]["interval"][1] <= 1
    assert set(figures["by"]) == {" / ".join(tags) for tags in chosen.breakdowns}
    assert all(groups for groups in figures["by"].values())
    assert f"{chosen.title}: {figures['all']['score']:.3f}" in as_tables(
        results, chosen.breakdowns, f"{chosen.title}:", columns
    ).replace("::", ":")


@pytest.mark.parametrize("name", LAYOUTS)
def test_right_answers_get_full_scores_and_nonsense_none(name, data):
    for item in items_of(name, data):
        assert item.score(item.answers[0]).value == pytest.approx(1.0), item.question
        # An outline of one line is like an outline of two lines, whatever they say.
        if item.tags.get("kind") != "document parsing cn":
            assert item.score("zzz").value == 0.0


@pytest.mark.parametrize(
    ("name", "question", "answers", "tags"),
    [
        ("docvqa", f"What is the number, 1?{WORD}", ("No 1", "1"), {"kind": ("form", "layout")}),
        ("infovqa", f"How many?{WORD}", ("1",), {"kind": "single span", "reasoning": "counting"}),
        ("chartqa", "What is the value?\nAnswer the question with a single word.", ("1",), {"kind": "augmented_test"}),
        ("textvqa", f"What does the sign say?{WORD}", ("stop",), {}),
        ("ocrbench", "what is written?", ("No 1",), {"kind": "Digit String Recognition", "group": "Text Recognition"}),
        ("ocrbench_v2", "Read it as HTML.", ("茶",),
         {"kind": "cognition VQA cn", "language": "Chinese", "ability": "visual text understanding cn"}),
        ("mtvqa", "它's \"was\"?\nAnswer the question using a word or phrase in the language of the question.", ("茶",),
         {"kind": "DE"}),
        ("pope", f"Is there a dog in the image?{WORD}", ("no",), {"kind": "popular"}),
        ("mmstar", "Which?\nOptions: A: one, B: two, C: three, D: four"
         "\nAnswer with the option's letter from the given choices directly", ("B",),
         {"kind": "math", "detail": "statistical reasoning"}),
        ("realworldqa", "How many cars? Please answer directly with a single word or number.", ("A",),
         {"kind": "letter"}),
        ("ai2d", "What eats grass?\nA. a cow\nB. a fox\nC. the sun\nD. none"
         "\nAnswer with the option's letter from the given choices directly.", ("B",), {}),
    ],
)  # fmt: skip
def test_what_is_asked(name, question, answers, tags, data):
    item = items_of(name, data)[1]
    assert (item.question, item.answers, item.tags) == (question, answers, tags)


def test_whole_pages_and_receipts_are_asked_in_the_words_of_their_files(data):
    page = items_of("omnidocbench", data)[1]
    assert page.question.startswith("You are an AI assistant specialized in converting PDF images to Markdown format.")
    assert page.image == data / "omnidocbench/images/page 1.jpg"
    assert page.tags == {"kind": "en", "source": "exam_paper"}
    receipt = items_of("cord", data)[0]
    assert json.loads(receipt.answers[0])["total"] == {"total_price": "2.50"}
    assert '"total_price"' in receipt.question


def test_questions_about_one_page_share_its_picture(data):
    items = items_of("docvqa", data)
    assert items[0].image is items[1].image
    assert items[1].image is not items[2].image
    assert items[2].image == picture(1)


def test_a_limit_asks_the_first_and_says_how_far_it_is(data):
    items = items_of("pope", data, 4)
    assert [item.question for item in items] == [item.question for item in items_of("pope", data)[:4]]
    assert [item.progress for item in items] == [0.25, 0.5, 0.75, 1.0]


def test_files_may_lie_in_one_folder(data, tmp_path):
    file = data / "chartqa/data/test-00000-of-00001-e2cd0b7a0f9eb20d.parquet"
    (tmp_path / file.name).write_bytes(file.read_bytes())
    assert len(list(benchmark_items(benchmark("chartqa"), None, str(tmp_path)))) == 10


def test_a_copy_in_part_is_no_smaller_benchmark_in_silence(tmp_path):
    docvqa(tmp_path, count=2, shards=3)
    (tmp_path / "DocVQA/validation-00001-of-00003.parquet").unlink()
    items = benchmark_items(benchmark("docvqa"), None, str(tmp_path))
    with pytest.raises(
        UsageError, match=r"DocVQA/validation-00001-of-00003\.parquet is missing; fetch it, or ask fewer"
    ):
        list(items)
    assert len(list(benchmark_items(benchmark("docvqa"), 2, str(tmp_path)))) == 2


def refused(name, place, most=None):
    with pytest.raises(UsageError) as found:
        list(benchmark_items(benchmark(name), most, str(place)))
    assert "\n" not in str(found.value)
    return str(found.value)


def test_data_that_are_not_as_published_are_refused_in_a_line(tmp_path, data):
    assert "no such folder; give a copy of lmms-lab-encoder/DocVQA" in refused("docvqa", tmp_path / "none")
    assert "no files DocVQA/validation-*.parquet in it, as DocVQA is published" in refused("docvqa", tmp_path)
    import pyarrow as pa

    columns = {"image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]), "question": pa.string()}
    write(tmp_path / "data/test-00000-of-00001.parquet", columns, [[pictured(0), "?"]])
    assert "no column answer, type, which ChartQA has as published" in refused("chartqa", tmp_path)
    columns |= {"answer": pa.string(), "type": pa.string()}
    write(tmp_path / "data/test-00000-of-00001.parquet", columns, [[{"bytes": None, "path": "x.png"}, "?", "a", "b"]])
    assert "row 1: no picture in column image" in refused("chartqa", tmp_path)
    write(tmp_path / "data/test-00000-of-00001.parquet", columns, [[pictured(0), None, "a", "b"]])
    assert "row 1: is not as ChartQA is published" in refused("chartqa", tmp_path)
    write(tmp_path / "data/test-00000-of-00001.parquet", columns, [])
    assert "no questions in it" in refused("chartqa", tmp_path)
    (tmp_path / "data/test-00000-of-00001.parquet").write_bytes(b"PAR1 no")
    assert "cannot be read as Parquet" in refused("chartqa", tmp_path)
    (tmp_path / "OmniDocBench.json").write_text('[{"layout_dets": []}]')
    assert "page 1: has no page_info with an image_path" in refused("omnidocbench", tmp_path)
    (tmp_path / "OmniDocBench.json").write_text('[{"page_info": {"image_path": "../../secret.jpg"}}]')
    assert "images/secret.jpg is missing" in refused("omnidocbench", tmp_path)


def test_tasks_with_and_without_data(tmp_path):
    with pytest.raises(UsageError, match="give the folder of the data set with --data FOLDER"):
        find_task("funsd")
    with pytest.raises(
        UsageError, match="--data: only for ai2d, chartqa.*, sroie, funsd; leave it out for --task docs"
    ):
        find_task("docs", data=str(tmp_path))
    with pytest.raises(UsageError, match="tasks: docs, .*real:FOLDER, ai2d, chartqa"):
        find_task("doc")
    (tmp_path / "img").mkdir()
    (tmp_path / "key").mkdir()
    (tmp_path / "img/0.jpg").write_bytes(picture(0, "jpeg"))
    (tmp_path / "key/0.json").write_text('{"total": "9.00"}')
    assert [item.question for item in find_task("sroie", data=str(tmp_path)).items] == ["What is the total?"]
    assert list(find_task("funsd", data=str(tmp_path)).items) == []


def test_the_table_of_the_docs_says_what_the_files_say():
    text = (Path(__file__).parents[2] / "docs" / "measuring.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(" `"): line for line in text.splitlines() if line.startswith("| `")}
    for name in names():
        chosen = benchmark(name)
        assert chosen.repo in rows[name]
        assert f"| {chosen.questions:,} |" in rows[name]


@pytest.mark.parametrize("name", GOLDEN["asked"])
def test_questions_are_put_as_the_published_code_puts_them(name):
    wanted, chosen = GOLDEN["asked"][name], benchmark(name)
    (item,) = questions_of(chosen, {**wanted["row"], "image": b""})
    assert item.question == wanted["prompt"]
    # Where the published code sets no limit, ours is one that short answers do not reach.
    assert item.longest == (wanted["max_tokens"] or 64)
    # Of OmniDocBench it asks an older copy.
    assert chosen.repo == ("opendatalab/OmniDocBench" if name == "omnidocbench" else wanted["repo"])
