"""Measures of published benchmarks give the numbers of the published code (see official_scores.py)."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from rapidfuzz.distance import Levenshtein

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.benchmark_score import figure, part_figures, yes_no_figures
from rave_mlx.evaluate.metrics import edit_distance
from rave_mlx.evaluate.result import Result
from rave_mlx.evaluate.scores import SCORES
from rave_mlx.evaluate.scores.ocrbench_v2 import MEASURES, check
from rave_mlx.evaluate.scores.page_text import check_packages
from rave_mlx.evaluate.scores.pages import language

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "benchmark_scores.json").read_text(encoding="utf-8"))


def has_wordnet():
    try:
        check_packages()
    except UsageError:
        return False
    return True


def is_comparable(row):
    """METEOR takes synonyms from WordNet, which no package brings along."""
    try:
        check(row)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_those_of_the_published_code(name):
    cases = [c for c in GOLDEN["cases"][name] if name != "ocrbench_v2" or is_comparable(c["row"])]
    found = [[SCORES[name](answer, case["row"]).value for answer in case["answers"]] for case in cases]
    for case, scores in zip(cases, found, strict=True):
        wanted = case["scores"]
        assert scores == pytest.approx(wanted, abs=1e-12), case["row"]
    # Cases of which every answer has one score would show little.
    assert len({round(score, 6) for scores in found for score in scores}) > 1


@pytest.mark.skipif(not has_wordnet(), reason="needs nltk's WordNet: python -m nltk.downloader wordnet")
def test_all_kinds_of_ocrbench_v2_are_compared():
    kinds = {case["row"]["type"] for case in GOLDEN["cases"]["ocrbench_v2"] if is_comparable(case["row"])}
    assert {MEASURES[kind] for kind in kinds} == set(MEASURES.values())
    assert len(MEASURES) == 30


def results(name):
    """All golden cases of a measure as results, each page for itself."""
    found = []
    for case in GOLDEN["cases"][name]:
        for answer in case["answers"]:
            score = SCORES[name](answer, case["row"])
            truth = str(case["row"].get("answer", ""))
            row = Result("?", (truth,), answer, {}, False, 0.0, 0, 1, 1.0, 0.5, len(found), score.value)
            found.append(Result(**{**vars(row), "parts": score.parts or {}}))
    return found


def test_figures_of_pages_are_weighted_as_published():
    wanted, found = GOLDEN["whole"]["page"], results("page")
    assert figure(found) == pytest.approx(wanted["score"], abs=1e-12)
    for part in ("text", "table", "formula"):
        assert part_figures(found)[part] == pytest.approx(wanted[part], abs=1e-12)
    pages = [case["row"]["page"] for case in GOLDEN["cases"]["page"] for _ in case["answers"]]
    assert [language(page) for page in pages] == wanted["languages"]


def test_fields_are_counted_over_all_receipts():
    assert figure(results("fields")) == pytest.approx(GOLDEN["whole"]["fields"], abs=1e-12)


def test_yes_and_no_are_counted_as_published():
    wanted, found = GOLDEN["whole"]["equal"], results("equal")
    assert figure(found) == pytest.approx(wanted["score"])
    assert {k: v for k, v in yes_no_figures(found).items() if k in wanted} == pytest.approx(
        {k: v for k, v in wanted.items() if k != "score"}
    )


def test_finer_categories_weigh_the_same():
    whole = GOLDEN["whole"]["letter"]
    found = []
    for row in whole["rows"]:
        score = SCORES["letter"](whole["answer"], row)
        found.append(Result("?", ("A",), "A", {}, False, 0.0, 0, 1, 1.0, 0.5, 0, score.value, score.parts))
    assert figure(found) == pytest.approx(whole["score"])
    assert figure(found) != pytest.approx(sum(r.score for r in found) / len(found))


def test_edit_distance_is_levenshteins():
    rng = random.Random(3)
    for _ in range(400):
        a, b = ("".join(rng.choices("abcä", k=rng.randint(0, 90))) for _ in range(2))
        assert edit_distance(a, b) == Levenshtein.distance(a, b)
    assert edit_distance(["a", "bc"], ["bc"]) == 1
