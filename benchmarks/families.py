"""A random model of every family, in the families' published shapes scaled down: 88 M parameters in 14 decoder layers
of width 768 and embeddings of 32,000 words (25 M, twice where they are not tied), behind a tower of four layers.

Configurations go through the converter's own translation; weights are drawn in memory, nothing is downloaded. The
tokenizer is the built-in model's with the family's control tokens. A page takes 576 visual tokens at native resolution
and as a tile of LLaVA 1.5, 144 in AKI, 640 to 845 where it is cut into tiles.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from rave_mlx import backend
from rave_mlx.checkpoint import build as building
from rave_mlx.checkpoint.directory import BUILT_IN
from rave_mlx.config import LMMConfig
from rave_mlx.convert.families import detect
from rave_mlx.convert.source import Source
from rave_mlx.models.lmm import LMM

Keys = dict[str, Any]
_FIRST_ADDED = 272
"""The built-in tokenizer's own tokens end here."""


@dataclass(frozen=True)
class Shape:
    """One family.

    Attributes:
        config: config.json.
        page: width and height of the page in pixels.
        processor: preprocessor_config.json.
        image: what the chat template writes for an image.
        special: control tokens added to the tokenizer.
    """

    config: Keys
    page: tuple[int, int]
    processor: Keys
    image: str
    special: tuple[str, ...] = ()


def _text(kind: str, **more: Any) -> Keys:
    """A decoder of the common shape, as config.json has it."""
    rope = {"rope_type": "default", "rope_theta": 1000000.0, **more.pop("rope", {})}
    return {"model_type": kind, "vocab_size": 32000, "hidden_size": 768, "intermediate_size": 2048,
            "num_hidden_layers": 14, "num_attention_heads": 12, "num_key_value_heads": 4,
            "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "eos_token_id": 31999, "bos_token_id": 1,
            "rope_parameters": rope, **more}  # fmt: skip


def _tower(kind: str, image: int, patch: int, **more: Any) -> Keys:
    """A vision tower of the common shape, as config.json has it."""
    return {"model_type": kind, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 4,
            "num_attention_heads": 6, "image_size": image, "patch_size": patch, **more}  # fmt: skip


_MROPE = {"mrope_section": [8, 12, 12]}
_QWEN_IDS = {"image_token_id": 6, "video_token_id": 7, "vision_start_token_id": 3, "vision_end_token_id": 4,
             "tie_word_embeddings": True}  # fmt: skip
_QWEN_TOWER = {"depth": 4, "num_heads": 6, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
_QWEN_IMAGES = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": 3136,
                "max_pixels": 1 << 20}  # fmt: skip
_QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_LLAVA = {"image_token_index": _FIRST_ADDED, "projector_hidden_act": "gelu", "tie_word_embeddings": False}
_LLAVA_TEXT = _text("llama", num_key_value_heads=12)
_CLIP = {"vision_config": _tower("clip_vision_model", 336, 14, projection_dim=384), "vision_feature_layer": -2,
         "vision_feature_select_strategy": "default"}  # fmt: skip
_LLAVA_SPECIAL = ("<image>", "<video>")
_PINPOINTS = {"image_grid_pinpoints": [[168 * r, 168 * c] for r in (1, 2, 3) for c in (1, 2, 3)]}
_IDEFICS_SPECIAL = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")
_PHI_TEXT = {
    k: v for k, v in _text("phi3", original_max_position_embeddings=4096).items() if k != "rope_parameters"
} | {
    "rope_theta": 10000.0,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 32, "long_factor": [2.0] * 32},
}
_SMALL_TILE = {"size": {"height": 168, "width": 168}}

