"""Pixels and numbers of visual tokens of the LLaVA families against the Pillow processors of transformers."""

from __future__ import annotations

import numpy as np
import pytest
from families import cases
from families.llava import tiles
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import ask, picture, relative

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import mlx.core as mx  # noqa: E402
from transformers.image_processing_utils import select_best_resolution  # noqa: E402
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil  # noqa: E402
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil  # noqa: E402
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil  # noqa: E402
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor  # noqa: E402
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (  # noqa: E402
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor  # noqa: E402
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil  # noqa: E402

import rave_mlx  # noqa: E402
from parity import golden as reference  # noqa: E402
from rave_mlx.config import ImageConfig, TileConfig  # noqa: E402
from rave_mlx.convert.families import towers  # noqa: E402
from rave_mlx.convert.families.text_defaults import DEFAULTS, with_defaults  # noqa: E402
from rave_mlx.inputs.images.patches import normalised  # noqa: E402
from rave_mlx.inputs.images.tiling import cut_tiles  # noqa: E402
from rave_mlx.inputs.images.tiling.pinpoint_grid import best_size  # noqa: E402
from rave_mlx.inputs.images.tiling.unpad import unpad, visual_tokens  # noqa: E402
from rave_mlx.models.connectors.mlp import scale_features  # noqa: E402

CLIP = {"mean": ImageConfig.mean, "std": ImageConfig.std}
NEXT_SIZES = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
SIDES = (384, 768, 1152, 1536, 1920, 2304)
ONEVISION_SIZES = tuple((height, width) for height in SIDES for width in SIDES)
NEXT = TileConfig(336, 14, 576, plan="pinpoints", pinpoints=NEXT_SIZES, **CLIP)
ONEVISION = TileConfig(384, 14, 729, plan="pinpoints", pinpoints=ONEVISION_SIZES, max_features=9)
SHAPES = {
    "A4": (827, 1169), "wide": (1500, 90), "tall": (70, 900), "tiny": (5, 3), "one pixel": (1, 1), "line": (2000, 1),
    "column": (3, 1500), "odd": (333, 77), "a size itself": (672, 336), "square": (336, 336), "large": (2500, 1601),
}  # fmt: skip
ALL = 1 << 20
"""A budget that leaves nothing out."""


def side(size):
    return {"height": size, "width": size}


SINGLE = {
    "crop": (CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=side(336)), CLIP),
    "pad": (LlavaImageProcessorPil(size={"shortest_edge": 336}, crop_size=side(336), do_pad=True), CLIP),
    "stretch": (SiglipImageProcessorPil(size=side(336)), {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}),
}


@pytest.mark.parametrize("shape", [n for n, s in SHAPES.items() if max(s) <= 200 * min(s)])
@pytest.mark.parametrize("fit", SINGLE)
def test_a_single_tile_equals_the_processor(fit, shape):
    processor, levels = SINGLE[fit]
    image = picture(*SHAPES[shape])
    found = cut_tiles(image, TileConfig(336, 14, 576, fit=fit, **levels))
    expected = processor(image, return_tensors="np")["pixel_values"]
    assert found.grid == (1, 24, 24) and found.layout == (576,)
    assert np.abs(tiles(found, 336) - expected).max() <= 1e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
def test_pinpoint_tiles_equal_the_processor(family, shape):
    image = picture(*SHAPES[shape])
    if family == "llava_next":
        config, processor = NEXT, LlavaNextImageProcessorPil(size={"shortest_edge": 336}, crop_size=side(336))
    else:
        config = ONEVISION
        processor = LlavaOnevisionImageProcessorPil(image_mean=config.mean, image_std=config.std)
    found = cut_tiles(image, config, ALL)
    expected = processor(image, return_tensors="np")
    used = config.tile_size // 14 * 14
    assert tuple(expected["image_sizes"][0]) == found.size[::-1]
    assert found.grid[0] == len(expected["pixel_values"][0])
    shown = tiles(found, used)
    assert np.abs(shown - expected["pixel_values"][0][..., :used, :used]).max() <= 1e-6


