"""Rows of a data set as questions with their right answers and scores."""

from __future__ import annotations

import ast
import json
import string
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from rave_mlx.evaluate.benchmarks.spec import Benchmark
from rave_mlx.evaluate.item import Item
from rave_mlx.evaluate.scores import CHECKS, SCORES
from rave_mlx.evaluate.scores.choice import option_letter
from rave_mlx.evaluate.scores.markdown_elements import true_elements
from rave_mlx.evaluate.scores.ocrbench_v2 import truths
from rave_mlx.evaluate.scores.pages import language
from rave_mlx.evaluate.scores.text import texts

Row = Mapping[str, Any]


def questions_of(benchmark: Benchmark, row: Row) -> Iterator[Item]:
    """The questions of a row of a benchmark's data set.

    Args:
        benchmark: the benchmark.
        row: its columns; "image" is a picture in a form that models take.

    Raises:
        ValueError, TypeError, KeyError, IndexError: for a row that is not as published.
    """
    return ROWS[benchmark.rows](benchmark, row)


def _item(benchmark: Benchmark, row: Row, question: str, answers: tuple[str, ...], tags: Any = None) -> Item:
    kept = {name: value for name, value in row.items() if name != "image"}
    if benchmark.score in CHECKS:
        CHECKS[benchmark.score](kept)
    return Item(
        row["image"],
        question,
        answers,
        benchmark.tags_of(row) if tags is None else tags,
        benchmark.max_tokens,
        score=partial(_score, benchmark.score, kept),
    )


def _score(name: str, row: Row, answer: str) -> Any:
    return SCORES[name](answer, row)


def _question(benchmark: Benchmark, row: Row) -> Iterator[Item]:
    """A question and one or several right answers."""
    columns = benchmark.columns
    answers = tuple(dict.fromkeys(texts(row[columns["answers"]])))
    yield _item(benchmark, row, benchmark.prompt.put(row[columns["question"]]) + benchmark.prompt.after, answers)


def _typed(benchmark: Benchmark, row: Row) -> Iterator[Item]:
    """A question of a kind that says what its right answers are: texts, a box, words with their boxes."""
    question = benchmark.prompt.put(row[benchmark.columns["question"]]) + benchmark.prompt.after
    yield _item(benchmark, row, question, truths(row))


def _options(benchmark: Benchmark, row: Row) -> Iterator[Item]:
    """A question with options, each under a letter; the right answer is a letter."""
    listed = zip(string.ascii_uppercase, row[benchmark.columns["options"]], strict=False)
    options = "\n".join(f"{letter}. {option}" for letter, option in listed)
    question = benchmark.prompt.put(row[benchmark.columns["question"]])
    yield _item(benchmark, row, f"{question}\n{options}{benchmark.prompt.after}", (option_letter(row),))


def _pairs(benchmark: Benchmark, row: Row) -> Iterator[Item]:
    """Several questions about one picture, as Python writes a list of them."""
    written = row[benchmark.columns["pairs"]]
    for pair in ast.literal_eval(written) if isinstance(written, str) else written:
        question, answer = str(pair["question"]).strip(), str(pair["answer"]).strip()
        if question and answer:
            asked = benchmark.prompt.put(question) + benchmark.prompt.after
            yield _item(benchmark, {**row, "answer": answer}, asked, (answer,))


def _page(benchmark: Benchmark, row: Row) -> Iterator[Item]:
    """A page that is to be transcribed."""
    page = row["page"]
    found = true_elements(page)
    attributes = (page.get("page_info") or {}).get("page_attribute") or {}
    tags = {"kind": language(page), "source": str(attributes.get("data_source", "-"))}
    truth = "\n\n".join((*found["text"], *found["table"], *found["formula"]))
    yield _item(benchmark, row, benchmark.prompt.text, (truth,), tags)


def _receipt(benchmark: Benchmark, row: Row) -> Iterator[Item]:
    """A receipt whose fields are to be read."""
    truth = json.loads(row[benchmark.columns["truth"]])["gt_parse"]
    yield _item(benchmark, row, benchmark.prompt.text, (json.dumps(truth, ensure_ascii=False),))


ROWS: dict[str, Callable[[Benchmark, Row], Iterator[Item]]] = {
    "question": _question,
    "typed": _typed,
    "options": _options,
    "pairs": _pairs,
    "page": _page,
    "receipt": _receipt,
}
"""How a row becomes questions, by the name that a benchmark's file gives."""
