"""The plan "split": sizes, budgets, order of tiles, what stands around them; real configurations of Idefics3."""

import shutil

import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from safetensors.numpy import load_file, save_file
from support import picture

import rave_mlx
from rave_mlx.checkpoint.directory import BUILT_IN, TOKENIZER
from rave_mlx.config import TileConfig
from rave_mlx.convert.families import detect
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError, ImageError
from rave_mlx.inputs.images.tiling import cut_tiles
from rave_mlx.inputs.images.tiling.split_grid import arrange, scaled, split

AROUND, WHOLE = "<fake_token_around_image>", "<global-img>"


def config(tile=32, edge=128, *, tokens=4, most=10_000):
    return TileConfig(
        tile_size=tile,
        patch_size=8,
        tile_tokens=tokens,
        plan="split",
        max_tiles=most,
        longest_edge=edge,
        markers="grid",
        resample="lanczos",
    )


@pytest.mark.parametrize(
    ("size", "edge", "expected"),
    [
        ((2480, 3508), 1456, (1030, 1456)),  # 1456 * 2480 / 3508 = 1029.3, made even
        ((3508, 2480), 1456, (1456, 1030)),
        ((7, 5), 1456, (1456, 1040)),
        ((5000, 1), 1456, (1456, 1)),  # 0.29 is cut to 0, which is even, and raised to 1
        ((100, 100), 95, (95, 96)),  # grows beyond an odd edge
        ((100, 50), 5000, (4096, 2048)),  # never above 4096
        ((50, 100), 5000, (2048, 4096)),
    ],
)
def test_the_longest_side_is_brought_to_the_edge(size, edge, expected):
    assert scaled(size, edge) == expected


@pytest.mark.parametrize(
    ("size", "tile", "expected"),
    [((1030, 1456), 364, (4, 3)), ((1456, 1), 364, (1, 4)), ((364, 364), 364, (1, 1)), ((95, 96), 32, (3, 3))],
)
def test_tiles_cover_the_image(size, tile, expected):
    assert arrange(size, tile) == expected


def test_tiles_stand_in_reading_order_before_the_whole_image():
    image = picture(128, 96)
    tiling = split(image, config(), 1000)
    assert (tiling.rows, tiling.columns) == (3, 4)
    assert tiling.overview
    levels = np.asarray(image)
    for index, tile in enumerate(tiling.levels[:-1]):
        row, column = divmod(index, 4)
        np.testing.assert_array_equal(tile, levels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32])
    np.testing.assert_array_equal(tiling.levels[-1], np.asarray(image.resize((32, 32), 1)))


def test_markers_name_rows_and_columns():
    image = cut_tiles(picture(128, 40), config(edge=96))
    assert image.arrangement == (1, 3)
    assert image.layout == (
        f"{AROUND}<row_1_col_1>", 4, f"{AROUND}<row_1_col_2>", 4, f"{AROUND}<row_1_col_3>", 4,
        f"\n\n{AROUND}{WHOLE}", 4, AROUND,
    )  # fmt: skip
    image = cut_tiles(picture(64, 60), config(edge=64))
    assert image.layout == (
        f"{AROUND}<row_1_col_1>", 4, f"{AROUND}<row_1_col_2>", 4,
        f"\n{AROUND}<row_2_col_1>", 4, f"{AROUND}<row_2_col_2>", 4,
        f"\n\n{AROUND}{WHOLE}", 4, AROUND,
    )  # fmt: skip


def test_one_tile_has_the_markers_of_the_whole_image():
    for one in (config(edge=32), config(edge=20), config(most=1)):
        image = cut_tiles(picture(50, 20), one)
        assert image.layout == (f"{AROUND}{WHOLE}", 4, AROUND)
        assert image.grid == (1, 4, 4)