SHAPES: dict[str, Shape] = {
    "Qwen2-VL": Shape(
        _QWEN_IDS | {"model_type": "qwen2_vl", "text_config": _text("qwen2_vl_text", rope=_MROPE),
                     "vision_config": _QWEN_TOWER | {"model_type": "qwen2_vl", "embed_dim": 384, "hidden_size": 768,
                                                     "mlp_ratio": 4, "hidden_act": "quick_gelu"}},
        (672, 672), _QWEN_IMAGES, _QWEN_IMAGE,
    ),
    "Qwen2.5-VL": Shape(
        _QWEN_IDS | {"model_type": "qwen2_5_vl", "text_config": _text("qwen2_5_vl_text", rope=_MROPE),
                     "vision_config": _QWEN_TOWER | {"model_type": "qwen2_5_vl", "hidden_size": 384,
                                                     "intermediate_size": 1024, "window_size": 112,
                                                     "fullatt_block_indexes": [1, 3], "out_hidden_size": 768,
                                                     "hidden_act": "silu"}},
        (672, 672), _QWEN_IMAGES, _QWEN_IMAGE,
    ),
    "Qwen3-VL": Shape(
        _QWEN_IDS | {"model_type": "qwen3_vl",
                     "text_config": _text("qwen3_vl_text", head_dim=64, attention_bias=False,
                                          rope={"mrope_section": [12, 10, 10], "mrope_interleaved": True}),
                     "vision_config": _QWEN_TOWER | {"model_type": "qwen3_vl", "patch_size": 16, "hidden_size": 384,
                                                     "intermediate_size": 1024, "out_hidden_size": 768,
                                                     "num_position_embeddings": 2304,
                                                     "deepstack_visual_indexes": [0, 1, 2],
                                                     "hidden_act": "gelu_pytorch_tanh"}},
        (768, 768), _QWEN_IMAGES | {"patch_size": 16}, _QWEN_IMAGE,
    ),
    "LLaVA 1.5": Shape(
        _LLAVA | _CLIP | {"model_type": "llava", "text_config": _LLAVA_TEXT, "image_seq_length": 576},
        (672, 672), {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}, "<image>\n",
        _LLAVA_SPECIAL,
    ),
    "LLaVA-NeXT": Shape(
        _LLAVA | _CLIP | _PINPOINTS | {"model_type": "llava_next", "text_config": _text("mistral", sliding_window=None),
                                       "vision_config": _tower("clip_vision_model", 168, 14, projection_dim=384)},
        (336, 336), _PINPOINTS | {"size": {"shortest_edge": 168}, "crop_size": {"height": 168, "width": 168}},
        "<image>\n", _LLAVA_SPECIAL,
    ),
    "LLaVA-OneVision": Shape(
        _LLAVA | _PINPOINTS | {"model_type": "llava_onevision", "text_config": _text("qwen2"),
                               "vision_config": _tower("siglip_vision_model", 168, 14),
                               "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
                               "vision_aspect_ratio": "anyres_max_9"},
        (336, 336), _PINPOINTS | _SMALL_TILE, "<image>\n", _LLAVA_SPECIAL,
    ),
    "Idefics3": Shape(
        {"model_type": "idefics3", "image_token_id": 273, "scale_factor": 2, "tie_word_embeddings": False,
         "text_config": _text("llama", pad_token_id=0), "vision_config": _tower("idefics3_vision", 364, 14)},
        (672, 672), {"size": {"longest_edge": 728}, "max_image_size": {"longest_edge": 364}}, "<image>",
        _IDEFICS_SPECIAL,
    ),
    "SmolVLM": Shape(
        {"model_type": "smolvlm", "image_token_id": 290, "scale_factor": 4, "tie_word_embeddings": True,
         "text_config": _text("llama", pad_token_id=0, tie_word_embeddings=True),
         "vision_config": _tower("smolvlm_vision", 512, 16)},
        (672, 672), {"size": {"longest_edge": 1536}, "max_image_size": {"longest_edge": 512}}, "<image>",
        ("<global-img>", *(f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)), *_IDEFICS_SPECIAL),
    ),
    "InternVL": Shape(
        {"model_type": "internvl", "image_token_id": 274, "image_seq_length": 256, "downsample_ratio": 0.5,
         "tie_word_embeddings": False, "vision_feature_layer": -1, "text_config": _text("qwen2"),
         "vision_config": _tower("internvl_vision", 448, 14, attention_bias=True, layer_scale_init_value=0.1)
         | {"image_size": [448, 448], "patch_size": [14, 14]}},
        (896, 448), {"size": {"height": 448, "width": 448}, "min_patches": 1, "max_patches": 12}, "<IMG_CONTEXT>\n",
        ("<img>", "</img>", "<IMG_CONTEXT>"),
    ),
    "AKI": Shape(
        {"vision_encoder_path": "google/siglip-so400m-patch14-384",
         "lang_model_path": "microsoft/Phi-3.5-mini-instruct", "initial_tokenizer_len": 31998,
         "num_vision_tokens": 144, "text_config": _PHI_TEXT,
         "vision_config": _tower("siglip_vision_model", 384, 14)},
        (672, 672), {}, "<image>",
        ("<s>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>", "<pad>", "<image>", "<|endofchunk|>"),
    ),
}  # fmt: skip
_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant\n{% endif %}"
)


def build(shape: Shape, folder: Path) -> LMM:
    """The model, its tokenizer and configuration written to `folder`."""
    backend.prepare()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = json.loads((BUILT_IN / "tokenizer.json").read_text())
    for index, content in enumerate(shape.special, _FIRST_ADDED):
        flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
        tokenizer["added_tokens"].append({"id": index, "content": content, "special": True, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    source = Source(folder, shape.config, {"eos_token_id": 31999}, shape.processor, {})
    family = detect(shape.config, "config")
    config = LMMConfig.from_dict(family.config(source).to_dict())
    template = family.template or _TEMPLATE.replace("IMAGE", shape.image)
    mx.random.seed(0)
    lmm = building.build(config, folder / "tokenizer.json", template, None)
    mx.eval(lmm.parameters())
    return lmm
