"""One tile, and tiles of the best of a few sizes: which pixels, how many visual tokens, and in which order."""

from __future__ import annotations

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import picture

from rave_mlx.checkpoint.directory import BUILT_IN
from rave_mlx.config import MlpConnectorConfig, TileConfig
from rave_mlx.convert.families import FAMILIES
from rave_mlx.convert.source import Source
from rave_mlx.convert.tensor_names import modern_names
from rave_mlx.errors import ConfigError, ImageError
from rave_mlx.inputs.images.patches import Region, normalised
from rave_mlx.inputs.images.tiling import cut_tiles
from rave_mlx.inputs.images.tiling.pinpoint_grid import best_size, fit_inside
from rave_mlx.inputs.images.tiling.unpad import unpad, visual_tokens
from rave_mlx.models.connectors.mlp import MlpConnector, scale_features

NEXT_SIZES = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
SIDES = (384, 768, 1152, 1536, 1920, 2304)
ONEVISION_SIZES = [[height, width] for height in SIDES for width in SIDES]
CLIP = {
    "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "model_type": "clip_vision_model",
    "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768, "vocab_size": 32000,
}  # fmt: skip
SIGLIP = {
    "hidden_size": 1152, "image_size": 384, "intermediate_size": 4304, "model_type": "siglip_vision_model",
    "num_attention_heads": 16, "num_hidden_layers": 26, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
STEPS = {"do_normalize": True, "do_rescale": True, "do_resize": True, "resample": 3, "rescale_factor": 1 / 255}
CLIP_STEPS = STEPS | {
    "crop_size": {"height": 336, "width": 336}, "do_center_crop": True, "size": {"shortest_edge": 336},
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip
REAL = {
    "llava-1.5-7b-hf": (
        {
            "architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100, "image_token_index": 32000,
            "model_type": "llava", "pad_token_id": 32001, "projector_hidden_act": "gelu",
            "text_config": {
                "_name_or_path": "lmsys/vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"],
                "max_position_embeddings": 4096, "model_type": "llama", "rms_norm_eps": 1e-05,
                "torch_dtype": "float16", "vocab_size": 32064,
            },
            "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.36.0.dev0",
            "vision_config": CLIP, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
            "vocab_size": 32064,
        },
        CLIP_STEPS | {"image_processor_type": "CLIPImageProcessor"},
    ),
    "llava-v1.6-mistral-7b-hf": (
        {
            "architectures": ["LlavaNextForConditionalGeneration"], "ignore_index": -100,
            "image_grid_pinpoints": NEXT_SIZES, "image_token_index": 32000, "model_type": "llava_next",
            "projector_hidden_act": "gelu",
            "text_config": {
                "_name_or_path": "mistralai/Mistral-7B-Instruct-v0.2", "architectures": ["MistralForCausalLM"],
                "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
                "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None,
                "torch_dtype": "bfloat16", "vocab_size": 32064,
            },
            "tie_word_embeddings": False, "torch_dtype": "float16", "use_image_newline_parameter": True,
            "vision_config": CLIP, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
        },
        CLIP_STEPS
        | {
            "aspect_ratio_setting": "anyres", "image_grid_pinpoints": NEXT_SIZES,
            "image_processor_type": "LlavaNextImageProcessor",
        },
    ),
    "llava-onevision-qwen2-0.5b-ov-hf": (
        {
            "architectures": ["LlavaOnevisionForConditionalGeneration"], "ignore_index": -100,
            "image_grid_pinpoints": ONEVISION_SIZES, "image_token_index": 151646, "model_type": "llava_onevision",
            "projector_hidden_act": "gelu",
            "text_config": {
                "_name_or_path": "Qwen/Qwen2-0.5B-Instruct", "architectures": ["Qwen2ForCausalLM"],
                "bos_token_id": 151643, "eos_token_id": 151645, "hidden_size": 896, "intermediate_size": 4864,
                "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24,
                "num_key_value_heads": 2, "rope_theta": 1000000.0, "sliding_window": 32768,
                "tie_word_embeddings": True, "torch_dtype": "bfloat16", "vocab_size": 152000,
            },
            "tie_word_embeddings": False, "torch_dtype": "float16", "use_image_newline_parameter": True,
            "video_token_index": 151647, "vision_aspect_ratio": "anyres_max_9", "vision_config": SIGLIP,
            "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
        },
        STEPS
        | {
            "do_convert_rgb": True, "do_pad": True, "image_grid_pinpoints": ONEVISION_SIZES,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"height": 384, "width": 384},
            "image_processor_type": "LlavaOnevisionImageProcessor",
        },
    ),
}  # fmt: skip
"""Configurations as published, written by transformers 4, and those of their image processors."""


