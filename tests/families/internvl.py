"""InternVL: three text backbones, and the variants of its tower."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from families import Case
from families.idefics3 import TEXT as LLAMA
from families.idefics3 import tiles

VISION = {
    "model_type": "internvl_vision", "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3,
    "num_attention_heads": 3, "image_size": [28, 28], "patch_size": [7, 7], "layer_scale_init_value": 0.1,
}  # fmt: skip
QWEN2 = LLAMA | {"model_type": "qwen2"}
CONFIG = {
    "architectures": ["InternVLForConditionalGeneration"], "model_type": "internvl", "image_token_id": 274,
    "image_seq_length": 4, "downsample_ratio": 0.5, "tie_word_embeddings": False, "vision_feature_layer": -1,
    "text_config": QWEN2, "vision_config": VISION | {"attention_bias": True},
}  # fmt: skip
PROCESSOR = {
    "size": {"height": 28, "width": 28}, "min_patches": 1, "max_patches": 6, "crop_to_patches": False,
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip


def hf_inputs(prompts):
    """Tiles of all images."""
    found = [tiles(image, 28) for prompt in prompts for image in prompt.images]
    return {"pixel_values": np.concatenate(found)} if found else {}


def old(config):
    """The configuration as transformers 4 wrote it: without what its classes default to."""
    text = dict(config["text_config"])
    text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
    rest = {k: v for k, v in config.items() if k not in ("downsample_ratio", "tie_word_embeddings", "text_config")}
    return {**rest, "text_config": text}


def old_name(name):
    """A parameter's name in transformers 4."""
    name = name.replace("model.language_model.", "model.language_model.model.")
    return name.replace("lm_head.", "language_model.lm_head.").removeprefix("model.")


PLAIN = Case(
    "internvl",
    CONFIG,
    PROCESSOR,
    image_text="<IMG_CONTEXT>\n",
    special=("<img>", "</img>", "<IMG_CONTEXT>"),
    hf_inputs=hf_inputs,
    old_config=old(CONFIG),
    old_name=old_name,
)
NORMED = CONFIG | {
    "tie_word_embeddings": True,
    "text_config": QWEN2 | {"model_type": "qwen3", "tie_word_embeddings": True},
    "vision_config": VISION | {"norm_type": "rms_norm", "use_qk_norm": True, "use_mean_pooling": False},
}
EARLIER = CONFIG | {"vision_feature_layer": -2, "text_config": LLAMA, "projector_hidden_act": "gelu_pytorch_tanh"}
CASES = [
    PLAIN,
    replace(PLAIN, name="internvl-normed", config=NORMED, old_config=old(NORMED)),
    replace(PLAIN, name="internvl-llama", config=EARLIER, old_config=old(EARLIER)),
]
