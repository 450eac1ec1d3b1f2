"""OCRBench v2 (Fu et al. 2024): a measure for each of its thirty kinds of question, as in lmms-eval."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping

from rave_mlx.evaluate.item import Score
from rave_mlx.evaluate.metrics import edit_distance
from rave_mlx.evaluate.scores.objects import chart_score, fields_score, read_fields, read_truth
from rave_mlx.evaluate.scores.page_text import check_packages, text_similarity
from rave_mlx.evaluate.scores.spotting import around, last_box, overlap, spotting_score, words_in
from rave_mlx.evaluate.scores.tables import check_tables, outline_similarity, teds, whole_html
from rave_mlx.evaluate.scores.text import Row, texts

_LEAST_SIMILARITY = 0.5
_SHORT, _SHORT_CHINESE = 5, 4
"""Words, or parts between commas, from which an answer is compared by edit distance."""
_TEXT_TAG = re.compile(r"\\text\{([^{}]*)\}")
_JOINS = ("", ".", ". ", ",", ", ", "、", ";", "; ", " ", "和")
_FENCE_LETTERS = "`markdown"


def ocrbench_v2(answer: str, row: Row) -> Score:
    """The score of an answer by the measure of its kind."""
    return Score(float(MEASURES[row["type"]](answer, row)))


def truths(row: Row) -> tuple[str, ...]:
    """What people see as the right answers of a row.

    Raises:
        KeyError: for a kind of question that is not known.
    """
    measure, answers = MEASURES[row["type"]], texts(row["answers"])
    if measure is _spotting:
        words = zip(row["bbox_list"], row["content"], strict=False)
        return (str([[*around(polygon), text] for polygon, text in words]),)
    return (f"[{', '.join(answers)}]",) if measure is _grounding else tuple(dict.fromkeys(answers))


def _question(answer: str, row: Row) -> float:
    """An answer in words; `eval` says where it is a letter, or case counts."""
    if row["eval"] == "multiple choice":
        return float("".join(c for c in answer if c.isalpha()) == texts(row["answers"])[0])
    keep = row["eval"] == "case sensitive"
    chinese = row["type"].endswith("cn") and not keep
    return max((_contained(answer, truth, keep, chinese) for truth in texts(row["answers"])), default=0.0)


def _contained(answer: str, truth: str, keep_case: bool = False, chinese: bool = False) -> float:
    """1 where a short truth occurs in the answer; of a long one, how alike they are from 0.5 on."""
    said, true = (text if keep_case else text.lower() for text in (answer, truth))
    said, true = (text.strip().replace("\n", " ") for text in (said, true))
    if chinese:
        said, true = said.replace(" ", ""), true.replace(" ", "")
    if len(true.split(",")) < _SHORT_CHINESE if chinese else len(true.split()) < _SHORT:
        return float(true in said)
    similarity = 1 - edit_distance(said, true) / max(len(said), len(true))
    return similarity if similarity >= _LEAST_SIMILARITY else 0.0


def _count(answer: str, row: Row) -> float:
    """A number: one that occurs, or one that is near."""
    return max((_near(answer, truth.lower().strip(), row["eval"]) for truth in texts(row["answers"])), default=0.0)


def _near(answer: str, truth: str, way: str) -> float:
    if way == "exact match":
        return float(truth.replace("\n", " ") in answer)
    first = re.search(r"\d+", answer)
    if way != "regression" or first is None or not 0 < int(first[0]) < 2 * int(truth):
        return 0.0
    closeness = 1 - abs(int(first[0]) - int(truth)) / int(truth)
    return closeness if closeness > _LEAST_SIMILARITY else 0.0


def _formula(answer: str, row: Row) -> float:
    said = _closed(answer)
    return float(any(_closed(truth) in said for truth in texts(row["answers"])))


def _chinese_formula(answer: str, row: Row) -> float:
    said, truth = (_closed(_TEXT_TAG.sub(r"\1", text)) for text in (answer, texts(row["answers"])[0]))
    return float(answer.lower() != "nan" and truth in said)


def _closed(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")


def _page(answer: str, row: Row) -> float:
    return text_similarity(answer, texts(row["answers"])[0]) if answer else 0.0


def _written_answer(answer: str, row: Row) -> float:
    """A short text in full, else one or several options in any of the usual ways to list them."""
    truth = texts(row["answers"])[0]
    if "简答" in row["question"]:
        return text_similarity(answer, truth)
    return float(any(join.join(truth) in answer for join in _JOINS))


def _table(answer: str, row: Row) -> float:
    """A table in HTML, or in Markdown where the question asks for that; Chinese tables are always in HTML."""
    truth, asked = texts(row["answers"])[0], row["question"].lower()
    try:
        if row["type"].endswith("cn") or "html" in asked:
            found = re.search("<body.*", answer.replace("\n", "")) or re.search("<table.*", answer.replace("\n", ""))
            return teds(whole_html(found[0]), whole_html(truth)) if found else 0.0
        return teds(_markdown_table(answer), _markdown_table(truth)) if "markdown" in asked else 0.0
    except ValueError:
        return 0.0


def _markdown_table(text: str) -> str:
    """A Markdown table as HTML; letters of the word "markdown" at either end go with the fence, as published."""
    lines = text.strip(_FENCE_LETTERS).strip("`").strip().split("\n")
    rows = ""
    for line in (lines[0], *lines[2:]):
        cells = (" " if set(cell) == {" "} else cell.strip() for cell in line.strip().split("|")[1:-1])
        rows += f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    return f"<html><body><table>{rows}</table></body></html>"


def _chart(answer: str, row: Row) -> float:
    try:
        return chart_score(answer, texts(row["answers"])[0])
    except ValueError:
        return 0.0


def _outline(answer: str, row: Row) -> float:
    return outline_similarity(answer, texts(row["answers"])[0])


def _fields(answer: str, row: Row) -> float:
    return fields_score(read_fields(answer), read_truth(texts(row["answers"])[0]))


def _grounding(answer: str, row: Row) -> float:
    box = last_box(answer)
    return overlap(box, row["answers"]) if box else 0.0


def _answer_with_place(answer: str, row: Row) -> float:
    """Half for the words, half for the box that they stand in."""
    said = read_fields(answer)
    words = max((_contained(said["answer"], t) for t in texts(row["answers"])), default=0.0) if "answer" in said else 0
    try:
        place = overlap(ast.literal_eval(said["bbox"]), row["bbox"]) if "bbox" in said else 0.0
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        place = 0.0
    return 0.5 * words + 0.5 * place


def _spotting(answer: str, row: Row) -> float:
    return spotting_score(words_in(answer), row)


_KINDS: Mapping[Callable[[str, Row], float], tuple[str, ...]] = {
    _question: (
        "APP agent en", "ASCII art classification en", "math QA en", "reasoning VQA en", "science QA en",
        "text recognition en", "document classification en", "cognition VQA en", "diagram QA en", "cognition VQA cn",
        "reasoning VQA cn",
    ),
    _page: ("fine-grained text recognition en", "full-page OCR en", "full-page OCR cn", "text translation cn"),
    _fields: ("key information extraction en", "key information mapping en", "key information extraction cn"),
    _table: ("table parsing en", "table parsing cn"),
    _outline: ("document parsing en", "document parsing cn"),
    _written_answer: ("handwritten answer extraction cn",),
    _formula: ("formula recognition en",),
    _chinese_formula: ("formula recognition cn",),
    _count: ("text counting en",),
    _chart: ("chart parsing en",),
    _grounding: ("text grounding en",),
    _answer_with_place: ("VQA with position en",),
    _spotting: ("text spotting en",),
}  # fmt: skip
MEASURES = {kind: measure for measure, kinds in _KINDS.items() for kind in kinds}
"""The measure of every kind of question."""


def check(row: Row | None) -> None:
    """See that what the measure of a row needs is there, before it is asked.

    Args:
        row: of the data set; None for all kinds.

    Raises:
        UsageError: naming what is missing.
    """
    check_tables()
    if row is None or MEASURES[row["type"]] in (_page, _written_answer):
        check_packages()