def read(name, processor=None, folder=BUILT_IN, **changes):
    """The canonical configuration of a published one, with changes; `folder` has the tokenizer's files."""
    config, settings_ = REAL[name]
    source = Source(folder, config | changes, {}, settings_ if processor is None else processor, {})
    return FAMILIES[config["model_type"]].config(source)


LLAVA, NEXT, ONEVISION = (read(name).image for name in REAL)
SMALL = replace(NEXT, tile_size=28, tile_tokens=4, pinpoints=tuple((h // 12, w // 12) for h, w in NEXT_SIZES))
A4 = Image.new("RGB", (1654, 2339))


def test_llava_reads_the_sizes_that_its_configuration_leaves_out(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"id": 1, "content": "<s>"}]}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}))
    lmm = read("llava-1.5-7b-hf", folder=tmp_path)
    text = lmm.text
    assert (text.hidden_size, text.num_layers, text.num_heads, text.num_kv_heads) == (4096, 32, 32, 32)
    assert (text.intermediate_size, text.max_positions, text.rope.theta) == (11008, 4096, 10000.0)
    assert (text.norm_eps, text.qkv_bias, text.tie_embeddings, text.sliding_window) == (1e-5, False, False, None)
    assert (lmm.tokens.image, lmm.tokens.stop, lmm.tokens.bos) == (32000, (2,), 1)
    tower = lmm.vision
    assert (tower.depth, tower.feature_layers, tower.keep_class_token) == (24, (23,), False)
    assert (tower.activation, tower.norm_eps, tower.pre_norm, tower.patch_bias) == ("quick_gelu", 1e-5, True, False)
    assert (lmm.image.plan, lmm.image.fit) == ("single", "crop")


def test_llava_next_reads_the_sizes_that_its_configuration_leaves_out():
    text = read("llava-v1.6-mistral-7b-hf").text
    assert (text.hidden_size, text.num_kv_heads, text.head_dim, text.rope.theta) == (4096, 8, 128, 1e6)
    assert (text.sliding_window, text.max_positions) == (None, 32768)


def test_llava_onevision_reads_the_sizes_that_its_configuration_leaves_out():
    lmm = read("llava-onevision-qwen2-0.5b-ov-hf")
    assert (lmm.text.max_positions, lmm.text.sliding_window, lmm.text.norm_eps) == (32768, None, 1e-6)
    assert lmm.text.qkv_bias and lmm.text.tie_embeddings
    assert (lmm.vision.feature_layers, lmm.vision.activation, lmm.vision.class_token) == ((26,), "gelu_tanh", False)
    assert (lmm.image.max_features, lmm.image.tile_tokens, len(lmm.image.pinpoints)) == (9, 729, 36)
    large = {
        "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4, "num_hidden_layers": 28,
        "intermediate_size": 18944, "model_type": "qwen2", "eos_token_id": 151645, "vocab_size": 152000,
    }  # fmt: skip
    lmm = read("llava-onevision-qwen2-0.5b-ov-hf", text_config=large)
    assert (lmm.text.head_dim, lmm.connector.output_size, lmm.text.tie_embeddings) == (128, 3584, False)


def test_a_page_takes_the_tokens_that_transformers_gives_it():
    assert cut_tiles(A4, LLAVA).tokens == 576
    assert cut_tiles(A4, NEXT).tokens == 576 + 48 * 35
    assert cut_tiles(Image.new("RGB", (800, 800)), NEXT).tokens == 2928
    assert cut_tiles(Image.new("RGB", (384, 384)), ONEVISION).tokens == 729 + 27 * 28
    page = cut_tiles(A4, ONEVISION, 100_000)
    assert page.arrangement == (6, 5) and page.grid == (31, 27, 27)
    assert page.tokens == 729 + 96 * 69


