"""Our figures against the packages that others use for them."""

from __future__ import annotations

from random import Random

import pytest

from rave_mlx.evaluate.metrics import anls, character_errors


def pairs(count=500):
    rng = Random(0)
    for _ in range(count):
        truth = "".join(rng.choice("ab c1.é") for _ in range(rng.randint(1, 14))).strip() or "a"
        answer = "".join(c for c in truth if rng.random() < 0.8) + "".join(
            rng.choice("xyz") for _ in range(rng.choice((0, 0, 1, 3)))
        )
        yield answer.strip() or "b", truth


def test_anls_equals_the_anls_package():
    package = pytest.importorskip("anls")
    for answer, truth in pairs():
        assert anls(answer, (truth, "other")) == pytest.approx(package.anls_score(answer, [truth, "other"])), (
            answer,
            truth,
        )


def test_character_errors_equal_jiwers():
    jiwer = pytest.importorskip("jiwer")
    found = [(character_errors(answer, (truth,)), answer, truth) for answer, truth in pairs()]
    rate = sum(errors for (errors, _), _, _ in found) / sum(length for (_, length), _, _ in found)
    assert rate == pytest.approx(jiwer.cer([t for _, _, t in found], [a for _, a, _ in found]))