@pytest.mark.parametrize("size", [(2480, 3508), (7, 5), (3000, 20), (1, 900), (333, 333)])
def test_every_budget_is_kept(size):
    image = picture(*size) if max(size) < 1000 else picture(size[0] // 10 or 1, size[1] // 10 or 1)
    counts = []
    for budget in range(4, 80, 3):
        tiles = cut_tiles(image, config(), budget)
        assert tiles.tokens == 4 * tiles.grid[0] <= budget
        counts.append(tiles.tokens)
    assert counts == sorted(counts)
    assert counts[-1] == cut_tiles(image, config(), 10_000).tokens
    assert counts[0] == 4


def test_a_budget_lowers_the_longest_side_by_whole_tiles():
    image = picture(96, 128)
    assert cut_tiles(image, config(), 13 * 4).arrangement == (4, 3)
    assert cut_tiles(image, config(), 13 * 4 - 1).arrangement == (3, 3)  # 96 pixels high, 72 wide
    assert cut_tiles(image, config(), 10 * 4 - 1).arrangement == (2, 2)  # 64 high, 48 wide
    assert cut_tiles(image, config(), 5 * 4 - 1).arrangement == (1, 1)
    with pytest.raises(ImageError, match="needs at least 4"):
        cut_tiles(image, config(), 3)


def test_the_tile_of_a_small_budget_shows_the_image_at_once():
    image = picture(100, 10)
    expected = image.resize((128, 12), 1).resize((32, 32), 1)
    np.testing.assert_array_equal(split(image, config(), 4).levels, np.asarray(expected)[None])


SMOL = {
    "model_type": "idefics3", "image_token_id": 49190, "scale_factor": 4, "tie_word_embeddings": False,
    "text_config": {
        "_name_or_path": "None", "architectures": ["VLlama3ForCausalLM"], "head_dim": 64, "hidden_size": 576,
        "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "model_type": "llama",
        "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3, "pad_token_id": 2,
        "pixel_shuffle_factor": 4, "qk_layer_norms": False, "rms_norm_eps": 1e-05, "rope_interleaved": False,
        "rope_theta": 100000, "torch_dtype": "bfloat16", "use_resampler": False, "vocab_size": 49280,
    },
    "vision_config": {
        "hidden_size": 768, "image_size": 512, "max_image_size": {"longest_edge": 512}, "model_type": "idefics3",
        "num_attention_heads": 12, "patch_size": 16, "size": {"longest_edge": 2048}, "tie_word_embeddings": False,
        "use_base_siglip": True,
    },
    "vocab_size": 49280,
}  # fmt: skip
MEDIUM = SMOL | {
    "text_config": SMOL["text_config"] | {
        "hidden_size": 960, "intermediate_size": 2560, "num_attention_heads": 15, "num_hidden_layers": 32,
        "num_key_value_heads": 5,
    },
}  # fmt: skip
SO400M = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27,
    "patch_size": 14,
}  # fmt: skip
LARGE = {
    "model_type": "smolvlm", "image_token_id": 49190, "scale_factor": 3, "tie_word_embeddings": False,
    "text_config": {
        "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 8192, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 24, "pad_token_id": 2, "rms_norm_eps": 1e-05,
        "rope_theta": 130000, "vocab_size": 49280,
    },
    "vision_config": SO400M | {"image_size": 384, "model_type": "smolvlm_vision"},
}  # fmt: skip
IDEFICS3 = {
    "model_type": "idefics3", "image_token_id": 128257, "scale_factor": 2, "tie_word_embeddings": False,
    "text_config": {
        "bos_token_id": 128000, "eos_token_id": 128001, "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 131072, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "pad_token_id": 128002, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "vocab_size": 128259,
    },
    "vision_config": SO400M | {"image_size": 364, "model_type": "idefics3"},
}  # fmt: skip


def source(path, config, tile, edge, **processor):
    shutil.copy(BUILT_IN / TOKENIZER, path)
    given = {"max_image_size": {"longest_edge": tile}, "size": {"longest_edge": edge}, "resample": 1} | processor
    return Source(path, config, {"eos_token_id": 49279}, given, {})


@pytest.mark.parametrize(
    ("config", "tile", "edge", "tokens", "page"),
    [
        (SMOL, 512, 2048, 64, 832),
        (MEDIUM, 512, 2048, 64, 832),
        (LARGE, 384, 1536, 81, 1053),
        (IDEFICS3, 364, 1456, 169, 2197),
    ],
    ids=["SmolVLM-256M", "SmolVLM-500M", "SmolVLM2-2.2B", "Idefics3-8B-Llama3"],
)
def test_published_models(tmp_path, config, tile, edge, tokens, page):
    found = detect(config, "config.json").config(source(tmp_path, config, tile, edge))
    image = found.image
    assert isinstance(image, TileConfig)
    assert image.tile_tokens == tokens
    tiles = cut_tiles(picture(2480, 3508), image)  # an A4 page at 300 dpi
    assert tiles.arrangement == (4, 3)
    assert tiles.tokens == page
    square = cut_tiles(picture(64, 64), image)
    assert (square.arrangement, square.tokens) == ((4, 4), 17 * tokens)
    whole = source(tmp_path, config, tile, edge, do_image_splitting=False)
    assert cut_tiles(picture(2480, 3508), detect(config, "config.json").config(whole).image).tokens == tokens
    assert found.vision.activation == "gelu_tanh"
    assert found.tokens.stop == (49279,)


def test_what_cannot_be_read_is_refused(tmp_path):
    read = detect(SMOL, "config.json").config
    with pytest.raises(ConfigError, match=r"longest_edge 364 do not fit the tower, which reads 512 pixels"):
        read(source(tmp_path, SMOL, 364, 1456))
    with pytest.raises(ConfigError, match="do_resize False is not supported"):
        read(source(tmp_path, SMOL, 512, 2048, do_resize=False))
    with pytest.raises(ConfigError, match="size: longest_edge is missing"):
        read(source(tmp_path, SMOL, 512, 2048, size={"height": 512, "width": 512}))
    with pytest.raises(ConfigError, match="32 patches a side of a tile cannot be joined 3 by 3"):
        read(source(tmp_path, SMOL | {"scale_factor": 3}, 512, 2048))


@pytest.mark.parametrize("name", ["smolvlm", "internvl"])
def test_checkpoints_of_mlx_packages(tmp_path, name):
    """Their prefixes, and the channels of convolutions last."""
    case = cases()[name]
    lmm = rave_mlx.load(write_checkpoint(case, tmp_path / "torch"))
    folder = write_checkpoint(case, tmp_path / "mlx", old=True)
    weights = load_file(folder / "model.safetensors")
    convolution = next(n for n, w in weights.items() if w.ndim == 4)
    weights[convolution] = np.ascontiguousarray(np.moveaxis(weights[convolution], 1, -1))
    save_file(weights, folder / "model.safetensors", {"format": "mlx"})
    prompt = lmm.prepare(CONVERSATIONS["odd size"])
    np.testing.assert_array_equal(np.array(rave_mlx.load(folder).logits(prompt)), np.array(lmm.logits(prompt)))
