"""Language models without a vision tower: what their configurations say, and what is refused."""

from __future__ import annotations

import json

import pytest
from families import cases, write_checkpoint
from support import ask, picture

import rave_mlx
from rave_mlx.convert import convert
from rave_mlx.convert.families.text import read_text
from rave_mlx.convert.keys import Keys
from rave_mlx.errors import ConfigError, ModelError, PromptError

SIZES = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip


def read(kind, **changes):
    keys = Keys({**SIZES, **changes}, "config.json")
    return read_text(keys, keys, kind)


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(cases()["phi3"], tmp_path / "hf")


def test_a_configuration_of_few_keys():
    """Old files: Llama 2's has no rotary base, the first Llama's no number of key heads."""
    text = read("llama")
    assert (text.rope.theta, text.num_kv_heads, text.head_dim, text.norm_eps) == (10000.0, 4, 8, 1e-6)
    assert (read("qwen3").head_dim, read("phi3").norm_eps) == (128, 1e-5)
    assert (text.sliding_window, text.qkv_bias, text.qk_norm, text.tie_embeddings) == (None, False, False, False)


def test_biases_and_norms_of_each_kind():
    assert [read(kind).qkv_bias for kind in ("llama", "mistral", "qwen2", "qwen3", "phi3")] == [0, 0, 1, 0, 0]
    assert [read(kind).qk_norm for kind in ("llama", "mistral", "qwen2", "qwen3", "phi3")] == [0, 0, 0, 1, 0]


def test_the_context_that_a_scaling_reaches():
    assert read("llama", rope_scaling={"type": "dynamic", "factor": 4.0}).max_positions == 256
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    assert read("qwen2", rope_scaling=scaling).max_positions == 256


MIXED = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]


@pytest.mark.parametrize(
    ("kind", "keys", "window", "layers"),
    [
        ("mistral", {"sliding_window": 8}, 8, "all"),
        ("mistral", {"sliding_window": None}, None, "all"),
        ("phi3", {"sliding_window": 8, "layer_types": ["sliding_attention"] * 4}, 8, "all"),
        ("qwen2", {"sliding_window": 8}, None, "all"),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": False, "max_window_layers": 2}, None, "all"),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": True}, None, "all"),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 3}, 8, (3,)),
        ("qwen3", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 0}, 8, "all"),
        ("qwen3", {"sliding_window": 8, "use_sliding_window": True, "layer_types": MIXED}, 8, (1, 3)),
        ("qwen2", {"sliding_window": None, "layer_types": ["full_attention"] * 4}, None, "all"),
    ],
)
def test_which_layers_slide(kind, keys, window, layers):
    text = read(kind, **keys)
    assert (text.sliding_window, text.sliding_layers) == (window, layers)


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        ("llama", {"attention_bias": True}, "attention_bias True is not supported"),
        ("llama", {"mlp_bias": True}, "mlp_bias True is not supported"),
        ("qwen3", {"attention_bias": True}, "attention_bias True is not supported"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("phi3", {"partial_rotary_factor": 0.75}, "partial_rotary_factor 0.75"),
        ("llama", {"sliding_window": 8}, "model type 'llama', which has none"),
        ("mistral", {"sliding_window": 8, "layer_types": MIXED}, "leaves layers without a window"),
        ("mistral", {"sliding_window": 8, "layer_types": ["full_attention"] * 4}, "leaves layers without a window"),
        ("qwen2", {"layer_types": MIXED}, "no sliding_window is in use"),
        ("qwen2", {"layer_types": ["full_attention"] * 3}, "for 4 layers"),
        ("qwen3", {"layer_types": ["linear_attention"] * 4}, "must name full_attention or sliding_attention"),
    ],
)
def test_what_the_decoder_does_not_do_is_refused(kind, keys, message):
    with pytest.raises(ConfigError, match=message):
        read(kind, **keys)


def test_images_are_refused(checkpoint):
    with pytest.raises(PromptError, match="reads text only"):
        rave_mlx.load(checkpoint).prepare([ask("What?", picture())])


def test_a_base_model_says_what_to_take_instead(checkpoint, tmp_path):
    (checkpoint / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template .* take its chat or instruct version"):
        convert(checkpoint, tmp_path / "rave")
    assert not (tmp_path / "rave").exists()


def test_rotary_buffers_of_old_checkpoints_are_left_out(tmp_path):
    import mlx.core as mx

    folder = write_checkpoint(cases()["llama"], tmp_path / "hf")
    extra = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": mx.ones((8,)) for i in range(3)}
    mx.save_safetensors(str(folder / "more.safetensors"), extra)
    rave_mlx.load(folder)
    mx.save_safetensors(str(folder / "more.safetensors"), {"score.weight": mx.ones((2, 64))})
    with pytest.raises(ModelError, match=r"unexpected: score\.weight"):
        rave_mlx.load(folder)


def test_a_fused_matrix_of_the_wrong_size_is_named(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 4}))
    with pytest.raises(ModelError, match=r"qkv_proj\.weight \[128, 64\] instead of \[192, 64\]"):
        rave_mlx.load(checkpoint)
