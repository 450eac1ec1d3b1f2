"""Pixels, grids and sizes against the Pillow image processor of transformers."""

import io
import math
import random

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers")
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from rave_mlx.config import ImageConfig
from rave_mlx.inputs.images.preprocess import cut_patches, fit_size, read_patches

CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def theirs(image, config, tokens):
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": config.min_pixels, "longest_edge": tokens * config.cell**2},
        patch_size=config.patch_size,
        merge_size=config.merge_size,
        temporal_patch_size=config.temporal_patch_size,
        image_mean=config.mean,
        image_std=config.std,
        resample=Image.Resampling[config.resample.upper()],
    )
    found = processor(image, return_tensors="np")
    return found["pixel_values"], tuple(found["image_grid_thw"][0].tolist())


def scan(width, height, seed=0):
    """Lines of noise on grey paper: every level, hard edges."""
    rng = np.random.default_rng(seed)
    levels = np.full((height, width, 3), 240, np.uint8)
    levels[::3] = rng.integers(0, 256, (len(range(0, height, 3)), width, 3))
    return Image.fromarray(levels)


def config(patch=14, merge=2, frames=2, numbers=CLIP, resample="bicubic", least=3136):
    return ImageConfig(
        patch_size=patch,
        merge_size=merge,
        temporal_patch_size=frames,
        min_pixels=least,
        max_pixels=12_845_056,
        resample=resample,
        **numbers,
    )


@pytest.mark.parametrize(
    "settings",
    [
        config(),
        config(patch=16, numbers=HALF, least=65_536),
        config(patch=14, merge=1, frames=1),
        config(resample="bilinear"),
        config(resample="lanczos", numbers=HALF),
    ],
)
@pytest.mark.parametrize("size", [(280, 140), (1, 1), (13, 1900), (640, 481), (1654, 2339)])
def test_patches_equal(settings, size):
    image = scan(*size)
    for tokens in (200, 1280):
        pixels, grid = theirs(image, settings, tokens)
        ours = cut_patches(image, settings, tokens)
        assert ours.grid == grid
        assert ours.pixels.dtype == pixels.dtype
        np.testing.assert_array_equal(ours.pixels, pixels)


def test_patches_equal_at_the_limit_of_the_model():
    image = scan(2480, 3508)  # A4 at 300 dpi
    pixels, grid = theirs(image, config(), 12_845_056 // 784)
    ours = cut_patches(image, config(), 12_845_056 // 784)
    assert ours.grid == grid
    np.testing.assert_array_equal(ours.pixels, pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_eight_bit_mode_equals(mode):
    image = scan(120, 90)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image = image.convert(mode)
    pixels, grid = theirs(image, config(), 1280)
    ours = read_patches(image, config())
    assert ours.grid == grid
    np.testing.assert_array_equal(ours.pixels, pixels)


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("JPEG", "RGB", {"quality": 80}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "P", {"transparency": 3}),
        ("PNG", "L", {"transparency": 240}),
        ("PNG", "RGB", {"transparency": (240, 240, 240)}),
        ("GIF", "P", {"transparency": 3}),
        ("TIFF", "CMYK", {"compression": "tiff_lzw"}),
        ("TIFF", "1", {"compression": "group4"}),
        ("WEBP", "RGBA", {"quality": 70}),
    ],
)
def test_files_equal(form, mode, options):
    file = io.BytesIO()
    scan(120, 90).convert(mode).save(file, form, **options)
    pixels, grid = theirs(Image.open(file), config(), 1280)
    ours = read_patches(file.getvalue(), config())
    assert ours.grid == grid
    np.testing.assert_array_equal(ours.pixels, pixels)


@pytest.mark.parametrize(("patch", "least"), [(14, 3136), (16, 65_536), (14, 100 * 784)])
def test_sizes_equal(patch, least):
    settings = config(patch=patch, least=least)
    rng = random.Random(patch + least)
    compared = 0
    for _ in range(20_000):
        width, height = (round(math.exp(rng.uniform(0, math.log(12_000)))) for _ in range(2))
        tokens = rng.choice([256, 1280, 4096, 16_384])
        if max(width, height) > 200 * min(width, height):
            continue
        expected = smart_resize(height, width, settings.cell, least, tokens * settings.cell**2)
        assert fit_size(width, height, settings, tokens) == expected[::-1], (width, height, tokens)
        compared += 1
    assert compared > 15_000
