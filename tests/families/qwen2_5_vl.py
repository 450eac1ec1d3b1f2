"""Qwen2.5-VL."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from families import Case

TEXT = {
    "model_type": "qwen2_5_vl_text", "vocab_size": 272, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    "bos_token_id": None, "eos_token_id": 2, "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "mrope_section": [2, 2, 4]},
}  # fmt: skip
VISION = {
    "model_type": "qwen2_5_vl_vision", "depth": 4, "hidden_size": 48, "intermediate_size": 64, "num_heads": 3,
    "patch_size": 8, "window_size": 64, "fullatt_block_indexes": [1, 3], "out_hidden_size": 64, "hidden_act": "silu",
}  # fmt: skip
CONFIG = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "image_token_id": 6,
    "video_token_id": 7, "vision_start_token_id": 3, "vision_end_token_id": 4, "tie_word_embeddings": False,
    "text_config": TEXT, "vision_config": VISION,
}  # fmt: skip
PROCESSOR = {
    "patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": 256, "max_pixels": 1 << 18,
    "image_mean": [0.4, 0.5, 0.6], "image_std": [0.3, 0.25, 0.2],
}  # fmt: skip


def hf_inputs(prompts):
    """Patches and grids of all images; which ids are images."""
    images = [image for prompt in prompts for image in prompt.images]
    if not images:
        return {}
    return {
        "pixel_values": np.concatenate([image.pixels for image in images]),
        "image_grid_thw": np.array([image.grid for image in images]),
    }


def flat(config):
    """The configuration as transformers 4 wrote it."""
    text = dict(config["text_config"])
    rope = text.pop("rope_parameters")
    text.pop("model_type")
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    rest = {k: v for k, v in config.items() if k != "text_config"}
    return {**text, **rest, "rope_theta": rope["rope_theta"], "rope_scaling": scaling}


def old_name(name):
    """A parameter's name in transformers 4."""
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


PLAIN = Case(
    "qwen2_5_vl",
    CONFIG,
    PROCESSOR,
    image_text="<|vision_start|><|image_pad|><|vision_end|>",
    hf_inputs=hf_inputs,
    old_config=flat(CONFIG),
    old_name=old_name,
)
TIED = CONFIG | {
    "tie_word_embeddings": True,
    "text_config": TEXT | {"num_key_value_heads": 4, "tie_word_embeddings": True},
}
CASES = [PLAIN, replace(PLAIN, name="qwen2_5_vl-tied", config=TIED, old_config=flat(TIED))]
