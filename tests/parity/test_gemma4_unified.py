"""Gemma 4's unified models against transformers where logits alone would not tell, and what is refused."""

from __future__ import annotations

import copy
import json

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from families.gemma4 import PROCESSOR, UNIFIED, raster
from mlx.utils import tree_flatten
from support import picture, relative

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil  # noqa: E402

import rave_mlx  # noqa: E402
from parity.test_gemma4 import read  # noqa: E402
from rave_mlx.attention import decoder_mask  # noqa: E402
from rave_mlx.convert.families import gemma4_unified  # noqa: E402
from rave_mlx.errors import ConfigError  # noqa: E402
from rave_mlx.generation.prefill import prefill  # noqa: E402
from rave_mlx.inputs.images.preprocess import cut_patches  # noqa: E402
from rave_mlx.inputs.prompt.positions import image_spans  # noqa: E402
from rave_mlx.models.connectors import build_connector  # noqa: E402
from rave_mlx.models.decoder import Decoder  # noqa: E402
from rave_mlx.models.vision import build_tower  # noqa: E402

SMALL = PROCESSOR | {"patch_size": 3, "pooling_kernel_size": 2}


@pytest.mark.parametrize("size", [(60, 42), (200, 120), (333, 77), (600, 5), (1, 1)])
def test_pixels_equal(size):
    """Those of Gemma4ImageProcessorPil for patches as large as a token; the class itself needs torchvision."""
    processor = Gemma4ImageProcessorPil(patch_size=6, pooling_kernel_size=1, max_soft_tokens=70)
    expected = processor(picture(*size), return_tensors="np")
    found = cut_patches(picture(*size), read(UNIFIED, SMALL).image)
    pixels, places = raster(found, 1, 6, scaled=False)
    assert len(pixels) == expected["num_soft_tokens_per_image"][0] == found.tokens
    np.testing.assert_array_equal(places, expected["image_position_ids"][0, : len(pixels)])
    np.testing.assert_allclose(pixels, expected["pixel_values"][0, : len(pixels)], rtol=0, atol=6e-8)


def test_masks_are_those_of_transformers():
    """An image of 4 tokens under windows of 2 and 5: it is seen as a whole by its own tokens, in all layers."""
    visual = np.array([[0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0]], bool)
    spans = mx.array(image_spans(np.where(visual[0], 0, -1).astype(np.int32), whole=True))[None]
    made = transformers.models.gemma4_unified.modeling_gemma4_unified
    for window in (2, 5):
        config = transformers.Gemma4UnifiedTextConfig(
            **copy.deepcopy(UNIFIED["text_config"] | {"sliding_window": window})
        )
        config._attn_implementation = "eager"
        blocks = made.get_block_sequence_ids_for_mask(torch.tensor(visual).int(), "cpu")
        theirs = made.create_masks_for_generate(
            config, torch.zeros(1, 12, 64), torch.ones(1, 12).int(), None, torch.arange(12)[None],
            block_sequence_ids=blocks,
        )  # fmt: skip
        for kind, limit in (("full_attention", None), ("sliding_attention", window)):
            ours = decoder_mask(12, 12, window=limit, lookahead=spans, beyond_window=True)
            assert (np.array(ours)[0, 0] == (theirs[kind] == 0).numpy()[0, 0]).all(), (kind, window)


@pytest.mark.parametrize("chunk", [2, 11, 100])
def test_chunks_never_divide_an_image(chunk, tmp_path):
    lmm = rave_mlx.load(write_checkpoint(cases()["gemma4_unified"], tmp_path / "hf"))
    prompt = lmm.prepare(CONVERSATIONS["two images, two turns"])
    whole = lmm.logits(prompt)[:, -1]
    assert relative(prefill(lmm, prompt, lmm.make_cache(), chunk=chunk), whole) <= 1e-5


def test_the_class_by_its_defaults():
    """Every default, and transformers' own count of parameters for them."""
    for name, value in gemma4_unified.TEXT.items():
        assert getattr(transformers.Gemma4UnifiedTextConfig, name) == value, name
    for name, value in gemma4_unified.VISION.items():
        assert getattr(transformers.Gemma4UnifiedVisionConfig, name) == value, name
    hub = {
        "model_type": "gemma4_unified", "vision_config": {"model_type": "gemma4_unified_vision"},
        "text_config": {"model_type": "gemma4_unified_text"},
    }  # fmt: skip
    config = read(hub, {})
    assert config.mask == "whole" and config.image.max_pixels == 280 * 48**2
    parts = [Decoder(config), build_tower(config.vision), build_connector(config.connector, config.vision)]
    ours = sum(a.size for part in parts for n, a in tree_flatten(part.parameters()) if not n.endswith("out_scale"))
    with torch.device("meta"):
        theirs = transformers.Gemma4UnifiedForConditionalGeneration(transformers.Gemma4UnifiedConfig(**hub))
    assert ours == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(
    ("section", "changes", "named"),
    [
        ("text_config", {"model_type": "gemma4_text"}, "model_type 'gemma4_text'"),
        ("text_config", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention 'all'"),
        ("vision_config", {"model_type": "gemma4_vision"}, "model_type 'gemma4_vision'"),
        ("vision_config", {"output_proj_dims": 48}, "output_proj_dims 48"),
        ("vision_config", {"model_patch_size": 48}, "model_patch_size 48"),
        ("vision_config", {"patch_size": 4}, "patch_size 3 is not the tower's 4"),
    ],
)
def test_what_is_not_supported_is_named(section, changes, named):
    with pytest.raises(ConfigError) as caught:
        read(json.loads(json.dumps(UNIFIED | {section: UNIFIED[section] | changes})), SMALL)
    assert named in str(caught.value) and "\n" not in str(caught.value)
