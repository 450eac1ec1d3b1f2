"""Pixtral, mistral3 and LightOnOCR against transformers where logits alone would not tell, and what is published."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from families.pixtral import CELLS, LIGHTON, LLAVA, MISTRAL3, PROCESSOR, picture_of
from mlx.utils import tree_flatten
from support import picture, relative
from tokenizers import Tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from transformers.models.lighton_ocr.processing_lighton_ocr import LightOnOcrProcessor  # noqa: E402
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil  # noqa: E402

import rave_mlx  # noqa: E402
from rave_mlx.chat.transcript import to_image  # noqa: E402
from rave_mlx.checkpoint.directory import BUILT_IN  # noqa: E402
from rave_mlx.config import GridVisionConfig  # noqa: E402
from rave_mlx.convert.families import detect, mistral3, pixtral  # noqa: E402
from rave_mlx.convert.source import Source  # noqa: E402
from rave_mlx.errors import ConfigError  # noqa: E402
from rave_mlx.inputs.images.preprocess import RequestedSize, cut_patches, fit_size  # noqa: E402
from rave_mlx.inputs.images.token_boxes import locate_tokens  # noqa: E402
from rave_mlx.models.connectors import build_connector  # noqa: E402
from rave_mlx.models.decoder import Decoder  # noqa: E402
from rave_mlx.models.rope import Consecutive, consecutive_rotation, text_table  # noqa: E402
from rave_mlx.models.vision import build_tower  # noqa: E402

SIZES = [(40, 30), (333, 77), (501, 400), (96, 96), (97, 95), (15, 300), (1, 1), (190, 1), (17, 900), (1654, 2339)]
TOWER = GridVisionConfig(1, 8, 8, 1, patch_size=8, feature_layers=(1,), merge_size=2)


def read(config, processor):
    source = Source(path=BUILT_IN, config=config, generation={}, processor=processor, tensors={})
    return detect(config, "config.json").config(source)


def image_settings(processor, *, ends=False, tower=TOWER):
    source = Source(path=BUILT_IN, config={}, generation={}, processor=processor, tensors={})
    return pixtral.read_images(source, tower, ends=ends)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"size": {"longest_edge": 700}, "resample": 2},
        {"size": {"height": 50, "width": 300}, "image_mean": [0.5] * 3, "image_std": [0.4, 0.5, 0.6]},
        {"patch_size": {"height": 8, "width": 8}},
        {"patch_size": 24, "resample": 1},
    ],
)
@pytest.mark.parametrize("size", SIZES)
def test_image_processing_equals(changes, size):
    settings = CELLS | changes
    processor = PixtralImageProcessorPil(**{k: v for k, v in settings.items() if k != "image_processor_type"})
    config = image_settings(settings)
    found = cut_patches(picture(*size), config)
    try:
        expected = processor(picture(*size), return_tensors="np")
    except ValueError:
        high, wide = config.max_sides  # nothing is left of its shorter side there
        assert min(size) < max(size[0] / wide, size[1] / high)
        return
    height, width = expected["image_sizes"][0]
    if height < 16 or width < 16:
        return  # no visual token there, one cell here
    assert found.grid == (1, height // 8, width // 8)
    np.testing.assert_array_equal(picture_of(found, 8, 2), expected["pixel_values"][0])
    assert found.tokens == (height // 16) * (width // 16)
    np.testing.assert_array_equal(cut_patches(to_image(found, config), config).pixels, found.pixels)


def written(name, rows, columns):
    """What the processors write for an image of rows and columns of visual tokens (PixtralProcessor needs torchvision,
    so that its rule is spelled out: a break after every row, the end of the image instead of the last one)."""
    if name.startswith("lighton"):
        processor = SimpleNamespace(effective_patch_size=16, image_token="<|image_pad|>")
        sizes = {"image_sizes": [(rows * 16, columns * 16)]}
        return LightOnOcrProcessor.replace_image_token(processor, sizes, 0)
    return "[IMG_BREAK]".join(["[IMG]" * columns] * rows) + "[IMG_END]"


@pytest.mark.parametrize("name", ["pixtral", "mistral3", "mistral3-triple", "lighton_ocr", "lighton_ocr-patches"])
def test_ids_equal(name, tmp_path):
    """The text that the processors put in an image's place, through the tokenizer's own reading of control tokens."""
    case = cases()[name]
    lmm = rave_mlx.load(write_checkpoint(case, tmp_path / "hf"))
    tokenizer, merge = Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json")), lmm.config.image.merge_size
    for conversation in case.conversations:
        prompt = lmm.prepare(CONVERSATIONS[conversation])
        texts = [written(name, image.grid[1] // merge, image.grid[2] // merge) for image in prompt.images]
        template = lmm.template.render(CONVERSATIONS[conversation], add_generation_prompt=True)
        first, *rest = template.split(case.image_text)
        whole = first + "".join(text + after for text, after in zip(texts, rest, strict=True))
        assert tokenizer.encode(whole, add_special_tokens=False).ids == prompt.ids[0].tolist()
        assert prompt.visual_tokens == whole.count(case.image_text)


def test_every_visual_token_has_its_place(tmp_path):
    lmm = rave_mlx.load(write_checkpoint(cases()["mistral3"], tmp_path / "hf"))
    image = lmm.prepare(CONVERSATIONS["odd size"]).images[0]
    boxes = locate_tokens(image, lmm.config.image, lmm.config.connector).boxes
    rows, columns = image.grid[1] // 2, image.grid[2] // 2
    assert len(boxes) == image.tokens == rows * columns
    np.testing.assert_allclose(boxes[columns], [0, 77 / rows, 333 / columns, 2 * 77 / rows])


def test_budgets():
    """Without one an image is as large as it was in training; with one the aspect is kept."""
    settings = image_settings(CELLS | {"size": {"longest_edge": 1540}})
    assert fit_size(2480, 3508, settings) == (1088, 1552)
    for tokens in (1, 7, 100, 1000, 5000):
        width, height = fit_size(2480, 3508, settings, tokens)
        assert width % 16 == height % 16 == 0 and width * height // 256 <= tokens
        if 100 <= tokens <= 1000:
            assert math.isclose(width / height, 2480 / 3508, rel_tol=0.1) and width * height // 256 > 0.85 * tokens
    asked = cut_patches(picture(300, 300), settings, requested=RequestedSize(width=64, height=32))
    assert asked.grid == (1, 4, 8)
    coarse = cut_patches(picture(2000, 2000), settings, requested=RequestedSize(low_detail=True))
    assert 900 <= coarse.tokens <= 1024


MISTRAL_TEXT = {
    "model_type": "mistral", "hidden_size": 5120, "head_dim": 128, "intermediate_size": 14336, "vocab_size": 131072,
    "max_position_embeddings": 1024000, "num_hidden_layers": 40, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
    "rope_theta": 1e9, "sliding_window": None, "num_attention_heads": 32, "eos_token_id": 2, "is_composition": True,
}  # fmt: skip
PIXTRAL_12B = {
    "model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "image_seq_length": 1,
    "image_token_index": 10, "multimodal_projector_bias": True, "projector_hidden_act": "gelu",
    "vision_feature_layer": -1, "vision_feature_select_strategy": "full", "text_config": MISTRAL_TEXT,
    "vision_config": {
        "model_type": "pixtral", "head_dim": 64, "hidden_act": "silu", "image_size": 1024, "is_composition": True,
        "patch_size": 16, "rope_theta": 10000.0, "tie_word_embeddings": False,
    },
}  # fmt: skip
SMALL_24B = {
    "model_type": "mistral3", "architectures": ["Mistral3ForConditionalGeneration"], "image_token_index": 10,
    "multimodal_projector_bias": False, "projector_hidden_act": "gelu", "spatial_merge_size": 2,
    "tie_word_embeddings": False, "vision_feature_layer": -1,
    "text_config": MISTRAL_TEXT | {"intermediate_size": 32768, "max_position_embeddings": 131072},
    "vision_config": {
        "model_type": "pixtral", "attention_dropout": 0.0, "head_dim": 64, "hidden_act": "silu", "hidden_size": 1024,
        "image_size": 1540, "initializer_range": 0.02, "intermediate_size": 4096, "num_attention_heads": 16,
        "num_channels": 3, "num_hidden_layers": 24, "patch_size": 14, "rope_theta": 10000.0,
    },
}  # fmt: skip
LIGHTON_1B = json.loads(transformers.LightOnOcrConfig().to_json_string(use_diff=False))
"""The class's own defaults are the published model."""
LARGE = PROCESSOR | {"size": {"longest_edge": 1540}, "patch_size": {"height": 14, "width": 14}}
PUBLISHED = {
    "Pixtral-12B": (PIXTRAL_12B, PROCESSOR | {"patch_size": 16}, "LlavaForConditionalGeneration"),
    "Mistral-Small-3.1-24B": (SMALL_24B, LARGE, "Mistral3ForConditionalGeneration"),
    "LightOnOCR-1B": (LIGHTON_1B | {"eos_token_id": 2}, LARGE, "LightOnOcrForConditionalGeneration"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_transformers(name):
    hub, processor, kind = PUBLISHED[name]
    config = read(hub, processor)
    parts = [Decoder(config), build_tower(config.vision), build_connector(config.connector, config.vision)]
    ours = sum(a.size for part in parts for _, a in tree_flatten(part.parameters()))
    with torch.device("meta"):
        theirs = getattr(transformers, kind)(transformers.AutoConfig.for_model(**json.loads(json.dumps(hub))))
    assert ours == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("hub", [LLAVA, MISTRAL3, LIGHTON], ids=["llava", "mistral3", "lighton_ocr"])
def test_what_a_tower_leaves_out_is_its_class_default(hub):
    vision = {"model_type": "pixtral"}
    theirs = transformers.AutoConfig.for_model(**json.loads(json.dumps(hub | {"vision_config": vision}))).vision_config
    tower = read(hub | {"vision_config": vision}, PROCESSOR | {"patch_size": 16}).vision
    assert (tower.depth, tower.hidden_size, tower.intermediate_size) == (24, 1024, 4096)
    assert (theirs.num_hidden_layers, theirs.hidden_size, theirs.intermediate_size) == (24, 1024, 4096)
    assert (tower.num_heads, tower.patch_size, tower.activation) == (theirs.num_attention_heads, 16, theirs.hidden_act)
    assert tower.rope_theta == theirs.rope_parameters["rope_theta"]


@pytest.mark.parametrize(
    ("hub", "processor", "named"),
    [
        (MISTRAL3 | {"vision_feature_layer": [0, 1]}, {}, "vision_feature_layer names 2 states"),
        (MISTRAL3 | {"vision_feature_layer": 5}, {}, "5 states"),
        (MISTRAL3 | {"spatial_merge_size": 0}, {}, "spatial_merge_size 0"),
        (MISTRAL3 | {"vision_config": MISTRAL3["vision_config"] | {"head_dim": 16}}, {}, "head_dim 16"),
        (MISTRAL3 | {"vision_config": MISTRAL3["vision_config"] | {"model_type": "siglip"}}, {}, "model_type 'siglip'"),
        (MISTRAL3 | {"vision_config": MISTRAL3["vision_config"] | {"hidden_act": "relu"}}, {}, "hidden_act 'relu'"),
        (MISTRAL3 | {"vision_config": MISTRAL3["vision_config"] | {"patch_size": [8, 7]}}, {}, "patch_size [8, 7]"),
        (MISTRAL3 | {"text_config": MISTRAL3["text_config"] | {"model_type": "mamba"}}, {}, "'mamba' is not supported"),
        (MISTRAL3, {"do_resize": False}, "do_resize False"),
        (MISTRAL3, {"do_center_crop": True}, "do_center_crop True"),
        (MISTRAL3, {"size": {"shortest_edge": 5}}, "height is missing"),
        (LIGHTON, {"patch_size": 12}, "patch_size 12 is not a multiple of the tower's 8"),
        (
            MISTRAL3 | {"text_config": {"model_type": "ministral3", "rope_parameters": {"rope_type": "default"}}}, {},
            "llama_4_scaling_beta is missing",
        ),
        (LLAVA | {"vision_feature_select_strategy": "default"}, {}, "first patch"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(hub, processor, named):
    with pytest.raises(ConfigError) as caught:
        read(hub, PROCESSOR | processor)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_ministral_leaves_out_is_its_class_default():
    theirs = transformers.Ministral3Config()
    ours = read(MISTRAL3 | {"text_config": {"model_type": "ministral3"}}, PROCESSOR).text
    rope = {k: v for k, v in theirs.rope_parameters.items() if k not in ("max_position_embeddings", "type")}
    assert rope | {"rope_type": "yarn"} == mistral3.MINISTRAL_ROPE
    assert (ours.rope.query_growth, ours.rope.query_span, ours.max_positions) == (0.1, 16384, 262144)
    sizes = (ours.hidden_size, ours.intermediate_size, ours.num_layers, ours.num_kv_heads, ours.head_dim)
    assert sizes == (
        theirs.hidden_size, theirs.intermediate_size, theirs.num_hidden_layers, theirs.num_key_value_heads,
        theirs.head_dim,
    )  # fmt: skip
    assert (ours.norm_eps, ours.vocab_size) == (theirs.rms_norm_eps, theirs.vocab_size)


def test_queries_grow_alike_with_a_table_and_without(tmp_path):
    """A GPU turns written tokens without a table."""
    rope = rave_mlx.load(write_checkpoint(cases()["mistral3-ministral"], tmp_path)).config.text.rope
    q, k = (mx.random.normal((2, heads, 9, 24), key=mx.random.key(heads)) for heads in (4, 2))
    for first in ((0, 3), (12, 40)):
        places = Consecutive(first, 9)
        ours = consecutive_rotation(rope, 24, places).apply_both(q, k)
        for mine, table in zip(ours, text_table(rope, 24, places.array()).apply_both(q, k), strict=True):
            assert relative(mine, table) <= 1e-5
