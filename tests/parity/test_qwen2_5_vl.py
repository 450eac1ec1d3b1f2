"""Logits against transformers' Qwen2.5-VL, for random checkpoints that transformers itself wrote."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
from support import ask, form, picture, relative

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import rave_mlx  # noqa: E402
from rave_mlx import convert  # noqa: E402
from rave_mlx.config import GateConfig  # noqa: E402
from rave_mlx.convert.export import export  # noqa: E402
from rave_mlx.loading import BUILT_IN  # noqa: E402

TOKENS = {"image_token_id": 6, "video_token_id": 7, "vision_start_token_id": 3, "vision_end_token_id": 4}
IMAGE_CONFIG = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": 256, "max_pixels": 1 << 18,
                "image_mean": [0.4, 0.5, 0.6], "image_std": [0.3, 0.25, 0.2]}  # fmt: skip


def hf_config(**text):
    values = {
        "vocab_size": 272, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "mrope_section": [2, 2, 4]},
        "tie_word_embeddings": False,
    } | text  # fmt: skip
    vision = {
        "depth": 4, "hidden_size": 48, "intermediate_size": 64, "num_heads": 3, "patch_size": 8, "window_size": 64,
        "fullatt_block_indexes": [1, 3], "out_hidden_size": values["hidden_size"], "hidden_act": "silu",
    }  # fmt: skip
    return transformers.Qwen2_5_VLConfig(
        text_config=values, vision_config=vision, tie_word_embeddings=values["tie_word_embeddings"], **TOKENS
    )


def write_checkpoint(folder, seed=0, dtype=None, **text):
    """A random checkpoint as `save_pretrained` writes it, beside the built-in model's tokenizer."""
    torch.manual_seed(seed)
    model = transformers.Qwen2_5_VLForConditionalGeneration(hf_config(**text)).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name or "ln_q" in name:
                p.uniform_(0.5, 1.5)
            elif p.dim() == 1:
                p.normal_(0, 0.3)
            else:
                p.normal_(0, 1.2 * p[0].numel() ** -0.5)
    model.save_pretrained(folder)
    add_tokenizer(folder)
    return model


def add_tokenizer(folder):
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGE_CONFIG))
    for name in ("tokenizer.json", "chat_template.jinja"):
        (folder / name).write_bytes((BUILT_IN / name).read_bytes())


@torch.no_grad()
def hf_logits(model, prompt):
    ids = torch.tensor(prompt.ids.astype(np.int64))
    images = {}
    if prompt.images:
        images = {
            "pixel_values": torch.tensor(prompt.pixels),
            "image_grid_thw": torch.tensor([i.grid for i in prompt.images]),
            "mm_token_type_ids": (ids == TOKENS["image_token_id"]).long(),
        }
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), **images).logits.numpy()


