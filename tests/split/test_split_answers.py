"""Several processes that hold a model together say what one says that has it whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import answers
import mlx.core as mx
import numpy as np
import pytest
from families import cases, draw, write_checkpoint
from processes import needs_ring, run_script, written
from support import HYBRID, relative, tiny_config, tiny_model

from rave_mlx.api import load
from rave_mlx.checkpoint import directory
from rave_mlx.checkpoint.build import build
from rave_mlx.config import ConnectorConfig, GateConfig, LinearAttentionConfig, RopeConfig
from rave_mlx.convert.pipeline import convert
from rave_mlx.convert.quantize import Options

HEADS = LinearAttentionConfig((0,), key_heads=4, value_heads=8, key_dim=8, value_dim=12)


def wide_model():
    """One whose matrices can be packed: five groups of 32 numbers in the MLP, one group a head."""
    tiny = tiny_config(num_layers=2, intermediate_size=160, head_dim=32, rope=RopeConfig(1e4, (4, 6, 6)))
    config = replace(tiny, text=replace(tiny.text, hidden_size=64), connector=ConnectorConfig(128, 64))
    lmm = build(config, directory.BUILT_IN / directory.TOKENIZER, "", None)
    lmm.load_weights([(name, mx.array(draw(name, x.shape))) for name, x in lmm.named_weights().items()])
    return lmm


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Gated heads, of which the second process has none; packed matrices whose groups are no equal parts; linear
    attention; Gemma's norms and windows, in a checkpoint as it is published."""
    folder = tmp_path_factory.mktemp("models")
    found = [
        written(tiny_model(GateConfig(rank=4), num_layers=2, intermediate_size=82), folder / "gated"),
        convert(written(wide_model(), folder / "plain"), folder / "packed", quantize=Options(bits=4, group_size=32)),
        written(tiny_model(**HYBRID | {"linear": HEADS, "num_layers": 2}), folder / "linear"),
        write_checkpoint(cases()["gemma3"], folder / "gemma3"),
    ]
    return [str(path) for path in found]


@pytest.fixture(scope="module")
def whole(models):
    found = {}
    for model in models:
        lmm = load(model)
        found |= answers.answers(lmm, model)
        if model.endswith("linear"):
            found |= answers.ways(lmm, model)
    return found


@needs_ring
@pytest.mark.parametrize("size", [2, 4])
def test_what_processes_say_together_is_what_one_says(models, whole, size, tmp_path):
    held = models if size == 2 else models[:2]
    ended = run_script(tmp_path, size, Path(answers.__file__), tmp_path / "said.npz", *held)
    assert [(code, error) for code, _, error in ended] == [(0, "")] * size
    said = np.load(tmp_path / "said.npz")
    assert len(said.files) == (len(whole) if size == 2 else 2 * len(held))
    for name in said.files:
        if name.endswith("logits"):
            assert relative(said[name], whole[name]) < 1e-5, name
        else:
            np.testing.assert_array_equal(said[name], whole[name], err_msg=name)
