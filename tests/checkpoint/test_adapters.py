"""Adapters: fresh ones change nothing, saved ones come back, foreign ones are refused."""

from __future__ import annotations

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from support import ask, picture, tiny_model

from rave_mlx.checkpoint import adapters
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.config import GateConfig
from rave_mlx.errors import ConfigError, ModelError

MODULES = (
    "decoder.layers.0.attention.q_proj",
    "decoder.layers.0.attention.v_proj",
    "decoder.layers.2.attention.o_proj",
    "decoder.layers.1.mlp.down_proj",
)
MESSAGES = [ask("What is the total?", picture())]


def logits(lmm):
    return np.array(lmm.logits(lmm.prepare(MESSAGES)))


def trained(kind="lora", gate=None, seed=0):
    """The tiny model with an adapter of random weights."""
    config = AdapterConfig(rank=3, scale=2.0, modules=MODULES, kind=kind, gate=gate)
    lmm = tiny_model(gate)
    adapters.attach(lmm, config)
    rng = np.random.default_rng(seed)
    drawn = [
        (name, mx.array(rng.normal(0, 0.2, x.shape).astype(np.float32)))
        for name, x in adapters.adapter_weights(lmm, config).items()
        if name.endswith(("lora_a", "lora_b"))
    ]
    lmm.load_weights(drawn, strict=False)
    return lmm, config


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_fresh_adapter_changes_nothing(kind):
    lmm = tiny_model()
    before = logits(lmm)
    adapters.attach(lmm, AdapterConfig(rank=3, scale=2.0, modules=MODULES, kind=kind))
    np.testing.assert_allclose(logits(lmm), before, atol=2e-5)


def test_the_update_is_scale_times_the_product_of_the_factors():
    lmm, config = trained()
    by_hand = tiny_model()
    weights = adapters.adapter_weights(lmm, config)
    for module in MODULES:
        weight = by_hand.named_weights()[f"{module}.weight"]
        update = config.scale * (weights[f"{module}.lora_a"] @ weights[f"{module}.lora_b"]).T
        by_hand.load_weights([(f"{module}.weight", weight + update)], strict=False)
    np.testing.assert_allclose(logits(lmm), logits(by_hand), atol=1e-4)
    assert np.abs(logits(lmm) - logits(tiny_model())).max() > 0.1


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("gate", [None, GateConfig(rank=3)], ids=["plain", "gated"])
def test_a_saved_adapter_comes_back_on_the_plain_base(tmp_path, kind, gate):
    lmm, config = trained(kind, gate)
    adapters.save(lmm, config, tmp_path / "adapter")
    again = adapters.load_adapter(tiny_model(), tmp_path / "adapter")
    assert again.config.gate == gate
    assert (logits(again) == logits(lmm)).all()
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapters.safetensors"}


def test_an_adapter_with_gates_sits_on_quantized_projections(tmp_path):
    def quantized(gate):
        lmm = tiny_model(gate)
        nn.quantize(lmm, 32, 8, class_predicate=lambda name, _: name == MODULES[2])
        return lmm

    gate = GateConfig(rank=3)
    lmm, config = quantized(gate), AdapterConfig(rank=2, scale=1.0, modules=MODULES, gate=gate)
    adapters.attach(lmm, config)
    adapters.save(lmm, config, tmp_path / "adapter")
    again = adapters.load_adapter(quantized(None), tmp_path / "adapter")
    assert isinstance(again.decoder.layers[2].attention.o_proj.linear, nn.QuantizedLinear)
    assert (logits(again) == logits(lmm)).all()


def test_adapters_of_other_models_are_refused(tmp_path):
    lmm, config = trained()
    adapters.save(lmm, config, tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"another model: no projection decoder.layers.2.attention.o_proj"):
        adapters.load_adapter(tiny_model(num_layers=2), tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"down_proj.lora_a \[80, 3\] instead of \[96, 3\]"):
        adapters.load_adapter(tiny_model(intermediate_size=96), tmp_path / "adapter")


def test_other_packages_adapters_are_told_apart(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))
    with pytest.raises(ConfigError, match="PEFT's layout"):
        adapters.load_adapter(tiny_model(), tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"rank": 8, "scale": 1.0, "colour": 1}))
    with pytest.raises(ConfigError, match="unknown key colour"):
        adapters.load_adapter(tiny_model(), tmp_path)


def test_an_adapter_with_other_gates_than_the_model_is_refused(tmp_path):
    lmm, config = trained(gate=GateConfig(rank=3))
    adapters.save(lmm, config, tmp_path / "adapter")
    with pytest.raises(ModelError, match="gates have another shape"):
        adapters.load_adapter(tiny_model(GateConfig(rank=5)), tmp_path / "adapter")
