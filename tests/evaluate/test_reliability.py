"""What certainties are worth: bins, calibration error, thresholds."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from command import rave

from rave_mlx.evaluate.reliability import reliability
from rave_mlx.evaluate.runner import Result


def answer(certainty, right):
    return Result("Q", ("x",), "x", {}, bool(right), float(right), 0, 1, 0.1, float(certainty))


def test_bins_and_calibration_error():
    found = reliability([answer(0.1, 0), answer(0.15, 1), answer(0.95, 1), answer(0.97, 0), answer(1.0, 1)])
    assert [(b.low, b.high, b.count, b.right) for b in found.bins] == [
        (0.0, 0.2, 2, 0.5),
        (0.95, 0.99, 2, 0.5),
        (0.99, 1.0, 1, 1.0),
    ]
    assert found.error == pytest.approx((2 * 0.375 + 2 * 0.46 + 0.0) / 5)


def test_thresholds_keep_most_answers():
    results = [answer(c, r) for c, r in [(0.9, 1), (0.8, 1), (0.7, 0), (0.6, 1), (0.5, 1), (0.4, 0), (0.4, 1)]]
    by = {t.precision: (t.certainty, t.coverage) for t in reliability(results).thresholds}
    assert by[0.8] == (0.5, pytest.approx(5 / 7))
    assert by[0.9] == (0.8, pytest.approx(2 / 7))
    assert by[0.99] == (0.8, pytest.approx(2 / 7))


def test_no_threshold_where_nothing_is_right_often_enough():
    found = reliability([answer(0.9, 0), answer(0.8, 1)])
    assert [(t.certainty, t.coverage) for t in found.thresholds] == [(None, 0.0)] * 4


def test_answers_that_are_right_as_often_as_they_say_have_no_error():
    rng = np.random.default_rng(0)
    certainties = rng.random(20_000)
    assert reliability([answer(c, rng.random() < c) for c in certainties]).error < 0.015
    assert reliability([answer(c, rng.random() < c * c) for c in certainties]).error > 0.1


def test_the_command_line(tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(asdict(answer(c, c > 0.5))) + "\n" for c in (0.2, 0.4, 0.6, 0.93, 0.999)))
    done = rave("evaluate", "certainty", file)
    assert done.returncode == 0, done.stderr
    assert "99%           0.600               60%" in done.stdout
    assert json.loads(rave("evaluate", "certainty", file, "--json").stdout)["count"] == 5
    assert rave("evaluate", "certainty", tmp_path / "none").returncode == 2
