"""AKI back into its own layout: the vocabulary lies in two tensors, and each gets its own rows back."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, draw, golden, kept_positions
from families.aki import CASE, CONFIG, TEXT, write_released
from support import relative

import rave_mlx
from rave_mlx.checkpoint import directory
from rave_mlx.convert import Options, convert
from rave_mlx.convert.exporting import export

FIRST = CONFIG["initial_tokenizer_len"]
BASE = {
    "lang_model.model.embed_tokens.weight": (TEXT["vocab_size"], 64),
    "lang_model.lm_head.weight": (TEXT["vocab_size"], 64),
    "lang_model.lm_head.bias": (TEXT["vocab_size"],),
}
"""Phi-3.5's tables, whose rows from `initial_tokenizer_len` on stand for no token."""
ADDED = {
    "lang_model.model.embed_tokens.additional_embedding.weight": (2, 64),
    "lang_model.lm_head.additional_fc.weight": (2, 64),
    "lang_model.lm_head.additional_fc.bias": (2,),
}
"""The rows of <image> and <|endofchunk|>."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_released(tmp_path_factory.mktemp("aki") / "hf")


def there_and_back(source, folder, dtype=None, quantize=None):
    convert(source, folder / "rave", dtype=dtype, quantize=quantize)
    export(folder / "rave", folder / "out", dequantize=quantize is not None)
    return directory.read_tensors(folder / "out")


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
def test_every_tensor_is_written_as_it_was(source, tmp_path, dtype):
    """The numbers that `write_released` drew, in the type that was asked for; rows of no token are zero."""
    found, kind = there_and_back(source, tmp_path, dtype), getattr(mx, dtype or "float32")
    # The tower's pooling head is not part of the model, and not exported.
    shapes = {n: s for n, s in golden(CASE)[0].items() if not n.startswith("vision_encoder.head.")}
    assert {name: tensor.shape for name, tensor in found.items()} == shapes
    assert shapes | BASE | ADDED == shapes
    for name, shape in shapes.items():
        expected = draw(name, shape)
        if name in BASE:
            expected[FIRST:] = 0
        assert mx.array_equal(found[name], mx.array(expected).astype(kind)), name
        assert found[name].dtype == kind, name


def test_the_tensors_of_a_quantized_model_hold_the_numbers_it_stands_for(source, tmp_path):
    """Packed row by row, each row of the two tensors is what MLX makes of that row alone."""
    found = there_and_back(source, tmp_path, quantize=Options(bits=4, group_size=32))
    for name, shape in (BASE | ADDED).items():
        expected = mx.array(draw(name, shape))
        if name.endswith("weight"):
            expected = mx.dequantize(*mx.quantize(expected, group_size=32, bits=4), group_size=32, bits=4)
            assert not mx.array_equal(expected, mx.array(draw(name, shape)))
        if name in BASE:
            expected[FIRST:] = 0
        assert mx.array_equal(found[name], expected), name


def test_the_exported_checkpoint_answers_as_the_reference(source, tmp_path):
    there_and_back(source, tmp_path)
    lmm, name = rave_mlx.load(tmp_path / "out"), "one image"
    assert lmm.config == rave_mlx.load(source).config
    prompt = lmm.prepare(CONVERSATIONS[name])
    logits = np.array(lmm.logits(prompt))[0, kept_positions(len(prompt))]
    assert relative(logits, golden(CASE)[1][name]) <= 1e-5