def test_a_page_of_onevision_stays_in_the_default_budget():
    page = cut_tiles(A4, ONEVISION)
    assert page.tokens <= 3840
    assert page.arrangement == (2, 2)


@pytest.mark.parametrize(
    ("size", "best"),
    [((1654, 2339), (672, 672)), ((1500, 90), (336, 1008)), ((90, 1500), (1008, 336)), ((672, 336), (336, 672)),
     ((5, 3), (336, 672)), ((336, 336), (336, 672)), ((400, 300), (336, 672)), ((700, 600), (672, 672))],
)  # fmt: skip
def test_the_best_size(size, best):
    assert best_size(size, [tuple(s) for s in NEXT_SIZES]) == best


def test_an_image_touches_the_borders_it_is_fitted_into():
    assert fit_inside((1654, 2339), (672, 672)) == (476, 672)
    assert fit_inside((1500, 90), (336, 1008)) == (1008, 61)
    assert fit_inside((2000, 1), (336, 1008)) == (1008, 1)


def test_the_region_without_padding():
    assert unpad((2, 2), NEXT, (1654, 2339)) == Region(0, 7, 48, 34, 48, 34)
    assert unpad((1, 3), NEXT, (1500, 90)) == Region(10, 0, 4, 72, 4, 72)
    assert unpad((1, 3), NEXT, (2000, 1)) == Region(12, 0, 0, 72, 0, 72)
    assert unpad((6, 6), ONEVISION, (2304, 2304)) == Region(0, 0, 162, 162, 81, 81)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(5, 30))
