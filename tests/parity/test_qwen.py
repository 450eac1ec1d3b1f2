"""Qwen-VL against transformers where logits alone would not tell: positions, image processing, defaults."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from families.qwen2_vl import CONFIG as QWEN2
from families.qwen3_vl import CONFIG as QWEN3
from support import picture

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil  # noqa: E402
from transformers.vision_utils import get_vision_interpolation_indices_and_weights  # noqa: E402

from rave_mlx.config import VisionConfig  # noqa: E402
from rave_mlx.convert.families import qwen, qwen2_5_vl, qwen2_vl, qwen3_vl  # noqa: E402
from rave_mlx.convert.source import Source  # noqa: E402
from rave_mlx.inputs.images.preprocess import cut_patches  # noqa: E402
from rave_mlx.inputs.prompt.positions import rotary_positions  # noqa: E402
from rave_mlx.models.vision.windows import interpolation, plan_windows  # noqa: E402


@pytest.mark.parametrize("merge", [1, 2, 3])
@pytest.mark.parametrize("side", [1, 7, 48])
def test_interpolated_positions_equal(side, merge):
    config = VisionConfig(
        depth=1, hidden_size=8, intermediate_size=8, num_heads=2, patch_size=4, merge_size=merge, position_side=side
    )
    for high, wide in [(1, 1), (1, 5), (3, 2), (7, 16), (24, 24), (31, 65)]:
        grid = (1, high * merge, wide * merge)
        expected = get_vision_interpolation_indices_and_weights(
            torch.tensor([grid]), side, align_corners=True, spatial_merge_size=merge
        )
        found = interpolation(plan_windows(grid, config), grid, side)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize(("kind", "config"), [("Qwen2VL", QWEN2), ("Qwen3VL", QWEN3)], ids=["qwen2_vl", "qwen3_vl"])
def test_rotary_positions_equal(kind, config):
    """Prompts of up to four images among words."""
    with torch.device("meta"):
        model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**config))
    rng = random.Random(0)
    for _ in range(20):
        grids = [(1, 2 * rng.randint(1, 9), 2 * rng.randint(1, 9)) for _ in range(rng.randint(1, 4))]
        marks: list[int] = [-1] * rng.randint(0, 5)
        for index, (_, rows, columns) in enumerate(grids):
            marks += [index] * (rows * columns // 4) + [-1] * rng.randint(1, 6)
        image = np.array(marks)
        theirs, _ = model.get_rope_index(
            input_ids=torch.zeros((1, len(image)), dtype=torch.long),
            mm_token_type_ids=torch.tensor(image >= 0).int()[None],
            image_grid_thw=torch.tensor(grids),
        )
        np.testing.assert_array_equal(rotary_positions(image, grids, 2), theirs[:, 0].numpy())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"min_pixels": 3136, "max_pixels": 50_000},
        {"size": {"shortest_edge": 65_536, "longest_edge": 1 << 20}, "patch_size": 16, "image_mean": [0.5] * 3},
        {"size": {"shortest_edge": 3136, "longest_edge": 1 << 20}, "max_pixels": 50_000, "resample": 2},
    ],
)
@pytest.mark.parametrize("size", [(40, 30), (333, 77), (501, 400)])
def test_image_processing_equals(settings, size, tmp_path):
    """What the settings mean, as they were given and as transformers writes them."""
    processor = Qwen2VLImageProcessorPil(**settings)
    expected = processor(picture(*size), return_tensors="np")
    tower = VisionConfig(
        depth=1, hidden_size=8, intermediate_size=8, num_heads=2, patch_size=settings.get("patch_size", 14)
    )
    processor.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    for found in (settings | {"image_processor_type": "Qwen2VLImageProcessor"}, written):
        source = Source(path=tmp_path, config={}, generation={}, processor=found, tensors={})
        patches = cut_patches(picture(*size), qwen.read_images(source, tower))
        assert patches.grid == tuple(expected["image_grid_thw"][0])
        np.testing.assert_array_equal(patches.pixels, expected["pixel_values"])


@pytest.mark.parametrize(
    ("kind", "text", "vision"),
    [
        ("Qwen2VL", qwen.QWEN2_TEXT, qwen2_vl.VISION),
        ("Qwen2_5_VL", qwen.QWEN2_TEXT, qwen2_5_vl.VISION),
        ("Qwen3VL", qwen3_vl.TEXT, qwen3_vl.VISION),
    ],
)
def test_defaults_are_those_of_the_classes(kind, text, vision):
    for part, defaults in (("Text", text), ("Vision", vision)):
        module = getattr(transformers.models, kind.lower().replace("2vl", "2_vl").replace("3vl", "3_vl"))
        theirs = getattr(module, f"{kind}{part}Config")
        for name, value in defaults.items():
            found = getattr(theirs, name)
            assert (list(found) if isinstance(found, tuple) else found) == value, (part, name)
