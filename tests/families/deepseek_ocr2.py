"""DeepSeek-OCR 2: views of two sizes, learned queries in an encoder, experts beside an MLP without a gate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from families import CONVERSATIONS, Case

SAM = {
    "model_type": "deepseek_ocr2_sam_vision_model", "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_channels": 3, "image_size": 208, "patch_size": 4, "hidden_act": "gelu",
    "layer_norm_eps": 1e-6, "qkv_bias": True, "mlp_ratio": 2.5, "use_abs_pos": True, "use_rel_pos": True,
    "window_size": 5, "global_attn_indexes": [1], "downsample_channels": [24, 48],
}  # fmt: skip
ENCODER = {
    "model_type": "deepseek_ocr2_encoder", "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-6, "vocab_size": 8,
    "max_position_embeddings": 1024, "use_sliding_window": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}  # fmt: skip
VISION = {"model_type": "deepseek_ocr2_vision", "sam_config": SAM, "encoder_config": ENCODER}
TEXT = {
    "model_type": "deepseek_ocr2_text", "vocab_size": 288, "hidden_size": 64, "intermediate_size": 80,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "hidden_act": "silu",
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0,
    "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False, "n_routed_experts": 6,
    "n_shared_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "routed_scaling_factor": 1.0,
    "topk_method": "greedy", "n_group": 1, "topk_group": 1, "mlp_layer_types": ["dense", "sparse", "sparse"],
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip
CONFIG = {
    "architectures": ["DeepseekOcr2ForConditionalGeneration"], "model_type": "deepseek_ocr2", "image_token_id": 272,
    "tie_word_embeddings": False, "text_config": TEXT, "vision_config": VISION,
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "DeepseekOcr2ImageProcessor", "do_resize": True, "size": {"height": 208, "width": 208},
    "tile_size": 100, "crop_to_patches": True, "min_patches": 2, "max_patches": 3, "resample": 3, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True, "do_convert_rgb": True, "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3, "background_color": [127, 127, 127],
}  # fmt: skip


def views(image, patch):
    """The tiles and the view of the whole image (n, 3, side, side), from their patches."""
    tiles, rows, columns = image.grid
    first = tiles * rows * columns
    side = round((len(image.pixels) - first) ** 0.5)
    found = []
    for count, across, pixels in ((tiles, rows, image.pixels[:first]), (1, side, image.pixels[first:])):
        cut = pixels.reshape(count, across, across, 3, patch, patch).transpose(0, 3, 1, 4, 2, 5)
        found.append(cut.reshape(count, 3, across * patch, across * patch))
    return found


def hf_inputs(prompts, patch=4):
    """Views of all images, and how many tiles each has."""
    cut = [views(image, patch) for prompt in prompts for image in prompt.images]
    if not cut:
        return {}
    inputs = {"pixel_values": np.concatenate([whole for _, whole in cut])}
    if any(len(tiles) for tiles, _ in cut):
        inputs["pixel_values_local"] = np.concatenate([tiles for tiles, _ in cut])
        inputs["num_local_patches"] = np.array([len(tiles) for tiles, _ in cut])
    return inputs


PLAIN = Case(
    "deepseek_ocr2-large", CONFIG, PROCESSOR, image_text="<image>\n", special=("<image>",), hf_inputs=hf_inputs,
    conversations=("one image", "text"),
)  # fmt: skip
"""A view of the whole image with so many features that it is read with more queries; large, so seldom."""
GROUPED = CONFIG | {
    "tie_word_embeddings": True,
    "text_config": TEXT | {
        "tie_word_embeddings": True, "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True,
        "n_routed_experts": 12, "num_experts_per_tok": 3, "n_shared_experts": 1, "moe_intermediate_size": 24,
        "routed_scaling_factor": 2.5, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2,
        "mlp_layer_types": ["sparse", "dense", "sparse"], "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "vision_config": VISION | {
        "sam_config": SAM | {
            "image_size": 72, "patch_size": 8, "window_size": 0, "global_attn_indexes": [], "use_abs_pos": False,
            "qkv_bias": False, "num_attention_heads": 4, "mlp_dim": 60, "layer_norm_eps": 1e-5,
        },
        "encoder_config": ENCODER | {
            "num_key_value_heads": 4, "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
        },
    },
}  # fmt: skip
"""Tied, biases everywhere, experts in groups, every view of few features, distances scaled up and down."""
CASES = [
    PLAIN,
    replace(
        PLAIN,
        name="deepseek_ocr2",
        config=GROUPED,
        processor=PROCESSOR | {
            "size": {"height": 88, "width": 88}, "tile_size": 128, "max_patches": 2, "background_color": [0, 200, 64]
        },
        hf_inputs=lambda prompts: hf_inputs(prompts, 8),
        conversations=tuple(CONVERSATIONS),
    ),
]  # fmt: skip
