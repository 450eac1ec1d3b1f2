"""Adapters that mlx-lm trains: mlx-lm's logits, or one line that says what to do."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model
from support import relative

import rave_mlx
from rave_mlx.convert import fuse
from rave_mlx.convert.adapters import import_adapter, import_peft
from rave_mlx.errors import ConfigError, ModelError

PARAMETERS = {"rank": 3, "scale": 7.0, "dropout": 0.0}
SETTINGS = {"fine_tune_type": "lora", "num_layers": 2, "model": "base", "seed": 0, "lora_parameters": PARAMETERS}


def make(folder, name, keys, kind="lora"):
    """A base, an adapter of random weights as mlx-lm saves it, and what mlx-lm answers."""
    base = write_checkpoint(cases()[name], folder / "base")
    # Flat, and without sliding windows, which mlx-lm ignores.
    config = json.loads((base / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    for key in ("sliding_window", "use_sliding_window", "layer_types", "partial_rotary_factor"):
        config.pop(key, None)
    (base / "config.json").write_text(json.dumps(config))
    model, _ = load_model(base)
    model.freeze()
    linear_to_lora_layers(model, 2, PARAMETERS | {"keys": keys}, use_dora=kind == "dora")
    rng = np.random.default_rng(1)
    trained = {n: x for n, x in tree_flatten(model.parameters()) if n.rpartition(".")[2] in ("lora_a", "lora_b", "m")}
    trained = {n: x + mx.array(rng.normal(0, 0.1, x.shape).astype(np.float32)) for n, x in trained.items()}
    model.load_weights(list(trained.items()), strict=False)
    adapter = folder / "mlx"
    adapter.mkdir()
    mx.save_safetensors(str(adapter / "adapters.safetensors"), trained)
    settings = SETTINGS | {"fine_tune_type": kind, "lora_parameters": PARAMETERS | {"keys": keys}}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    prompt = rave_mlx.load(base).prepare(CONVERSATIONS["text"])
    return base, adapter, prompt, model(mx.array(prompt.ids))


@pytest.mark.parametrize(
    ("name", "keys", "kind"),
    [
        ("qwen2", ["self_attn.q_proj", "mlp.down_proj"], "lora"),
        ("qwen2", ["self_attn.v_proj", "mlp.up_proj"], "dora"),
        ("phi3", ["self_attn.qkv_proj", "mlp.gate_up_proj"], "lora"),
        ("llama-tied", ["self_attn.q_proj", "model.embed_tokens"], "lora"),
        ("llama", ["model.embed_tokens", "lm_head"], "lora"),
    ],
)
def test_logits_are_those_of_mlx_lm(tmp_path, name, keys, kind):
    base, adapter, prompt, expected = make(tmp_path, name, keys, kind)
    import_adapter(adapter, base, tmp_path / "ours")
    for folder in (adapter, tmp_path / "ours"):
        assert relative(rave_mlx.load(base, adapter=folder).logits(prompt), expected) <= 1e-5
    assert relative(rave_mlx.load(base).logits(prompt), expected) > 1e-2
    fuse(base, adapter, tmp_path / "fused")
    assert relative(rave_mlx.load(tmp_path / "fused").logits(prompt), expected) <= 1e-5


def test_mlx_vlm_names_the_same_modules_its_own_way(tmp_path):
    base = write_checkpoint(cases()["qwen2_5_vl"], tmp_path / "base")
    (tmp_path / "mlx").mkdir()
    name = "language_model.model.layers.1.self_attn.q_proj"
    tensors = {f"{name}.lora_a": mx.ones((64, 3)), f"{name}.lora_b": mx.ones((3, 64))}
    mx.save_safetensors(str(tmp_path / "mlx/adapters.safetensors"), tensors)
    (tmp_path / "mlx/adapter_config.json").write_text(json.dumps(SETTINGS))
    weights = rave_mlx.load(base, adapter=tmp_path / "mlx").named_weights()
    assert mx.array_equal(weights["decoder.layers.1.attention.q_proj.lora_b"], mx.ones((3, 64)))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (SETTINGS | {"fine_tune_type": "full"}, ConfigError, "fine_tune_type 'full' is not supported.*mlx_lm.fuse"),
        ({"rank": 3, "alpha": 7.0, "dropout": 0.0}, ConfigError, "mlx-vlm before 0.7, whose alpha is the scale itself"),
        (SETTINGS | {"lora_parameters": {"rank": 3, "alpha": 16}}, ConfigError, "lora_parameters: scale is missing"),
        (
            SETTINGS | {"lora_parameters": PARAMETERS | {"rank": 4}},
            ModelError,
            r"lora_a \[64, 3\] instead of",
        ),
        (SETTINGS | {"fine_tune_type": "dora"}, ModelError, r"missing: .*q_proj.m"),
    ],
)
def test_what_does_not_map_plainly_is_refused(tmp_path, settings, error, message):
    base, adapter, *_ = make(tmp_path, "qwen2", ["self_attn.q_proj"])
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(error, match=message) as caught:
        rave_mlx.load(base, adapter=adapter)
    assert "\n" not in str(caught.value)


def test_tensors_of_nothing_and_own_adapters(tmp_path):
    base, adapter, *_ = make(tmp_path, "qwen2", ["self_attn.q_proj"])
    file = adapter / "adapters.safetensors"
    tensors = dict(mx.load(str(file)))
    mx.eval(tensors)
    mx.save_safetensors(str(file), tensors | {"model.layers.0.mlp.experts.lora_a": mx.zeros((64, 3))})
    with pytest.raises(ModelError, match="of no projection of the base model: model.layers.0.mlp.experts.lora_a"):
        import_peft(adapter, base, tmp_path / "out")
    mx.save_safetensors(str(file), tensors)
    import_peft(adapter, base, tmp_path / "out")
    with pytest.raises(ModelError, match="is no adapter of PEFT or mlx-lm"):
        import_peft(tmp_path / "out", base, tmp_path / "again")
