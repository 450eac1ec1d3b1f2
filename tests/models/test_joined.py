"""Projections over one input as one product: the same numbers, names and memory, and never those of old weights."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.tuner.lora import LoRALinear
from support import ask, picture, relative, tiny_model

from rave_mlx.config import GateConfig
from rave_mlx.generation.decode import step
from rave_mlx.generation.prefill import prefill
from rave_mlx.models.joined import join

ROWS = (96, 32, 64)


def linears(bits=None, bias=True, dtype=mx.float32):
    mx.random.seed(0)
    layers = [nn.Linear(64, rows, bias=bias) for rows in ROWS]
    for layer in layers:
        layer.set_dtype(dtype)
    return layers if bits is None else [nn.QuantizedLinear.from_linear(layer, 32, bits) for layer in layers]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("bits", "dtype"), [(None, mx.float32), (None, mx.bfloat16), (4, mx.float32), (8, mx.float32)])
def test_the_outputs_are_those_of_the_layers(bits, dtype, bias):
    layers = linears(bits, bias, dtype)
    x = mx.random.normal((2, 3, 64)).astype(dtype)
    expected = [layer(x) for layer in layers]
    mx.eval(expected)
    joined = join(layers)
    assert joined.serves(layers)
    for found, right in zip(joined(x), expected, strict=True):
        assert found.shape == right.shape
        assert found.dtype == right.dtype
        assert relative(found.astype(mx.float32), right.astype(mx.float32)) < (1e-6 if dtype == mx.float32 else 8e-3)


def test_layers_that_differ_are_left_alone():
    plain, packed = linears(), linears(4)
    wide = nn.Linear(128, 8)
    for layers in (
        [plain[0], packed[1]],
        [plain[0], wide],
        [packed[0], *linears(8)[1:]],
        [plain[0], linears(bias=False)[1]],
    ):
        before = [layer["weight"] for layer in layers]
        assert join(layers) is None
        assert all(layer["weight"] is weight for layer, weight in zip(layers, before, strict=True))
    adapted = LoRALinear.from_base(linears()[0])
    assert join([adapted, *linears()[1:]]) is None


def test_no_memory_is_added():
    layers = [nn.Linear(1024, 1024, bias=False) for _ in range(3)]
    mx.eval([layer.parameters() for layer in layers])
    before = mx.get_active_memory()
    joined = join(layers)
    assert mx.get_active_memory() - before < 1 << 20
    assert joined.arrays["weight"].nbytes == 3 * 1024 * 1024 * 4


def model():
    lmm = tiny_model(GateConfig(rank=4, kv_groups=0.5))
    prompt = lmm.prepare([ask("What is the total?", picture(48, 48))])
    return lmm, prompt


def written(lmm, prompt):
    """Logits of a token after the prompt."""
    cache = lmm.make_cache()
    prefill(lmm, prompt, cache)
    return np.array(step(lmm, cache, mx.array([7]), prompt.token_map.next_position))


def test_a_model_writes_the_same(tmp_path):
    lmm, prompt = model()
    right, names = written(lmm, prompt), {name: np.array(x) for name, x in lmm.named_weights().items()}
    lmm.decoder.join()
    assert all(layer.attention._joined and layer.mlp._joined for layer in lmm.decoder.layers)
    assert relative(written(lmm, prompt), right) < 1e-6
    after = lmm.named_weights()
    assert list(after) == list(names)
    assert all(np.array_equal(np.array(after[name]), x) for name, x in names.items())
    mx.save_safetensors(str(tmp_path / "all.safetensors"), after)
    kept = mx.load(str(tmp_path / "all.safetensors"))
    assert all(np.array_equal(np.array(kept[name]), x) for name, x in names.items())


def test_joining_twice_changes_nothing():
    lmm, _ = model()
    lmm.decoder.join()
    before = [layer.mlp._joined for layer in lmm.decoder.layers]
    lmm.decoder.join()
    assert [layer.mlp._joined for layer in lmm.decoder.layers] == before


@pytest.mark.parametrize("change", ["weight", "lora", "gradient"])
def test_what_changes_a_layer_is_what_counts(change):
    lmm, prompt = model()
    lmm.decoder.join()
    attention = lmm.decoder.layers[1].attention
    if change == "weight":
        attention.k_proj.weight = attention.k_proj.weight * 1.5
    elif change == "lora":
        adapted = LoRALinear.from_base(attention.k_proj, r=2)
        adapted.lora_b = mx.random.normal(adapted.lora_b.shape)
        attention.k_proj = adapted
    else:
        grads = nn.value_and_grad(lmm, lambda: mx.sum(lmm.logits(prompt) ** 2))()[1]
        moved = grads["decoder"]["layers"][1]["attention"]["k_proj"]["weight"]
        assert float(mx.abs(moved).max()) > 0
        attention.k_proj.weight = attention.k_proj.weight - 0.1 * moved
    found = written(lmm, prompt)
    assert attention._joined is None, "old weights would be kept in memory"
    for layer in lmm.decoder.layers:
        layer.attention._joined = layer.mlp._joined = None
    assert relative(found, written(lmm, prompt)) < 1e-6
