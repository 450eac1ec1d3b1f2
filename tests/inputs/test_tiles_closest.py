"""The plan "closest": arrangements, budgets, order of tiles; real configurations of InternVL; pixel shuffle."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from support import picture

from rave_mlx.checkpoint.directory import BUILT_IN, TOKENIZER
from rave_mlx.config import TileConfig
from rave_mlx.convert.families import detect
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError, ModelError
from rave_mlx.inputs.images.tiling import cut_tiles
from rave_mlx.inputs.images.tiling.closest_grid import arrange, arrangements, closest
from rave_mlx.models.connectors.shuffle import shuffle


def config(tile=28, *, least=1, most=12):
    return TileConfig(
        tile_size=tile, patch_size=7, tile_tokens=4, plan="closest", min_tiles=least, max_tiles=most, markers="tags"
    )


def test_arrangements_are_sorted_by_count_then_width():
    assert arrangements(1, 4) == ((1, 1), (2, 1), (1, 2), (3, 1), (1, 3), (4, 1), (2, 2), (1, 4))
    assert arrangements(3, 4) == ((3, 1), (1, 3), (4, 1), (2, 2), (1, 4))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((2480, 3508), (3, 2)),  # 0.707 is closer to 2/3 than to 3/4
        ((448, 448), (1, 1)),  # not more than half of 2 x 2 tiles
        ((634, 634), (2, 2)),  # 401,956 pixels are more than half of 2 x 2 tiles, 401,408
        ((633, 633), (1, 1)),
        ((4000, 4000), (3, 3)),
        ((10, 1000), (12, 1)),
        ((1000, 10), (1, 12)),
    ],
)
def test_the_aspect_closest_to_the_image(size, expected):
    assert arrange(*size, 448, 1, 12) == expected


def test_tiles_stand_in_reading_order_before_the_whole_image():
    image = picture(84, 56)
    tiling = closest(image, config(), 1000)
    assert (tiling.rows, tiling.columns) == (2, 3)
    levels = np.asarray(image)
    for index, tile in enumerate(tiling.levels[:-1]):
        row, column = divmod(index, 3)
        np.testing.assert_array_equal(tile, levels[28 * row : 28 * row + 28, 28 * column : 28 * column + 28])
    np.testing.assert_array_equal(tiling.levels[-1], np.asarray(image.resize((28, 28), 3)))
    assert cut_tiles(image, config()).layout == ("<img>", 28, "</img>")


def test_one_tile_is_the_whole_image():
    image = picture(30, 29)
    assert cut_tiles(image, config()).layout == ("<img>", 4, "</img>")
    np.testing.assert_array_equal(closest(image, config(), 1000).levels, np.asarray(image.resize((28, 28), 3))[None])


@pytest.mark.parametrize("size", [(248, 350), (7, 5), (300, 20), (1, 90), (333, 333)])
@pytest.mark.parametrize("least", [1, 3])
def test_every_budget_is_kept(size, least):
    for budget in range(4, 60):
        tiles = cut_tiles(picture(*size), config(least=least), budget)
        assert tiles.tokens == 4 * tiles.grid[0] <= budget
    assert tiles.tokens == cut_tiles(picture(*size), config(least=least), 1000).tokens


def test_a_budget_lowers_the_number_of_tiles():
    image = picture(84, 56)
    assert cut_tiles(image, config(), 7 * 4).arrangement == (2, 3)
    # 1.5 is as close to 1 / 1 as to 2 / 1 and 2 / 2, and 84 x 56 pixels are more than half of four tiles
    assert cut_tiles(image, config(), 7 * 4 - 1).arrangement == (2, 2)
    assert cut_tiles(image, config(), 5 * 4 - 1).arrangement == (1, 2)
    assert cut_tiles(picture(84, 50), config(), 7 * 4 - 1).arrangement == (1, 2)
    assert cut_tiles(picture(84, 50), config(), 3 * 4 - 1).arrangement == (1, 1)


def test_shuffle_joins_squares_row_by_row():
    x = mx.arange(2 * 16).reshape(2, 16, 1)
    joined = shuffle(x, 4, 4, 2)
    assert joined.tolist()[0] == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert joined.tolist()[1][3] == [26, 27, 30, 31]
    assert shuffle(x[:1], 4, 4, 4).tolist() == [[list(range(16))]]


def internvl(hidden, intermediate, heads, kv_heads, layers):
    return {
        "model_type": "internvl", "architectures": ["InternVLForConditionalGeneration"], "downsample_ratio": 0.5,
        "image_seq_length": 256, "image_token_id": 151667, "projector_hidden_act": "gelu", "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "text_config": {
            "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
            "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": hidden, "intermediate_size": intermediate,
            "max_position_embeddings": 32768, "max_window_layers": 70, "model_type": "qwen2",
            "num_attention_heads": heads, "num_hidden_layers": layers, "num_key_value_heads": kv_heads,
            "rms_norm_eps": 1e-06, "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
            "rope_theta": 1000000.0, "sliding_window": None, "use_cache": True, "use_sliding_window": False,
            "vocab_size": 151674,
        },
        "vision_config": {
            "architectures": ["InternVisionModel"], "attention_bias": True, "attention_dropout": 0.0,
            "dropout": 0.0, "hidden_act": "gelu", "hidden_size": 1024, "image_size": [448, 448],
            "intermediate_size": 4096, "layer_norm_eps": 1e-06, "layer_scale_init_value": 0.1,
            "model_type": "internvl_vision", "norm_type": "layer_norm", "num_attention_heads": 16, "num_channels": 3,
            "num_hidden_layers": 24, "patch_size": [14, 14], "projection_dropout": 0.0,
            "use_absolute_position_embeddings": True, "use_mask_token": False, "use_mean_pooling": True,
            "use_qk_norm": False,
        },
    }  # fmt: skip


MODELS = {
    "InternVL3-1B-hf": internvl(896, 4864, 14, 2, 24),
    "InternVL3-2B-hf": internvl(1536, 8960, 12, 2, 28),
    "InternVL3-8B-hf": internvl(3584, 18944, 28, 4, 28),
}
PROCESSOR = {
    "crop_to_patches": False, "data_format": "channels_first", "do_convert_rgb": True, "do_normalize": True,
    "do_rescale": True, "do_resize": True, "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "GotOcr2ImageProcessorFast", "image_std": [0.229, 0.224, 0.225], "max_patches": 12,
    "min_patches": 1, "processor_class": "InternVLProcessor", "resample": 3, "rescale_factor": 0.00392156862745098,
    "size": {"height": 448, "width": 448},
}  # fmt: skip


def read(path, config, **processor):
    shutil.copy(BUILT_IN / TOKENIZER, path)
    return detect(config, "config.json").config(Source(path, config, {}, PROCESSOR | processor, {}))


@pytest.mark.parametrize("name", MODELS)
def test_published_models(tmp_path, name):
    found = read(tmp_path, MODELS[name])
    assert found.image.tile_tokens == 256
    page = cut_tiles(picture(2480, 3508), found.image)  # an A4 page at 300 dpi
    assert (page.arrangement, page.tokens) == ((3, 2), 7 * 256)
    assert cut_tiles(picture(2000, 1400), found.image).layout == ("<img>", 7 * 256, "</img>")
    assert (found.vision.side, found.vision.post_norm, found.vision.feature_layers) == (32, False, (-1,))
    assert found.text.rope.scaling.kind == "dynamic"
    assert read(tmp_path, MODELS[name] | {"vision_feature_layer": -4}).vision.feature_layers == (21,)


def test_what_cannot_be_read_is_refused(tmp_path):
    config = MODELS["InternVL3-1B-hf"]
    with pytest.raises(ModelError, match="InternVL3-2B-hf"):
        detect({"model_type": "internvl_chat"}, "config.json")
    with pytest.raises(ConfigError, match="does not fit the tower, which reads tiles of 448 pixels"):
        read(tmp_path, config, size={"height": 384, "width": 384})
    with pytest.raises(ConfigError, match="image_size .* is not a square"):
        read(tmp_path, config | {"vision_config": config["vision_config"] | {"image_size": [448, 224]}})
    with pytest.raises(ConfigError, match="vision_feature_select_strategy 'full' is not supported"):
        read(tmp_path, config | {"vision_feature_select_strategy": "full"})
    with pytest.raises(ConfigError, match="a tower of 24 layers has 25 states"):
        read(tmp_path, config | {"vision_feature_layer": -26})
    with pytest.raises(ConfigError, match=r"downsample_ratio 0.4 is not one over a whole number"):
        read(tmp_path, config | {"downsample_ratio": 0.4})
    with pytest.raises(ConfigError, match="model_type 'internlm2' is not supported"):
        read(tmp_path, config | {"text_config": config["text_config"] | {"model_type": "internlm2"}})


def test_other_words_around_an_image_are_refused(tmp_path):
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({"start_image_token": "<img>", "end_image_token": "</img>"}))
    assert read(tmp_path, MODELS["InternVL3-1B-hf"]).image.markers == "tags"
    file.write_text(json.dumps({"extra_special_tokens": {"end_image_token": "<end>"}}))
    with pytest.raises(ConfigError, match="end_image_token '<end>' is not supported, only '</img>'"):
        read(tmp_path, MODELS["InternVL3-1B-hf"])
