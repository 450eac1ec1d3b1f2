"""Gemma 3: images whose tokens see each other, sliding windows with rotary positions of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from families import Case
from families.llava import old_name, tiles

BOI, EOI, IMAGE = 272, 273, 274
TEXT = {
    "model_type": "gemma3_text", "vocab_size": 280, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24,
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
    "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0, "attention_bias": False, "query_pre_attn_scalar": 24,
    "sliding_window": 7, "tie_word_embeddings": True,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
}  # fmt: skip
VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 3, "image_size": 48, "patch_size": 8, "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6, "num_channels": 3, "vision_use_head": False,
}  # fmt: skip
CONFIG = {
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "boi_token_index": BOI,
    "eoi_token_index": EOI, "image_token_index": IMAGE, "mm_tokens_per_image": 9, "tie_word_embeddings": True,
    "text_config": TEXT, "vision_config": VISION,
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "Gemma3ImageProcessor", "processor_class": "Gemma3Processor", "do_resize": True,
    "size": {"height": 48, "width": 48}, "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "do_convert_rgb": None, "do_pan_and_scan": None, "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5], "image_seq_length": 9, "pan_and_scan_max_num_crops": None,
    "pan_and_scan_min_crop_size": None, "pan_and_scan_min_ratio_to_activate": None,
}  # fmt: skip


def inputs_of(size):
    """Every image as one tile, and which tokens are of an image."""

    def hf_inputs(prompts):
        images = [image for prompt in prompts for image in prompt.images]
        length = max(map(len, prompts))
        visual = np.stack([np.pad(p.token_map.visual, (length - len(p), 0)) for p in prompts])
        shown = {"pixel_values": np.concatenate([tiles(image, size) for image in images])} if images else {}
        return shown | {"token_type_ids": visual.astype(np.int64)}

    return hf_inputs


def older(config, pattern=None):
    """The configuration as transformers 4 wrote it: a pattern instead of a list of layers, older rotary keys."""
    text = dict(config["text_config"])
    rope = text.pop("rope_parameters")
    full = dict(rope["full_attention"])
    text |= {"rope_theta": full.pop("rope_theta"), "rope_local_base_freq": rope["sliding_attention"]["rope_theta"]}
    text["rope_scaling"] = full if full["rope_type"] != "default" else None
    if pattern is not None:
        text.pop("layer_types")
        text["sliding_window_pattern"] = pattern
    return {k: v for k, v in config.items() if k != "tie_word_embeddings"} | {"text_config": text}


PLAIN = Case(
    "gemma3",
    CONFIG,
    PROCESSOR,
    image_text="<start_of_image>",
    special=("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    hf_inputs=inputs_of(48),
    old_config=older(CONFIG),
    old_name=old_name,
)
OTHER = CONFIG | {
    "tie_word_embeddings": False, "mm_tokens_per_image": 4,
    "text_config": TEXT | {
        "tie_word_embeddings": False, "head_dim": 16, "query_pre_attn_scalar": 42, "num_key_value_heads": 1,
        "attention_bias": True, "sliding_window": 3, "rms_norm_eps": 1e-5,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
        },
    },
    "vision_config": VISION | {"image_size": 44, "layer_norm_eps": 1e-5},
}  # fmt: skip
"""A head of its own, biases, scores scaled by another number, windows shorter than an image, patches left over."""
ALONE = {
    **TEXT, "architectures": ["Gemma3ForCausalLM"], "vocab_size": 272, "num_hidden_layers": 7, "layer_types": None,
}  # fmt: skip
CASES = [
    PLAIN,
    replace(
        PLAIN,
        name="gemma3-untied",
        config=OTHER,
        image_text="<boi>",
        special=("<boi>", "<eoi>", "<soft>"),
        processor=PROCESSOR | {"size": {"height": 44, "width": 44}, "image_seq_length": 4},
        hf_inputs=inputs_of(44),
        old_config=older(OTHER, 2) | {"tie_word_embeddings": False},
    ),
    Case("gemma3-text", {k: v for k, v in ALONE.items() if k != "layer_types"}, conversations=("text",)),
]
