"""Adapters: fresh ones change nothing, saved ones come back, foreign ones are refused."""

from __future__ import annotations

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from families import cases, write_checkpoint
from support import ask, picture, tiny_model

import rave_mlx
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
    with pytest.raises(ConfigError, match=r"PEFT's layout; rave-mlx convert .* OUT --base MODEL translates it"):
        adapters.load_adapter(tiny_model(), tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"rank": 8, "scale": 1.0, "colour": 1}))
    with pytest.raises(ConfigError, match="unknown key colour"):
        adapters.load_adapter(tiny_model(), tmp_path)


def test_an_adapter_with_other_gates_than_the_model_is_refused(tmp_path):
    lmm, config = trained(gate=GateConfig(rank=3))
    adapters.save(lmm, config, tmp_path / "adapter")
    with pytest.raises(ModelError, match="gates have another shape"):
        adapters.load_adapter(tiny_model(GateConfig(rank=5)), tmp_path / "adapter")


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_updates_sit_on_widths_that_no_word_holds_whole(tmp_path, kind):
    """Six bits: mlx-lm's own DoRA takes five weights a word there."""

    def quantized():
        lmm = tiny_model(intermediate_size=96)
        nn.quantize(lmm.decoder, 32, 6, class_predicate=lambda name, _: name.endswith(("o_proj", "down_proj")))
        return lmm

    config = AdapterConfig(rank=2, scale=1.0, modules=MODULES, kind=kind)
    lmm = quantized()
    adapters.attach(lmm, config)
    adapters.save(lmm, config, tmp_path / "adapter")
    assert adapters.read_weights(tmp_path / "adapter")[f"{MODULES[3]}.lora_a"].shape == (96, 2)
    np.testing.assert_allclose(
        logits(adapters.load_adapter(quantized(), tmp_path / "adapter")), logits(quantized()), atol=1e-4
    )


def full_of(config, seed=3, **text):
    """Random tensors of every kind that an adapter may hold, for the tiny model."""
    lmm = tiny_model(**text)
    if config.splits_tie and lmm.config.text.tie_embeddings:
        lmm = adapters.with_head(lmm)
    adapters.attach(lmm, config)
    rng = np.random.default_rng(seed)
    shapes = {name: x.shape for name, x in adapters.adapter_weights(lmm, config).items()}
    return {name: mx.array(rng.normal(0, 0.2, shape).astype(np.float32)) for name, shape in shapes.items()}


EVERYTHING = AdapterConfig(
    rank=3,
    scale=2.0,
    modules=("decoder.embed", "decoder.head", *MODULES, "vision.layers.0.attention.qkv", "connector.fc1"),
    ranks={"decoder.head": 5, MODULES[0]: 1},
    scales={"decoder.embed": 0.5},
    update_bias=True,
    replaced=("decoder.norm.weight", "decoder.layers.0.attention.k_proj.bias", "decoder.head.weight"),
    rows={"decoder.embed": (5, 2)},
)


@pytest.mark.parametrize("tied", [False, True])
def test_every_kind_of_change_by_hand(tmp_path, tied):
    weights = full_of(EVERYTHING, tie_embeddings=tied)
    (tmp_path / "adapter").mkdir()
    adapters.write(tmp_path / "adapter", EVERYTHING, weights)
    assert adapters.read_config(tmp_path / "adapter") == EVERYTHING
    lmm = adapters.load_adapter(tiny_model(tie_embeddings=tied), tmp_path / "adapter")
    base, by_hand = tiny_model(tie_embeddings=tied).named_weights(), tiny_model()
    base.setdefault("decoder.head.weight", base["decoder.embed.weight"])
    base |= {name: weights[name] for name in EVERYTHING.replaced}
    base["decoder.embed.weight"][mx.array([5, 2])] = weights["decoder.embed.rows"]
    for module in EVERYTHING.modules:
        scale = {"decoder.embed": 0.5}.get(module, 2.0)
        product = scale * (weights[f"{module}.lora_a"] @ weights[f"{module}.lora_b"])
        base[f"{module}.weight"] += product if module == "decoder.embed" else product.T
    wanted = lmm.prepare(MESSAGES)
    with_bias = {f"{m}.lora_bias" for m in EVERYTHING.modules if m != "decoder.embed"}
    assert with_bias <= set(weights)
    for module in EVERYTHING.modules[1:]:
        vector = 2.0 * weights[f"{module}.lora_bias"]
        inner = dict(by_hand.named_modules())[module]
        inner.bias = base[f"{module}.bias"] + vector if "bias" in inner else vector
        base[f"{module}.bias"] = inner.bias
    by_hand.load_weights(list(base.items()))
    np.testing.assert_allclose(np.array(lmm.logits(wanted)), np.array(by_hand.logits(wanted)), atol=1e-3)
    assert np.abs(np.array(lmm.logits(wanted)) - logits(tiny_model(tie_embeddings=tied))).max() > 0.1


