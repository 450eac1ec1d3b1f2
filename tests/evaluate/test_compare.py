"""Two runs against each other: intervals, McNemar's test, runs over different questions."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from command import rave

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.compare import by_tag, compare, paired
from rave_mlx.evaluate.report import summarize
from rave_mlx.evaluate.runner import Result
from rave_mlx.evaluate.statistics import mcnemar, mean_interval


def answer(number, right, page=-1, kind="value"):
    return Result(f"Q{number}", ("x",), "x", {"kind": kind}, right, float(right), 0, 1, 0.1, 0.9, page)


def write(file, results):
    file.write_text("".join(json.dumps(asdict(result)) + "\n" for result in results))
    return file


@pytest.mark.parametrize(
    # Literal values of scipy.stats.binomtest(b, b + c).pvalue.
    ("first", "second", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (0, 5, 0.0625),
        (5, 5, 1.0),
        (3, 12, 0.03515625),
        (12, 19, 0.28104151505976915),
        (100, 140, 0.01166409231767769),
    ],
)
def test_mcnemar(first, second, p):
    assert mcnemar(first, second) == pytest.approx(p, rel=1e-12)
    assert mcnemar(second, first) == pytest.approx(p, rel=1e-12)


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        values = rng.normal(0.3, 1.0, 60)
        low, high = mean_interval(values, range(60), seed=trial)
        covered += low <= 0.3 <= high
    assert 179 <= covered <= 198  # 95 % of 200 within three standard errors, a little below for 60 pages


def test_answers_about_one_page_widen_the_interval():
    rng = np.random.default_rng(4)
    of_page = rng.normal(0.0, 1.0, 40)
    values, pages = np.repeat(of_page, 8), np.repeat(np.arange(40), 8)
    low, high = mean_interval(values, pages)
    assert high - low == pytest.approx(2 * 1.96 * of_page.std() / 40**0.5, rel=0.08)
    narrow = mean_interval(values, range(len(values)))
    assert narrow[1] - narrow[0] < 0.5 * (high - low)


def test_the_interval_of_exact_answers_is_over_pages_and_one_page_has_none():
    results = [answer(n, right, page=n // 3) for n, right in enumerate([True, True, True, False, False, True] * 4)]
    found = summarize(results).interval
    assert found == mean_interval([r.exact for r in results], [r.page for r in results])
    assert summarize(results[:3]).interval is None


def test_figures_of_a_comparison():
    first = [answer(n, right, n // 2, kind) for n, right, kind in [(0, True, "a"), (1, False, "a"), (2, False, "b")]]
    second = [replace(each, exact=True, anls=1.0) for each in first]
    pairs = list(zip(first, second, strict=True))
    found = compare(pairs)
    assert (found.count, found.pages, found.only_first, found.only_second) == (3, 2, 0, 2)
    assert (found.first, found.second, found.difference) == (pytest.approx(1 / 3), 1.0, pytest.approx(2 / 3))
    assert found.p == 0.5
    assert {name: part.count for name, part in by_tag(pairs, "kind").items()} == {"a": 2, "b": 1}


def test_runs_over_different_questions_are_refused(tmp_path):
    a = write(tmp_path / "a.jsonl", [answer(0, True), answer(1, True)])
    b = write(tmp_path / "b.jsonl", [answer(0, True), answer(2, True)])
    short = write(tmp_path / "short.jsonl", [answer(0, True)])
    other_page = write(tmp_path / "page.jsonl", [answer(0, True, 0), answer(1, True, 0)])
    with pytest.raises(UsageError, match="line 2 is 'Q1' in the first and 'Q2' in the second"):
        paired(a, b)
    with pytest.raises(UsageError, match="2 answers and .* 1: 1 questions have no partner"):
        paired(a, short)
    with pytest.raises(UsageError, match="different questions: line 1"):
        paired(a, other_page)


def test_files_that_hold_no_answers(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "other.jsonl").write_text('{"question": "Q"}\n')
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    for name, said in [
        ("empty", "no answers"),
        ("other", "line 1"),
        ("bytes", "cannot be read"),
        ("none", "cannot be"),
    ]:
        with pytest.raises(UsageError, match=said):
            paired(tmp_path / f"{name}.jsonl", tmp_path / f"{name}.jsonl")


def test_the_command_line(tmp_path):
    first = [answer(n, n % 3 == 0, n // 4) for n in range(80)]
    second = [answer(n, n % 3 == 0 or n % 2 == 0, n // 4) for n in range(80)]
    a, b = write(tmp_path / "a.jsonl", first), write(tmp_path / "b.jsonl", second)
    done = rave("evaluate", "compare", a, b)
    assert done.returncode == 0, done.stderr
    assert "the second is better: +0.325 exact" in done.stdout
    found = json.loads(rave("evaluate", "compare", a, b, "--json").stdout)
    assert found["all"]["only_second"] == 26
    assert found["by"]["value"]["count"] == 80
    refused = rave("evaluate", "compare", a, tmp_path / "none.jsonl")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
