"""The mean of several finders: of every tensor, and only of finders that fit together."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from finders import VOCABULARY, random_weights, tiny, write_tokenizer
from mlx.utils import tree_flatten

from rave_mlx.errors import ModelError
from rave_mlx.models.finder.finder import load_finder, write_finder
from recipes.builtin.finder.average import average


def written(folder, seed, **changed):
    """A finder with random weights in a folder."""
    config, tokenizer = tiny(**changed), write_tokenizer(folder.parent / "pieces.json")
    write_finder(folder, config, random_weights(config, seed), tokenizer, {})
    return folder


def test_every_tensor_is_the_mean(tmp_path):
    runs = [written(tmp_path / f"run{seed}", seed) for seed in range(3)]
    average(runs, tmp_path / "mean")
    found = load_finder(tmp_path / "mean")
    assert found.config == tiny()
    weights = [random_weights(tiny(), seed) for seed in range(3)]
    for name, array in tree_flatten(found.network.parameters()):
        stored = [np.array(each[name].astype(mx.float16), np.float64) for each in weights]
        np.testing.assert_allclose(np.array(array), np.mean(stored, axis=0), atol=2e-3, rtol=1e-3)


def test_finders_that_do_not_fit(tmp_path):
    first = written(tmp_path / "first", 0)
    with pytest.raises(ModelError, match="another configuration"):
        average([first, written(tmp_path / "second", 1, temperature=2.0)], tmp_path / "mean")
    third = written(tmp_path / "third", 1)
    write_tokenizer(third / "tokenizer.json", (*VOCABULARY[:-1], "##other"))
    with pytest.raises(ModelError, match="another tokenizer"):
        average([first, third], tmp_path / "mean")
    with pytest.raises(ModelError, match="no runs"):
        average([], tmp_path / "mean")
    with pytest.raises(ModelError, match="exists"):
        average([first], first)
