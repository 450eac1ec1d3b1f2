"""Pages that are laid out and asked about without being drawn: they are those that `make` draws."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rave_mlx.synthetic import meaning
from rave_mlx.synthetic.meaning import LAYOUTS, MeaningConfig
from rave_mlx.synthetic.meaning.document import lay_out_page
from rave_mlx.synthetic.meaning.facts import stretches, text_of

CONFIGS = {
    "any": MeaningConfig(worn=False),
    "cut": MeaningConfig(worn=False, cut=1.0, rounds=2),
    "sized": MeaningConfig(worn=False, width=416, heights=(300, 420, 608)),
    "held out": meaning.held_out(worn=False),
}
PRINT = """
import hashlib
from rave_mlx.synthetic.meaning import MeaningConfig
from rave_mlx.synthetic.meaning.document import lay_out_page
for seed in range(12):
    page = lay_out_page(seed, MeaningConfig(layout="statement"))
    print(hashlib.sha256(repr((page.paper.sheet.runs, page.asked)).encode()).hexdigest())
"""


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_the_page_that_is_drawn(name):
    for seed in range(6):
        drawn, laid = meaning.make(seed, CONFIGS[name]), lay_out_page(seed, CONFIGS[name])
        assert laid.layout == drawn.layout and laid.places.size == drawn.image.size
        assert [c.text for c in laid.asked] == [q.text for q in drawn.questions]
        runs = laid.paper.sheet.runs
        assert [text_of(c.answer, runs) for c in laid.asked] == [q.answer for q in drawn.questions]
        for candidate, question in zip(laid.asked, drawn.questions, strict=True):
            assert tuple(laid.places.box(s) for s in stretches(candidate.answer)) == question.boxes


def test_a_seed_gives_the_same_page_in_every_process():
    """Names and questions do not hang on the order in which a process keeps sets."""
    assert "statement" in LAYOUTS
    found = {
        subprocess.run(
            [sys.executable, "-c", PRINT], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "012"
    }
    assert len(found) == 1 and next(iter(found)).count(b"\n") == 12