def test_a_budget_is_kept_and_used(width, height, budget):
    found = cut_tiles(Image.new("RGB", (width, height)), SMALL, budget)
    regions = [unpad((h // 28, w // 28), SMALL, (width, height)) for h, w in SMALL.pinpoints]
    assert found.tokens <= budget
    assert (found.region is None) == all(visual_tokens(SMALL, region) > budget for region in regions)


def test_a_budget_leaves_out_only_the_sizes_that_exceed_it():
    needed = {tuple(s): visual_tokens(NEXT, unpad((s[0] // 336, s[1] // 336), NEXT, A4.size)) for s in NEXT_SIZES}
    assert needed[672, 672] == 2256
    assert cut_tiles(A4, NEXT, 2256).arrangement == (2, 2)
    smaller = cut_tiles(A4, NEXT, 2255)
    assert smaller.arrangement != (2, 2) and smaller.tokens == needed[672, 336]
    alone = cut_tiles(A4, NEXT, min(needed.values()) - 1)
    assert (alone.grid[0], alone.region, alone.tokens) == (1, None, 577)


@pytest.mark.parametrize(("config", "least"), [(LLAVA, 576), (NEXT, 577), (ONEVISION, 730)])
def test_a_budget_below_a_tile_is_refused(config, least):
    assert cut_tiles(A4, config, least).tokens == least
    with pytest.raises(ImageError, match=rf"a budget of {least - 1} tokens: this model needs at least {least}"):
        cut_tiles(A4, config, least - 1)


def test_tiles_are_read_row_by_row_after_the_whole_image():
    """A picture whose four quarters have one level each: no resampling can blur the tiles' middles."""
    levels = np.repeat(np.repeat(np.array([[10, 60], [120, 250]], np.uint8), 28, 0), 28, 1)
    config = TileConfig(28, 14, 4, plan="pinpoints", pinpoints=((56, 56),), mean=(0.0,) * 3, std=(1.0,) * 3)
    patches = cut_tiles(Image.fromarray(np.stack([levels] * 3, -1)), config)
    assert patches.grid == (5, 2, 2) and patches.region == Region(0, 0, 4, 4, 4, 4)
    middles = np.rint(patches.pixels.reshape(5, 4, 3, 14, 14)[1:, :, :, 7, 7] * 255)
    assert (middles == np.array([10, 60, 120, 250])[:, None, None]).all()


def test_padding_is_black_and_the_crop_is_the_middle():
    white = Image.new("RGB", (56, 14), "white")
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    config = TileConfig(28, 14, 4, plan="pinpoints", pinpoints=((28, 28),), **plain)
    rows = cut_tiles(white, config).pixels.reshape(2, 2, 2, 3, 14, 14)[1, :, 0, 0, :, 0].reshape(-1)
    assert (rows == [0] * 10 + [1] * 7 + [0] * 11).all()
    ramp = Image.fromarray(np.tile(np.arange(56, dtype=np.uint8)[None, :, None], (28, 1, 3)))
    shown = cut_tiles(ramp, TileConfig(28, 14, 4, fit="crop", **plain)).pixels.reshape(2, 2, 3, 14, 14)
    assert np.rint(shown[0, 0, 0, 0, 0] * 255) == 14 and np.rint(shown[1, 1, 2, 13, 13] * 255) == 41
    padded = cut_tiles(white, TileConfig(28, 14, 4, fit="pad", mean=(0.2, 0.4, 0.6), std=(1.0,) * 3)).pixels
    corner = padded.reshape(2, 2, 3, 14, 14)[0, 0, :, 0, 0]
    assert np.abs(corner - (np.array([51, 102, 153]) / 255 - [0.2, 0.4, 0.6])).max() <= 1e-6


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_strip_that_cannot_be_made_square_is_refused(fit):
    config = TileConfig(28, 14, 4, fit=fit)
    assert cut_tiles(Image.new("RGB", (400, 2)), config).tokens == 4
    with pytest.raises(ImageError, match="403 x 2 pixels is too narrow"):
        cut_tiles(Image.new("RGB", (403, 2)), config)


def test_the_digest_tells_images_and_settings_apart():
    config, image = SMALL, picture(60, 40)
    same = cut_tiles(image, config).digest
    assert same == cut_tiles(image.copy(), config).digest
    others = {
        cut_tiles(picture(60, 40, 1), config).digest,
        cut_tiles(image, replace(config, max_features=1)).digest,
        cut_tiles(image, config, 7).digest,
        cut_tiles(Image.new("RGB", (61, 40)), config).digest,
        cut_tiles(Image.new("RGB", (60, 40)), config).digest,
    }
    assert len(others) == 5 and same not in others


@pytest.mark.parametrize("max_features", [None, 1])
@pytest.mark.parametrize("size", [(90, 31), (31, 90), (400, 1), (50, 50)])
def test_the_connector_lays_features_out_by_hand(size, max_features):
    """Against loops in float64: the whole image, then each row of the region followed by the newline."""
    config = replace(NEXT, tile_size=42, pinpoints=((42, 84), (84, 42), (84, 84)), tile_tokens=9,
                     max_features=max_features)  # fmt: skip
    image = cut_tiles(picture(*size), config)
    rng = np.random.default_rng(0)
    connector = MlpConnector(MlpConnectorConfig(6, 5, 5, newline=True, activation="silu"))
    shapes = {"fc1.weight": (5, 6), "fc1.bias": (5,), "fc2.weight": (5, 5), "fc2.bias": (5,), "newline": (5,)}
    weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    connector.load_weights([(n, mx.array(w.astype(np.float32))) for n, w in weights.items()], strict=True)
    features = rng.normal(size=(image.grid[0], 9, 6))
    found = np.array(connector(mx.array(features.astype(np.float32)), image))

    hidden = features @ weights["fc1.weight"].T + weights["fc1.bias"]
    made = hidden / (1 + np.exp(-hidden)) @ weights["fc2.weight"].T + weights["fc2.bias"]
    region, (_, columns) = image.region, image.arrangement
    grid = np.empty((region.height, region.width, 5))
    for row in range(region.height):
        for column in range(region.width):
            down, across = row + region.top, column + region.left
            grid[row, column] = made[1 + down // 3 * columns + across // 3, down % 3 * 3 + across % 3]
    grid = np.array(scale_features(mx.array(grid.astype(np.float32)), region.rows, region.columns))
    lines = [token for row in grid for token in (*row, weights["newline"])]
    expected = np.array([*made[0], *lines])
    assert found.shape == expected.shape == (image.tokens, 5)
    assert np.abs(found - expected).max() <= 1e-5


def test_scaled_features_are_those_between():
    ramp = mx.arange(8, dtype=mx.float32).reshape(8, 1, 1)
    assert np.array(scale_features(ramp, 4, 1)).ravel().tolist() == [0.5, 2.5, 4.5, 6.5]
    assert np.allclose(np.array(scale_features(ramp, 3, 1)).ravel(), [5 / 6, 3.5, 37 / 6], atol=1e-6)


def test_levels_are_normalised_per_channel():
    table = normalised(LLAVA)
    assert np.abs(table[:, 0] - [-1.7922626, -1.7520971, -1.4802198]).max() <= 1e-6
    assert np.abs(table[:, 255] - [1.9303361, 2.0748837, 2.1458968]).max() <= 1e-6


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llava-1.5-7b-hf", {"vision_feature_layer": -26}, "a tower of 24 layers has 25 states"),
        ("llava-1.5-7b-hf", {"vision_feature_layer": []}, "vision_feature_layer"),
        ("llava-1.5-7b-hf", {"vision_config": SIGLIP}, "'default' drops the class token, and this tower has none"),
        ("llava-1.5-7b-hf", {"vision_config": CLIP | {"model_type": "vit"}}, "model_type 'vit' is not supported"),
        ("llava-1.5-7b-hf", {"text_config": {"model_type": "opt"}}, "model_type 'opt' is not supported, only llama"),
        ("llava-1.5-7b-hf", {"projector_hidden_act": "relu"}, "projector_hidden_act 'relu'"),
        ("llava-1.5-7b-hf", {"vision_config": CLIP | {"image_size": 224}}, "only the tower's 224 pixels"),
        ("llava-v1.6-mistral-7b-hf", {"vision_feature_select_strategy": "full"}, "leaves no square"),
        ("llava-v1.6-mistral-7b-hf", {"image_grid_pinpoints": [[336, 672]]}, "image_grid_pinpoints differ"),
        ("llava-onevision-qwen2-0.5b-ov-hf", {"vision_aspect_ratio": "square"}, "vision_aspect_ratio 'square'"),
    ],
)
def test_what_is_not_implemented_is_refused(name, changes, message):
    with pytest.raises(ConfigError, match=message):
        read(name, **changes)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"do_resize": False}, "do_resize"),
        ({"rescale_factor": 1.0}, "rescale_factor"),
        ({"do_center_crop": False}, "leaves images that are no square"),
        ({"size": {"shortest_edge": 384}}, "only the tower's 336 pixels"),
        ({"crop_size": {"height": 336, "width": 224}}, "crop_size"),
        ({"resample": 0}, "resample"),
    ],
)
def test_processors_that_do_otherwise_are_refused(settings_, message):
    with pytest.raises(ConfigError, match=message):
        read("llava-1.5-7b-hf", processor=CLIP_STEPS | settings_)


def test_the_oldest_processors_gave_sizes_as_numbers():
    image = read("llava-1.5-7b-hf", processor=CLIP_STEPS | {"size": 336, "crop_size": 336}).image
    assert image == LLAVA
    assert read("llava-1.5-7b-hf", processor={}).image == LLAVA


@pytest.mark.parametrize(
    ("name", "modern"),
    [
        ("language_model.model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("vision_tower.vision_model.pre_layrnorm.bias", "model.vision_tower.pre_layrnorm.bias"),
        ("model.vision_tower.vision_model.post_layernorm.bias", "model.vision_tower.post_layernorm.bias"),
        ("model.vision_tower.encoder.layers.1.mlp.fc1.bias", "model.vision_tower.encoder.layers.1.mlp.fc1.bias"),
        ("multi_modal_projector.linear_1.bias", "model.multi_modal_projector.linear_1.bias"),
        ("image_newline", "model.image_newline"),
    ],
)
def test_names_of_every_era(name, modern):
    family = FAMILIES["llava_next"]
    assert family.modern(name) == modern and not family.ignores(modern)


@pytest.mark.parametrize("name", ["embeddings.position_ids", "head.probe", "head.attention.in_proj_weight"])
def test_buffers_and_the_pooling_head_are_no_weights(name):
    config, _ = REAL["llava-onevision-qwen2-0.5b-ov-hf"]
    tensors = {n: mx.zeros(1) for n in ("language_model.model.norm.weight", f"vision_tower.vision_model.{name}")}
    source = Source(BUILT_IN, config, {}, {}, tensors)
    found = modern_names(source, FAMILIES["llava_onevision"], read("llava-onevision-qwen2-0.5b-ov-hf"))
    assert found == {"model.language_model.norm.weight": "language_model.model.norm.weight"}