CONVERSATIONS = {
    "text": [{"role": "user", "content": "How are you?"}],
    "one image": [ask("What is the total?", picture(200, 120))],
    "odd size": [ask("Read.", picture(333, 77))],
    "two images, two turns": [
        ask("Compare.", picture(64, 160, 1), picture(97, 33, 2)),
        {"role": "assistant", "content": "They differ."},
        ask("How?", picture(48, 48, 3)),
    ],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("text", [{}, {"tie_word_embeddings": True, "num_key_value_heads": 4}], ids=["gqa", "tied"])
def test_logits_equal_transformers(tmp_path, name, text):
    model = write_checkpoint(tmp_path / "hf", **text)
    lmm = rave_mlx.load(tmp_path / "hf")
    prompt = lmm.prepare(CONVERSATIONS[name])
    assert relative(lmm.logits(prompt), hf_logits(model, prompt)) <= 1e-5


def test_a_rave_directory_gives_the_same_logits_as_the_checkpoint(tmp_path):
    write_checkpoint(tmp_path / "hf")
    convert.convert(tmp_path / "hf", tmp_path / "rave")
    direct, converted = rave_mlx.load(tmp_path / "hf"), rave_mlx.load(tmp_path / "rave")
    prompt = direct.prepare(CONVERSATIONS["one image"])
    assert (np.array(direct.logits(prompt)) == np.array(converted.logits(prompt))).all()


def modern(name):
    if name.startswith("model."):
        return "model.language_model." + name.removeprefix("model.")
    return f"model.{name}" if name.startswith("visual.") else name


@pytest.mark.parametrize("rename", [str, modern], ids=["old names", "nested names"])
@pytest.mark.parametrize("flat", [True, False], ids=["flat config", "nested config"])
def test_both_eras_of_names_and_configurations_open(tmp_path, rename, flat):
    """Flat keys with `rope_theta` and `rope_scaling` (transformers 4), with and without name prefixes."""
    from safetensors.torch import load_file, save_file

    model = write_checkpoint(tmp_path / "new")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    if flat:
        text = config.pop("text_config")
        rope = text.pop("rope_parameters")
        text.pop("model_type")
        scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
        config = {**text, **config, "rope_theta": rope["rope_theta"], "rope_scaling": scaling}
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config))
    add_tokenizer(other)
    tensors = load_file(tmp_path / "new" / "model.safetensors")
    save_file({rename(n): t for n, t in tensors.items()}, other / "model.safetensors")
    lmm = rave_mlx.load(other)
    assert lmm.config.text.rope.theta == 5000.0
    prompt = lmm.prepare(CONVERSATIONS["two images, two turns"])
    assert relative(lmm.logits(prompt), hf_logits(model, prompt)) <= 1e-5


def test_the_built_in_model_equals_transformers(tmp_path):
    """The package's own weights, exported to the Hub's layout and run by transformers, gates off."""
    export(BUILT_IN, tmp_path / "hf")
    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    lmm = rave_mlx.load()
    for size in ((256, 128), (300, 211), (64, 64)):
        prompt = lmm.prepare([ask("What is the Total?", form(["Order: A-17", "Total: $48.20"], size))])
        assert relative(lmm.logits(prompt, gate=False), hf_logits(model, prompt)) <= 1e-5


def test_export_and_reload_keep_gates_and_logits(tmp_path):
    write_checkpoint(tmp_path / "first")
    convert.convert(tmp_path / "first", tmp_path / "rave", gate=GateConfig(rank=3, kv_groups=(1,)))
    lmm = rave_mlx.load(tmp_path / "rave")
    rng = np.random.default_rng(0)
    weights = {
        name: mx.array(rng.normal(0, 0.5, w.shape).astype(np.float32)) if ".gate." in name and "mlp" not in name else w
        for name, w in lmm.named_weights().items()
    }
    lmm.load_weights(list(weights.items()))
    mx.save_safetensors(str(tmp_path / "rave" / "model.safetensors"), weights)
    export(tmp_path / "rave", tmp_path / "again")
    again = rave_mlx.load(tmp_path / "again")
    assert again.config == lmm.config
    prompt = lmm.prepare([ask("Read.", picture())])
    assert (np.array(again.logits(prompt)) == np.array(lmm.logits(prompt))).all()
    assert relative(lmm.logits(prompt, gate=False), lmm.logits(prompt)) > 1e-3


def test_greedy_generation_equals_transformers(tmp_path):
    model = write_checkpoint(tmp_path / "hf", seed=3)
    lmm = rave_mlx.load(tmp_path / "hf")
    messages = [ask("Say something.", picture(120, 90))]
    prompt = lmm.prepare(messages)
    ids = torch.tensor(prompt.ids.astype(np.int64))
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=(ids == 6).long(),
            pixel_values=torch.tensor(prompt.pixels), image_grid_thw=torch.tensor([i.grid for i in prompt.images]),
            max_new_tokens=24, do_sample=False,
        )  # fmt: skip
    expected = out[0, ids.shape[1] :].tolist()
    assert [p.token for p in rave_mlx.stream(lmm, messages, max_tokens=24)] == expected
