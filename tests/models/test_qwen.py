"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL without torch: published configurations, what is refused, names, gates."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, golden, write_checkpoint
from families.qwen2_5_vl import PLAIN as QWEN2_5
from families.qwen2_vl import PLAIN as QWEN2
from families.qwen3_vl import PLAIN as QWEN3
from mlx.utils import tree_flatten
from safetensors.numpy import load_file, save_file
from support import relative

import rave_mlx
from rave_mlx.checkpoint.directory import BUILT_IN
from rave_mlx.config import GateConfig, VisionConfig
from rave_mlx.convert import convert
from rave_mlx.convert.families import detect
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError
from rave_mlx.generation.prefill import prefill
from rave_mlx.inputs.images.preprocess import fit_size
from rave_mlx.models.connectors import build_connector
from rave_mlx.models.decoder import Decoder
from rave_mlx.models.vision import build_tower
from rave_mlx.models.vision.windows import interpolation, plan_windows

IDS = {"image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652,
       "vision_end_token_id": 151653}  # fmt: skip
CLIP = {
    "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip
HALF = {
    "size": {"longest_edge": 16777216, "shortest_edge": 65536}, "patch_size": 16, "temporal_patch_size": 2,
    "merge_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip


def qwen2(kind, hidden, inner, layers, heads, groups, vocabulary, tied, vision, **more):
    """config.json as the checkpoints of Qwen2-VL and Qwen2.5-VL carry it."""
    return {
        "model_type": kind, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": groups, "vocab_size": vocabulary, "hidden_act": "silu",
        "bos_token_id": 151643, "eos_token_id": 151645, "max_window_layers": layers, "sliding_window": 32768,
        "use_sliding_window": False, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": tied,
        "max_position_embeddings": 32768, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vision_config": vision, **IDS, **more,
    }  # fmt: skip


def vision2_5(out):
    return {
        "depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
        "in_chans": 3, "out_hidden_size": out, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14,
        "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2, "temporal_patch_size": 2,
    }  # fmt: skip


def qwen3(hidden, inner, layers, heads, tied, depth, width, tower_inner, deep):
    """config.json as the checkpoints of Qwen3-VL carry it."""
    text = {
        "model_type": "qwen3_vl_text", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "bos_token_id": 151643,
        "eos_token_id": 151645, "max_position_embeddings": 262144, "rms_norm_eps": 1e-6, "rope_theta": 5000000,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
    }  # fmt: skip
    vision = {
        "model_type": "qwen3_vl", "depth": depth, "hidden_size": width, "intermediate_size": tower_inner,
        "num_heads": 16, "in_channels": 3, "hidden_act": "gelu_pytorch_tanh", "num_position_embeddings": 2304,
        "out_hidden_size": hidden, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "deepstack_visual_indexes": deep,
    }  # fmt: skip
    return {
        "model_type": "qwen3_vl", "text_config": text, "vision_config": vision, "tie_word_embeddings": tied, **IDS
    }  # fmt: skip


VISION2 = {
    "depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "in_chans": 3, "hidden_size": 1536,
    "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "temporal_patch_size": 2,
}  # fmt: skip
SMALL3 = (24, 1024, 4096, [5, 11, 17])
PUBLISHED = {
    "Qwen2-VL-2B": (qwen2("qwen2_vl", 1536, 8960, 28, 12, 2, 151936, True, VISION2), 2_208_985_600),
    "Qwen2.5-VL-3B": (qwen2("qwen2_5_vl", 2048, 11008, 36, 16, 2, 151936, True, vision2_5(2048)), 3_754_622_976),
    "Qwen2.5-VL-7B": (qwen2("qwen2_5_vl", 3584, 18944, 28, 28, 4, 152064, False, vision2_5(3584)), 8_292_166_656),
    "Qwen3-VL-2B": (qwen3(2048, 6144, 28, 16, True, *SMALL3), 2_127_532_032),
    "Qwen3-VL-4B": (qwen3(2560, 9728, 36, 32, True, *SMALL3), 4_437_815_808),
    "Qwen3-VL-8B": (qwen3(4096, 12288, 36, 32, False, 27, 1152, 4304, [8, 16, 24]), 8_767_123_696),
}
"""Configurations of published models, with their numbers of parameters as the Hub counts them."""


def read(config, processor):
    """The canonical configuration of a config.json and a preprocessor_config.json."""
    source = Source(path=BUILT_IN, config=config, generation={}, processor=processor, tensors={})
    return detect(config, "config.json").config(source)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(name):
    hub, parameters = PUBLISHED[name]
    modern = name.startswith("Qwen3")
    config = read(hub, HALF if modern else CLIP)
    text, vision, image = config.text, config.vision, config.image
    assert (text.num_layers, text.head_dim, text.qk_norm, text.qkv_bias) == (
        hub.get("text_config", hub)["num_hidden_layers"], 128, modern, not modern
    )  # fmt: skip
    assert (text.rope.sections, text.rope.interleaved) == (((24, 20, 20), True) if modern else ((16, 24, 24), False))
    assert text.rope.theta == (5e6 if modern else 1e6)
    assert text.sliding_window is None
    assert vision.depth == hub["vision_config"]["depth"]
    parts = [Decoder(config), build_tower(vision), build_connector(config.connector, vision)]
    assert sum(a.size for part in parts for _, a in tree_flatten(part.parameters())) == parameters
    # 1280 x 960: 46 x 34 cells of 28 pixels, 40 x 30 cells of 32 pixels.
    width, height = fit_size(1280, 960, image, 4096)
    assert width * height // image.cell**2 == (1200 if modern else 1564)
    assert (image.min_pixels, image.max_pixels) == ((65536, 16777216) if modern else (3136, 12845056))


@pytest.mark.parametrize("name", ["Qwen2-VL-2B", "Qwen2.5-VL-7B", "Qwen3-VL-8B"])
def test_what_equals_a_default_may_be_left_out(name):
    """transformers 4 leaves it out of nested sections when a fine-tuned model is saved."""
    hub, _ = PUBLISHED[name]
    processor = HALF if name.startswith("Qwen3") else CLIP
    expected = read(hub, processor)
    shared = {"depth", "hidden_act", "num_heads", "in_chans", "patch_size", "spatial_merge_size", "temporal_patch_size"}
    default = {
        "Qwen2-VL-2B": shared | {"embed_dim", "mlp_ratio"},
        "Qwen2.5-VL-7B": shared | {"intermediate_size", "window_size", "fullatt_block_indexes", "out_hidden_size"},
        "Qwen3-VL-8B": (
            shared | {"hidden_size", "intermediate_size", "num_position_embeddings", "deepstack_visual_indexes"}
        ),
    }[name]
    short = hub | {"vision_config": {k: v for k, v in hub["vision_config"].items() if k not in default}}
    if "text_config" in hub:
        dropped = {"hidden_size", "num_attention_heads", "head_dim", "vocab_size", "rms_norm_eps"}
        short["text_config"] = {k: v for k, v in hub["text_config"].items() if k not in dropped}
    assert read(short, processor) == expected


@pytest.mark.parametrize(
    ("case", "section", "change", "error"),
    [
        (QWEN2, "vision_config", {"hidden_act": "relu"}, "hidden_act 'relu' is not one of quick_gelu"),
        (QWEN2, "vision_config", {"hidden_size": 48}, "hidden_size 48 is not supported, only 64"),
        (QWEN2, "vision_config", {"in_channels": 1}, "in_channels 1"),
        (QWEN2, "vision_config", {"patch_size": 16}, "patch_size 8 is not supported, only 16"),
        (QWEN2, "vision_config", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
        (QWEN2, "text_config", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        (QWEN2_5, "vision_config", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        (QWEN2_5, "vision_config", {"out_hidden_size": 65}, "out_hidden_size 65"),
        (QWEN3, "vision_config", {"num_position_embeddings": 50}, "num_position_embeddings 50 is not the square"),
        (QWEN3, "vision_config", {"deepstack_visual_indexes": [2, 0]}, r"deepstack_visual_indexes \[2, 0\]"),
        (QWEN3, "vision_config", {"deepstack_visual_indexes": [0, 4]}, r"deepstack_visual_indexes \[0, 4\]"),
        (QWEN3, "text_config", {"rope_parameters": None}, "neither rope_parameters.rope_theta nor rope_theta"),
        (QWEN3, "text_config", {"use_sliding_window": True}, "use_sliding_window True"),
        (QWEN3, "text_config", {"attention_bias": True}, "attention_bias True"),
        (
            QWEN3, "text_config",
            {"rope_parameters": QWEN3.config["text_config"]["rope_parameters"] | {"mrope_interleaved": False}},
            "mrope_interleaved False",
        ),
    ],
)  # fmt: skip
def test_what_is_not_implemented_is_refused(case, section, change, error):
    config = case.config | {section: case.config[section] | change}
    with pytest.raises(ConfigError, match=error):
        read(config, case.processor)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"do_normalize": False}, "do_normalize False"),
        ({"do_rescale": False}, "do_rescale False"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
        ({"merge_size": 1}, "merge_size 1"),
        ({"resample": 0}, "resample 0 is not one of"),
    ],
)
def test_image_processing_that_is_not_implemented_is_refused(change, error):
    with pytest.raises(ConfigError, match=error):
        read(QWEN3.config, QWEN3.processor | change)


def test_a_checkpoint_without_image_processing_is_refused():
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json is missing"):
        read(QWEN3.config, {})


@pytest.mark.parametrize("case", [QWEN2, QWEN2_5, QWEN3], ids=lambda c: c.name)
def test_names_of_mlx_vlm(case, tmp_path):
    """Its prefixes; tensors otherwise as in the original checkpoint."""
    folder = write_checkpoint(case, tmp_path)
    tensors = load_file(folder / "model.safetensors")

    def renamed(name):
        if name.startswith("lm_head"):
            return f"language_model.{name}"
        return name.replace("model.visual.", "vision_tower.").replace("model.language_model.", "language_model.model.")

    save_file({renamed(n): t for n, t in tensors.items()}, folder / "model.safetensors")
    lmm = rave_mlx.load(folder)
    prompt = lmm.prepare(CONVERSATIONS["text"])
    expected = golden(case)[1]["text"]
    assert relative(lmm.logits(prompt)[0, -1], expected[-1]) <= 1e-5


def test_qwen2_5_without_windows(tmp_path):
    """window_size null is attention over the whole image in every layer, and a large enough window is the same."""
    found = []
    for index, window in enumerate((None, 1024)):
        vision = QWEN2_5.config["vision_config"] | {"window_size": window}
        case = replace(QWEN2_5, config=QWEN2_5.config | {"vision_config": vision})
        lmm = rave_mlx.load(write_checkpoint(case, tmp_path / str(index)))
        assert lmm.config.vision.window_size == window
        found.append(np.array(lmm.logits(lmm.prepare(CONVERSATIONS["odd size"]))))
    assert relative(*found) <= 1e-5
    windowed = rave_mlx.load(write_checkpoint(QWEN2_5, tmp_path / "windowed"))
    assert relative(windowed.logits(windowed.prepare(CONVERSATIONS["odd size"])), found[0]) > 1e-3


def test_learned_positions_are_stretched_over_the_image():
    """A square of 3 x 3 positions over 2 rows and 4 columns of patches; visual tokens are 2 x 2 patches."""
    config = VisionConfig(depth=1, hidden_size=8, intermediate_size=8, num_heads=2, patch_size=4, position_side=3)
    grid = (1, 2, 4)
    places, weights = interpolation(plan_windows(grid, config), grid, 3)
    # Rows of patches fall on rows 0 and 2; columns on 0, 2/3, 4/3 and 2.
    assert places[:4].tolist() == [[0, 1, 3, 4], [0, 1, 3, 4], [6, 7, 6, 7], [6, 7, 6, 7]]
    assert places[4:].tolist() == [[1, 2, 4, 5], [2, 2, 5, 5], [7, 8, 7, 8], [8, 8, 8, 8]]
    np.testing.assert_allclose(weights[0], [1, 0, 0, 0], atol=1e-7)
    np.testing.assert_allclose(weights[1], [1 / 3, 2 / 3, 0, 0], atol=1e-7)
    np.testing.assert_allclose(weights[6], [2 / 3, 1 / 3, 0, 0], atol=1e-7)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-7)


@pytest.mark.parametrize("squash", ["tanh", "identity"])
def test_gated_qwen3_computes_the_same_on_every_path(squash, tmp_path):
    """Gates read queries and keys after their norms; DeepStack changes the states between gated layers."""
    folder = write_checkpoint(QWEN3, tmp_path / "hf")
    gate = GateConfig(rank=3, kv_groups=(1,), layers=(0, 1, 3), squash=squash)
    convert(folder, tmp_path / "rave", gate=gate)
    lmm = rave_mlx.load(tmp_path / "rave")
    rng = np.random.default_rng(0)
    weights = {n: mx.array(rng.normal(0, 0.5, w.shape).astype(np.float32)) for n, w in lmm.named_weights().items()}
    lmm.load_weights([(n, w) for n, w in weights.items() if ".attention.gate." in n], strict=False)
    prompt = lmm.prepare(CONVERSATIONS["two images, two turns"])
    expected = lmm.logits(prompt, path="reference")
    assert relative(lmm.logits(prompt, gate=False), expected) > 1e-2
    for path in (None, "chunked", "train", *(["fold"] if squash == "identity" else [])):
        assert relative(lmm.logits(prompt, path=path), expected) <= 1e-5, path
    assert relative(prefill(lmm, prompt, lmm.make_cache(), chunk=7), expected[:, -1]) <= 1e-5
