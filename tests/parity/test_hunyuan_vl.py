"""HunyuanOCR against transformers where logits alone would not tell, and what is published of it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from families.hunyuan_vl import CONFIG, PLAIN, PROCESSOR, old_name
from families.paddleocr_vl import raster
from mlx.utils import tree_flatten
from support import picture
from tokenizers import Tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from transformers.models.hunyuan_vl.image_processing_pil_hunyuan_vl import HunYuanVLImageProcessorPil  # noqa: E402
from transformers.models.hunyuan_vl.processing_hunyuan_vl import HunYuanVLProcessor  # noqa: E402

import rave_mlx  # noqa: E402
from rave_mlx.checkpoint.directory import BUILT_IN  # noqa: E402
from rave_mlx.config import VisionConfig  # noqa: E402
from rave_mlx.convert.families import detect, hunyuan_vl  # noqa: E402
from rave_mlx.convert.source import Source  # noqa: E402
from rave_mlx.errors import ConfigError  # noqa: E402
from rave_mlx.inputs.images.preprocess import cut_patches  # noqa: E402
from rave_mlx.inputs.images.token_boxes import locate_tokens  # noqa: E402
from rave_mlx.models.connectors import build_connector  # noqa: E402
from rave_mlx.models.decoder import Decoder  # noqa: E402
from rave_mlx.models.vision import build_tower  # noqa: E402

PUBLISHED = {
    "model_type": "hunyuan_vl", "attention_bias": False, "attention_head_dim": 128, "bos_token_id": 120000,
    "eod_token_id": 120020, "eos_token_id": [120007, 120020], "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 1024, "image_token_id": 120120, "intermediate_size": 3584, "max_position_embeddings": 32768,
    "mlp_bias": False, "norm_type": "rms", "num_attention_heads": 16, "num_experts": 1, "num_hidden_layers": 24,
    "num_key_value_heads": 8, "org_vocab_size": 120818, "pad_id": 120002, "pad_token_id": -1, "rms_norm_eps": 1e-05,
    "rope_scaling": {"alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0,
                     "mscale_all_dim": 1.0, "type": "xdrope", "xdrope_section": [16, 16, 16, 16]},
    "rope_theta": 10000.0, "tie_word_embeddings": True, "use_cla": False, "use_qk_norm": True, "vocab_size": 120818,
    "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27, "intermediate_size": 4304, "patch_size": 16,
                      "num_attention_heads": 16, "max_image_size": 2048, "out_hidden_size": 1024},
}  # fmt: skip
"""The decoder of tencent/HunyuanOCR; of its tower, sizes that are the defaults of its class."""
PUBLISHED_PROCESSOR = {
    "min_pixels": 262144, "max_pixels": 4194304, "patch_size": 16, "resample": 1, "temporal_patch_size": 1,
    "merge_size": 2, "image_processor_type": "HunYuanVLImageProcessor",
}  # fmt: skip


def read(config, processor):
    source = Source(path=BUILT_IN, config=config, generation={}, processor=processor, tensors={})
    return detect(config, "config.json").config(source)


def theirs(config):
    return transformers.HunYuanVLConfig(**json.loads(json.dumps(config)))


def test_the_published_model_has_the_weights_of_transformers():
    config = read(PUBLISHED, PUBLISHED_PROCESSOR)
    parts = [Decoder(config), build_tower(config.vision), build_connector(config.connector, config.vision)]
    with torch.device("meta"):
        model = transformers.HunYuanVLForConditionalGeneration(theirs(PUBLISHED))
    found = sum(a.size for part in parts for _, a in tree_flatten(part.parameters()))
    assert found == sum(p.numel() for p in model.parameters()) == 996_208_112
    assert (config.text.rope.sections, config.text.rope.axes) == ((16, 16, 16, 16), "page")
    turns = model.model.language_model.rotary_emb.compute_ntk_alpha_rope_parameters(theirs(PUBLISHED).text_config)[0]
    np.testing.assert_allclose(config.text.rope.theta ** (-np.arange(64) / 64), turns.numpy(), rtol=1e-5)
    assert (config.vision.position_side, config.image.max_pixels, config.image.resample) == (128, 4194304, "bicubic")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"min_pixels": 1000, "max_pixels": 50_000, "resample": 1},
        {"size": {"shortest_edge": 65_536, "longest_edge": 1 << 20}, "patch_size": 14, "image_mean": [0.5] * 3},
    ],
)
@pytest.mark.parametrize("size", [(40, 30), (333, 77), (501, 400), (1, 1), (14, 800)])
def test_image_processing_equals(settings, size, tmp_path):
    processor = HunYuanVLImageProcessorPil(**settings)
    expected = processor(picture(*size), return_tensors="np")
    tower = VisionConfig(
        depth=1, hidden_size=8, intermediate_size=8, num_heads=2, patch_size=settings.get("patch_size", 16),
        temporal_patch_size=1,
    )  # fmt: skip
    processor.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    for found in (settings | {"image_processor_type": "HunYuanVLImageProcessor"}, written):
        source = Source(path=tmp_path, config={}, generation={}, processor=found, tensors={})
        patches = cut_patches(picture(*size), hunyuan_vl._images(source, tower))
        assert patches.grid == tuple(expected["image_grid_thw"][0])
        pixels = raster(patches).reshape(expected["pixel_values"].shape)
        np.testing.assert_array_equal(pixels, expected["pixel_values"])


@pytest.mark.parametrize("name", ["hunyuan_vl", "hunyuan_vl-untied"])
def test_ids_positions_and_places(name, tmp_path):
    """Ids with what the processor writes for an image, positions of `get_rope_index`, and where tokens lie."""
    case = cases()[name]
    folder = write_checkpoint(case, tmp_path / "hf")
    lmm, tokenizer = rave_mlx.load(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    merge, axes = case.processor["merge_size"], len(lmm.config.text.rope.sections)
    written = SimpleNamespace(merge_size=merge, spatial_patch_size=1)
    processor = SimpleNamespace(image_processor=written, image_token="<|image_pad|>", cat_extra_token=True)
    with torch.device("meta"):
        model = transformers.HunYuanVLModel(theirs(case.config))
    for conversation in case.conversations:
        prompt = lmm.prepare(CONVERSATIONS[conversation])
        grids = {"image_grid_thw": np.array([image.grid for image in prompt.images])}
        first, *rest = lmm.template.render(CONVERSATIONS[conversation], add_generation_prompt=True).split(
            "<|image_pad|>"
        )
        spans = [HunYuanVLProcessor.replace_image_token(processor, grids, i) for i in range(len(rest))]
        whole = first + "".join(span + after for span, after in zip(spans, rest, strict=True))
        assert tokenizer.encode(whole, add_special_tokens=False).ids == prompt.ids[0].tolist()
        expected, _ = model.get_rope_index(
            input_ids=torch.from_numpy(prompt.ids).long(),
            mm_token_type_ids=torch.tensor(prompt.token_map.visual).int()[None],
            image_grid_thw=torch.tensor(grids["image_grid_thw"]) if prompt.images else None,
        )
        np.testing.assert_array_equal(prompt.token_map.positions[-axes:], expected[:, 0].numpy())
        for image in prompt.images:
            boxes = locate_tokens(image, lmm.config.image, lmm.config.connector).boxes
            shown = np.isfinite(boxes).all(axis=1)
            lines = shown[1:-1].reshape(image.grid[1] // merge, -1)
            assert not shown[[0, -1]].any() and lines[:, :-1].all() and not lines[:, -1].any()
            assert np.nanmax(boxes, axis=0)[2:].tolist() == list(image.size)


def test_defaults_are_those_of_the_classes():
    for part, defaults in (("Text", hunyuan_vl.TEXT), ("Vision", hunyuan_vl.VISION)):
        found = getattr(transformers.models.hunyuan_vl, f"HunYuanVL{part}Config")
        assert {name: getattr(found, name) for name in defaults} == defaults


@pytest.mark.parametrize("ties", [(a, b) for a in (None, True, False) for b in (None, True, False)])
@pytest.mark.parametrize("flat", [True, False], ids=["flat", "nested"])
def test_ties_are_those_of_transformers(flat, ties):
    outer, inner = ({} if tie is None else {"tie_word_embeddings": tie} for tie in ties)
    config = {k: v for k, v in CONFIG.items() if k != "tie_word_embeddings"}
    text = {k: v for k, v in config.pop("text_config").items() if k != "tie_word_embeddings"}
    config |= ({**text, "model_type": "hunyuan_vl"} if flat else {"text_config": text | inner}) | outer
    assert read(config, PROCESSOR).text.tie_embeddings == theirs(config).tie_word_embeddings


ROPE = CONFIG["text_config"]["rope_parameters"]


@pytest.mark.parametrize(
    ("section", "change", "error"),
    [
        ("vision_config", {"hidden_act": "relu"}, "hidden_act 'relu' is not one of"),
        ("vision_config", {"interpolate_mode": "nearest"}, "interpolate_mode 'nearest' is not one of"),
        ("vision_config", {"num_channels": 1}, "num_channels 1 is not supported"),
        ("vision_config", {"temporal_patch_size": 2}, "temporal_patch_size 2 is not supported"),
        ("vision_config", {"max_image_size": 4}, "max_image_size is smaller than patch_size"),
        ("vision_config", {"num_attention_heads": 4}, "must split over 4 heads"),
        ("text_config", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("text_config", {"head_dim": None}, "head_dim is missing"),
        ("text_config", {"attention_head_dim": 8}, "attention_head_dim 8 contradicts head_dim 16"),
        ("text_config", {"num_experts": 4}, "num_experts 4 is not supported"),
        ("text_config", {"use_cla": True}, "use_cla True is not supported"),
        ("text_config", {"rope_parameters": ROPE | {"mrope_section": None}}, "one mrope_section is needed"),
        ("text_config", {"rope_parameters": ROPE | {"mrope_section": [4, 4]}}, "three sections or more"),
        ("text_config", {"rope_parameters": ROPE | {"mrope_section": [2, 2, 2, 1]}}, "must add up to head_dim / 2"),
        ("text_config", {"rope_parameters": ROPE | {"mrope_section": [2.5, 2, 2, 1.5]}}, "whole numbers"),
        ("text_config", {"rope_parameters": ROPE | {"rope_type": "spiral", "type": "spiral"}}, "'spiral' is not one"),
    ],
)  # fmt: skip
def test_what_is_not_implemented_is_refused(section, change, error):
    with pytest.raises(ConfigError, match=error):
        read(CONFIG | {section: CONFIG[section] | change}, PROCESSOR)


def test_names_of_mlx_vlm(tmp_path):
    """Its prefixes before the names of the model's own code, and its convolutions with channels last."""
    plain = rave_mlx.load(write_checkpoint(PLAIN, tmp_path / "hf"))
    folder = write_checkpoint(PLAIN, tmp_path / "mlx")
    file = str(folder / "model.safetensors")
    tensors = {}
    for name, x in dict(mx.load(file)).items():
        own = old_name(name)
        ours = own.replace("vit.", "vision_tower.") if own.startswith("vit.") else f"language_model.{own}"
        tensors[ours] = x.moveaxis(1, -1) if x.ndim > 3 else x
    mx.save_safetensors(file, tensors, metadata={"format": "mlx"})
    prompt = plain.prepare(CONVERSATIONS["one image"])
    assert (np.array(rave_mlx.load(folder).logits(prompt)) == np.array(plain.logits(prompt))).all()
