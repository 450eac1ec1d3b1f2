"""Sizes that messages ask for, against what qwen-vl-utils 0.0.14 and the processor of transformers make of them."""

import math

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers")
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from rave_mlx.config import ImageConfig
from rave_mlx.inputs.prompt.parse_messages import read_messages

CONFIG = ImageConfig(patch_size=14, min_pixels=3136, max_pixels=12_845_056)


def smart_resize(height, width, factor, min_pixels=None, max_pixels=None):
    """As in qwen_vl_utils/vision_process.py (Apache License 2.0)."""
    max_pixels = max_pixels if max_pixels is not None else 16384 * factor**2
    min_pixels = min_pixels if min_pixels is not None else 4 * factor**2
    h_bar = max(factor, round(height / factor) * factor)
    w_bar = max(factor, round(width / factor) * factor)
    if h_bar * w_bar > max_pixels:
        beta = math.sqrt((height * width) / max_pixels)
        h_bar = math.floor(height / beta / factor) * factor
        w_bar = math.floor(width / beta / factor) * factor
    elif h_bar * w_bar < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        h_bar = math.ceil(height * beta / factor) * factor
        w_bar = math.ceil(width * beta / factor) * factor
    return h_bar, w_bar


def theirs(image, part):
    """`fetch_image` of qwen-vl-utils, then the image processor with the model's own limits."""
    if "resized_height" in part:
        height, width = smart_resize(part["resized_height"], part["resized_width"], CONFIG.cell)
    else:
        limits = {key: part[key] for key in ("min_pixels", "max_pixels") if key in part}
        height, width = smart_resize(image.height, image.width, CONFIG.cell, **limits)
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": CONFIG.min_pixels, "longest_edge": CONFIG.max_pixels},
        patch_size=CONFIG.patch_size,
        image_mean=CONFIG.mean,
        image_std=CONFIG.std,
    )
    found = processor(image.resize((width, height)), return_tensors="np")
    return found["pixel_values"], tuple(found["image_grid_thw"][0].tolist())


@pytest.mark.parametrize(
    "part",
    [
        {"max_pixels": 50_000},
        {"min_pixels": 200_000},
        {"min_pixels": 50_176, "max_pixels": 50_176},
        {"min_pixels": 4 * 784, "max_pixels": 1_500_000},  # above the default budget of this package
        {"resized_height": 280, "resized_width": 420},
        {"resized_height": 291, "resized_width": 97},
        {"resized_height": 1300, "resized_width": 1200},
        {"resized_height": 100, "resized_width": 100, "max_pixels": 784},  # which is ignored there
        {"resized_height": 20, "resized_width": 500},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(640, 480), (97, 333), (1500, 1400), (30, 20), (10, 500)])
def test_pixels_and_grid(part, size):
    levels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(levels)
    messages = [{"role": "user", "content": [{"type": "image", "image": image, **part}]}]
    patches = read_messages(messages, CONFIG)[0].parts[0].patches
    pixels, grid = theirs(image, part)
    assert patches.grid == grid
    np.testing.assert_array_equal(patches.pixels, pixels)