@pytest.mark.parametrize("bits", [None, 8])
def test_a_split_tie_leaves_the_given_tables_alone(tmp_path, bits):
    """Only the embedding is adapted: the head goes on as the base's, packed or not."""
    base = write_checkpoint(cases()["llama-tied"], tmp_path / "base")
    config = AdapterConfig(rank=2, scale=1.0, modules=("decoder.embed",))
    rng = np.random.default_rng(0)
    shapes = {"decoder.embed.lora_a": (272, 2), "decoder.embed.lora_b": (2, 64)}
    weights = {name: mx.array(rng.normal(0, 0.2, shape).astype(np.float32)) for name, shape in shapes.items()}
    lmm = rave_mlx.load(base)
    if bits is not None:
        nn.quantize(lmm.decoder, 32, bits, class_predicate=lambda name, _: name == "embed")
    before, hidden, token = lmm.named_weights()["decoder.embed.weight"], mx.ones((1, 1, 64)), mx.array([[7]])
    scores, embedded = lmm.decoder.logits(hidden), lmm.decoder.embed_ids(token)
    adapted = adapters.put_on(lmm, config, weights, tmp_path)
    assert mx.array_equal(adapted.named_weights()["decoder.head.weight"], before)
    np.testing.assert_allclose(adapted.decoder.logits(hidden), scores, rtol=1e-6)
    moved = adapted.decoder.embed_ids(token) - embedded
    update = weights["decoder.embed.lora_a"][7] @ weights["decoder.embed.lora_b"]
    np.testing.assert_allclose(np.array(moved)[0, 0], np.array(update), atol=1e-6)


def test_old_adapters_are_written_as_before(tmp_path):
    """What later adapters may say besides appears only where it is said."""
    assert list(AdapterConfig(rank=1, scale=1.0).to_dict()) == [
        *("rank", "scale", "modules", "kind", "dropout", "gate", "full", "mask", "answer", "base")
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ranks": {MODULES[1]: 4}}, "of adapted modules"),
        ({"ranks": {MODULES[0]: 0}}, "ranks and scales are positive"),
        ({"rows": {MODULES[0]: (1,)}}, r"rows of decoder.layers.0.attention.q_proj cannot be replaced"),
        ({"rows": {"decoder.head": (1,)}, "replaced": ("decoder.head.weight",)}, "head.weight is replaced twice"),
        ({"full": ("connector",), "replaced": ("connector.fc1.bias",)}, "connector.fc1.bias is replaced twice"),
        ({"kind": "dora", "update_bias": True}, "DoRA has no biases of its own"),
    ],
)
def test_what_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        AdapterConfig(rank=2, scale=1.0, modules=MODULES[:1], **fields)


def test_weights_and_tokens_that_the_model_does_not_have_are_named(tmp_path):
    config = AdapterConfig(rank=2, scale=1.0, replaced=("decoder.layers.9.input_norm.weight",))
    with pytest.raises(ModelError, match=r"no weight decoder.layers.9.input_norm.weight here"):
        adapters.put_on(tiny_model(), config, {}, tmp_path)
    rows = AdapterConfig(rank=2, scale=1.0, rows={"decoder.embed": (1, 272)})
    with pytest.raises(ModelError, match=r"replaces the row of token 272, the model has 272"):
        adapters.put_on(tiny_model(), rows, {"decoder.embed.rows": mx.zeros((2, 48))}, tmp_path)