def processor_of(config):
    """The processor of transformers that counts, without its tokenizer."""
    kind, pixels = LlavaNextProcessor, LlavaNextImageProcessorPil
    if config.max_features:
        kind, pixels = LlavaOnevisionProcessor, LlavaOnevisionImageProcessorPil
    processor = kind.__new__(kind)
    processor.image_processor = pixels(image_grid_pinpoints=[list(p) for p in config.pinpoints])
    processor.patch_size, processor.num_additional_image_tokens = config.patch_size, 0
    processor.num_image_tokens, processor.vision_aspect_ratio = 729, f"anyres_max_{config.max_features}"
    return processor


COUNTERS = {"llava_next": (NEXT, processor_of(NEXT)), "llava_onevision": (ONEVISION, processor_of(ONEVISION))}


@pytest.mark.parametrize("family", COUNTERS)
@settings(max_examples=300, deadline=None)
@given(width=st.integers(1, 6000), height=st.integers(1, 6000))
def test_the_number_of_visual_tokens_is_the_processors(family, width, height):
    config, processor = COUNTERS[family]
    tile = config.tile_size
    rows, columns = (pixels // tile for pixels in best_size((width, height), config.pinpoints))
    found = visual_tokens(config, unpad((rows, columns), config, (width, height)))
    assert found == processor._get_number_of_features(height, width, tile, tile)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), st.permutations(NEXT_SIZES))
def test_the_best_size_is_the_processors_whatever_the_order(width, height, sizes):
    assert best_size((width, height), sizes) == select_best_resolution((height, width), sizes)


def test_the_prompt_holds_as_many_tokens_as_the_processor_says():
    for config, processor in COUNTERS.values():
        for size in SHAPES.values():
            patches = cut_tiles(Image.new("RGB", size), config, ALL)
            expected = processor._get_number_of_features(size[1], size[0], config.tile_size, config.tile_size)
            assert patches.tokens == expected, size


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 60)] * 4))
def test_features_are_scaled_as_torch_scales_them(sizes):
    height, width, rows, columns = sizes
    x = np.random.default_rng(0).normal(size=(height, width, 5)).astype(np.float32)
    planes = torch.from_numpy(x).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(planes, [rows, columns], mode="bilinear")[0].permute(1, 2, 0).numpy()
    assert np.abs(np.array(scale_features(mx.array(x), rows, columns)) - expected).max() <= 2e-5


@pytest.mark.parametrize("kind", DEFAULTS)
def test_what_a_text_configuration_leaves_out_is_transformers_default(kind):
    config = transformers.AutoConfig.for_model(kind)
    for key, value in with_defaults({}, kind, "").items():
        found = config.rope_parameters[key] if key == "rope_theta" else getattr(config, key, value)
        assert found == (None if key == "sliding_window" and kind.startswith("qwen") else value), key


@pytest.mark.parametrize("kind", towers.DEFAULTS)
def test_what_a_tower_configuration_leaves_out_is_transformers_default(kind):
    config = transformers.AutoConfig.for_model(kind).to_dict()
    assert {key: config[key] for key in towers.DEFAULTS[kind]} == towers.DEFAULTS[kind]


def test_every_level_is_normalised_as_the_processor_does_it():
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    levels = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    expected = processor(Image.fromarray(levels), return_tensors="np")["pixel_values"][0]
    assert np.abs(normalised(NEXT).reshape(3, 16, 16) - expected).max() <= 1e-6


NARROW = {
    "wide": [(400, 20)], "tall": [(20, 400)], "tiny": [(3, 2)], "no row left": [(500, 1)], "no column left": [(1, 500)],
    "one pixel": [(1, 1)], "several": [(90, 31), (44, 44), (1, 200), (132, 40)],
}  # fmt: skip


@pytest.fixture(scope="module", params=["llava", "llava_next", "llava_onevision", "llava_onevision-scaled"])
def models(request, tmp_path_factory):
    """A case, transformers' model of it and ours."""
    case = cases()[request.param]
    model = reference.hf_model(case)
    return case, model, rave_mlx.load(reference.checkpoint(case, model, tmp_path_factory.mktemp("hf")))


@pytest.mark.parametrize("name", NARROW)
def test_logits_for_images_of_unusual_shape(models, name):
    case, model, lmm = models
    if case.name == "llava" and max(max(s) / min(s) for s in NARROW[name]) >= 200:
        pytest.skip("cut out of the middle of a strip")
    prompt = lmm.prepare([ask("Read.", *(picture(*size, seed) for seed, size in enumerate(NARROW[name])))])
    assert relative(lmm.logits(prompt), reference.hf_logits(case, model, [prompt])) <= 1e-5
